"""params.yaml → validated dataclasses, once. Nothing below `pipeline` ever sees a dict of settings."""

from __future__ import annotations

import dataclasses
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_type_hints

from stf.errors import ConfigError
from stf.io.limits import MAX_PARAMETERS, out_of_range
from stf.io.params_file import read_params_file
from stf.io.values import coerce, nearest_name, shown
from stf.mixer_size import FEWEST_STATE_SIZES, state_sizes
from stf.model_size import DCCONV, parameters, size_text

Quality = Literal["raw", "c23", "c40"]
Method = Literal["Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures"]
PhaseName = Literal["a", "b"]
ScanBackend = Literal["auto", "torch", "mamba_ssm", "conv1d"]

METHODS: tuple[Method, ...] = get_args(Method)
QUALITIES: tuple[str, ...] = get_args(Quality)
PHASE_A_FLAGS = (
    "use_contrastive_hll",
    "use_compression_aug",
    "use_multiscale_drift",
    "use_hll_normalization",
)
PHASE_B_FLAGS = ("use_hydra", "use_mamer", "use_wss", "use_adaptive_sdim")
FLAGS = PHASE_A_FLAGS + PHASE_B_FLAGS
SectionT = TypeVar("SectionT")
SAMPLE_ROOT = "data/sample"
TREE_FOLDER = "FaceForensics++"  # below data.root
TIMM_PREFIX = "timm:"
_TIMM_NAME = re.compile(
    r"[\w.-]{1,100}", re.ASCII
)  # no "hf-hub:…" or "local-dir:…", which fetch or read elsewhere
MAX_DRIFT_PX = 1000
_DEVICES = re.compile(r"auto|cpu|cuda(:\d{1,3})?", re.ASCII)


def _check_keys(where: str, values: dict[str, Any], known: list[str]) -> None:
    for key in values:
        if key not in known:
            name = shown(key).strip("'")
            near = nearest_name(key, known) if isinstance(key, str) else ""
            raise ConfigError(f'unknown key "{name}" in {where}{near}')


def _section(kind: type[SectionT], where: str, values: Any) -> SectionT:
    if not isinstance(values, dict):
        raise ConfigError(f"{where} is {shown(values)}; it must be a section of key: value lines")
    hints = get_type_hints(kind)
    _check_keys(where, values, list(hints))
    taken = {key: coerce(f"{where}.{key}", value, hints[key]) for key, value in values.items()}
    made = kind(**taken)
    for key, value in taken.items():
        if wrong := out_of_range(key, value):
            raise ConfigError(f"{where}.{key}{wrong}")
    return made


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


@dataclass
class STFV8Config:
    """One network, its loss and its optimizer settings (SPEC section 5).

    Mutable, so call `validate()` after changing a field; everything built from it calls it again.
    Lengths of time are frames, sizes are pixels, widths are channels, money is US dollars. `spatial_weights` is a
    local file with weights for a timm `spatial_backbone`; empty means timm's hub.
    """

    in_channels: int = 3
    num_classes: int = 2
    num_frames: int = 32
    img_size: int = 224
    stem_dim: int = 48
    stage1_dim: int = 96
    stage2_dim: int = 192
    stage3_dim: int = 384
    stage4_dim: int = 384
    stage1_blocks: int = 2
    stage2_blocks: int = 2
    stage3_blocks: int = 4
    stage4_blocks: int = 2
    dwt_channels: int = 64
    dwt_hidden_dim: int = 64
    d_state: int = 16
    d_conv: int = 4
    ssm_expand: int = 2
    num_heads: int = 8
    mlp_ratio: float = 2.0
    dropout: float = 0.3
    drop_path: float = 0.1
    dcconv_kernel_length: int = 9
    ssm_backend: ScanBackend = "auto"
    spatial_backbone: str = DCCONV
    spatial_weights: str = ""
    spatial_frozen: bool = True
    use_contrastive_hll: bool = False
    use_compression_aug: bool = False
    use_multiscale_drift: bool = False
    use_hll_normalization: bool = False
    use_hydra: bool = False
    use_mamer: bool = False
    use_wss: bool = False
    use_adaptive_sdim: bool = False
    lr: float = 5.0e-4
    weight_decay: float = 0.05
    warmup_epochs: int = 5
    min_lr: float = 1.0e-6
    label_smoothing: float = 0.1
    hll_loss_weight: float = 0.1
    hll_loss_margin: float = 1.0
    max_grad_norm: float = 1.0
    grad_accum: int = 2
    amp_dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    cost_per_hour: float = 1.39
    max_budget: float = 5.0
    data_root: str = SAMPLE_ROOT
    num_workers: int = 8
    batch_size: int = 16

    def __post_init__(self) -> None:
        self.validate()

    def validate(self) -> None:
        """Raises ConfigError naming the first field that is of the wrong type, out of range or contradicts another."""
        for name, kind in get_type_hints(type(self)).items():
            setattr(self, name, coerce(name, getattr(self, name), kind))
        positive = [
            f.name for f in dataclasses.fields(self) if f.name.endswith(("_dim", "_blocks", "_channels"))
        ]
        positive += [
            "d_state",
            "d_conv",
            "ssm_expand",
            "num_heads",
            "grad_accum",
            "cost_per_hour",
            "max_budget",
        ]
        positive += ["mlp_ratio", "lr", "max_grad_norm", "hll_loss_margin"]
        for name in positive:
            _require(getattr(self, name) > 0, f"{name} is {getattr(self, name)}; it must be above 0")
        for name in ("weight_decay", "min_lr", "hll_loss_weight", "warmup_epochs", "num_workers"):
            _require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}; it must not be negative")
        for name in ("dropout", "drop_path", "label_smoothing"):
            _require(0 <= getattr(self, name) < 1, f"{name} is {getattr(self, name)}; it must be in [0, 1)")
        _require(self.in_channels == 3, f"in_channels is {self.in_channels}; frames are RGB, so it must be 3")
        _require(self.num_classes == 2, f"num_classes is {self.num_classes}; real and fake make 2")
        even_frames = self.num_frames >= 8 and self.num_frames % 2 == 0
        _require(even_frames, f"num_frames is {self.num_frames}; it must be even and at least 8")
        grid = self.img_size >= 32 and self.img_size % 16 == 0
        _require(grid, f"img_size is {self.img_size}; it must be a multiple of 16, at least 32")
        paired = self.batch_size >= 2 and self.batch_size % 2 == 0
        _require(paired, f"batch_size is {self.batch_size} clips; pairs stay together, so it must be even")
        odd = self.dcconv_kernel_length >= 3 and self.dcconv_kernel_length % 2 == 1
        _require(odd, f"dcconv_kernel_length is {self.dcconv_kernel_length}; it must be odd and at least 3")
        for name in ("stage3_dim", "stage4_dim"):
            fits = getattr(self, name) % self.num_heads == 0
            _require(
                fits,
                f"{name} is {getattr(self, name)}; it must be a multiple of num_heads ({self.num_heads})",
            )
        _require(self.min_lr <= self.lr, f"min_lr ({self.min_lr}) is above lr ({self.lr})")
        for name in get_type_hints(type(self)):
            wrong = out_of_range(name, getattr(self, name))
            _require(not wrong, f"{name}{wrong}")
        self._validate_parts()
        size = sum(parameters(self).values())
        _require(
            size <= MAX_PARAMETERS,
            f"stage1_dim to stage4_dim make a network of {size:.1e} parameters; at most {MAX_PARAMETERS:.0e} are built",
        )

    def _validate_parts(self) -> None:
        spatial, prefix = self.spatial_backbone, TIMM_PREFIX
        named = spatial.startswith(prefix) and _TIMM_NAME.fullmatch(spatial.removeprefix(prefix))
        known = spatial == DCCONV or bool(named)
        _require(
            known,
            f'spatial_backbone is {shown(spatial)}; it must be "{DCCONV}" or "{prefix}" and a timm model\'s name',
        )
        idle = self.spatial_weights and spatial == DCCONV
        _require(not idle, f'spatial_weights is for a timm spatial_backbone; with "{DCCONV}" leave it empty')
        stateless = self.ssm_backend == "conv1d" and self.use_adaptive_sdim
        few = self.use_adaptive_sdim and len(state_sizes(self.d_state)) < FEWEST_STATE_SIZES
        _require(
            not few,
            f"d_state is {self.d_state}; use_adaptive_sdim chooses among {FEWEST_STATE_SIZES} sizes or more",
        )
        _require(
            not stateless,
            'ssm_backend "conv1d" has no state: set use_adaptive_sdim to false or take another backend',
        )

    @classmethod
    def from_params(cls, params: Params | dict[str, Any] | str | Path, phase: PhaseName = "a") -> STFV8Config:
        """The configuration of one phase, from a parsed params.yaml, its dict, or its path."""
        parsed = params if isinstance(params, Params) else Params.load(params)
        if phase not in ("a", "b"):
            raise ConfigError(f'phase is {phase!r}; it must be "a" or "b"')
        names = {f.name for f in dataclasses.fields(cls)}
        values: dict[str, Any] = {"data_root": parsed.data.root}
        places = {"data_root": "data.root"}
        for section in ("model", "training", f"phase_{phase}", "data", "budget", "runtime"):
            found = {k: v for k, v in dataclasses.asdict(getattr(parsed, section)).items() if k in names}
            values |= found
            places |= {name: f"{section}.{name}" for name in found}
        try:
            return cls(**values)
        except ConfigError as error:  # it knows fields; a reader of params.yaml wants sections
            pattern = rf"(?<![\w.'\"])(?:{'|'.join(names)})(?![\w'\"])"
            raise ConfigError(re.sub(pattern, lambda found: places[found[0]], str(error))) from None

    @classmethod
    def from_settings(cls, settings: dict[Any, Any]) -> STFV8Config:
        """The configuration whose fields a checkpoint holds; raises ConfigError in a line that shows none at length."""
        return _section(cls, "config", settings)

    @classmethod
    def phase_a(cls) -> STFV8Config:
        """V7.3's network with contrastive HLL loss, H.264 augmentation, multi-scale drift, HLL normalisation."""
        return cls(**dict.fromkeys(PHASE_A_FLAGS, True))

    @classmethod
    def phase_b(cls) -> STFV8Config:
        """All eight flags, at phase B's learning rate."""
        return cls(**dict.fromkeys(FLAGS, True), lr=1.0e-4)

    @classmethod
    def debug(cls) -> STFV8Config:
        """A tiny network that trains on a CPU in a second: 8 frames of 32 px."""
        dims: dict[str, Any] = {
            "stem_dim": 8,
            "stage1_dim": 8,
            "stage2_dim": 16,
            "stage3_dim": 16,
            "stage4_dim": 16,
        }
        blocks: dict[str, Any] = {
            "stage1_blocks": 1,
            "stage2_blocks": 1,
            "stage3_blocks": 1,
            "stage4_blocks": 1,
        }
        small: dict[str, Any] = {
            "dwt_channels": 8,
            "dwt_hidden_dim": 8,
            "d_state": 4,
            "num_heads": 2,
            "num_frames": 8,
        }
        return cls(**dims, **blocks, **small, img_size=32, batch_size=4, num_workers=0)

    def active_flags(self) -> tuple[str, ...]:
        """The names of the flags that are on, in the order phase A then phase B."""
        return tuple(flag for flag in FLAGS if getattr(self, flag))

    def variant(self) -> str:
        """'V7.3' (no flag), 'V8.0-A' (phase A's four), 'V8.0-B' (all eight), else the flags joined by '+'."""
        flags = self.active_flags()
        names = {(): "V7.3", PHASE_A_FLAGS: "V8.0-A", FLAGS: "V8.0-B"}
        return names.get(flags, "+".join(flag.removeprefix("use_") for flag in flags))

    def describe(self) -> str:
        """Variant, active features, clip, and the network's parameters and multiply-adds per clip, as text."""
        self.validate()
        flags = self.active_flags()
        lines = [
            f"STF-Mamba {self.variant()}",
            f"active features: {', '.join(flags) if flags else 'none'}",
            f"clip: {self.num_frames} frames of {self.img_size}×{self.img_size} px, {self.batch_size} clips a batch",
            size_text(self),
        ]
        return "\n".join(lines)


@dataclass(frozen=True)
class DataParams:
    """Which videos, and how a clip is cut from one (SPEC section 3)."""

    root: str = SAMPLE_ROOT
    quality: Quality = "c23"
    num_frames: int = 32
    img_size: int = 224
    allow_strided: bool = False
    train_pairs_per_video: int = 1
    val_pairs_per_video: int = 1
    max_failure_share: float = 0.1  # of an epoch's pairs whose draws may fail before training stops

    def __post_init__(self) -> None:
        _require(self.root.strip() != "", "data.root is empty; give the folder that holds FaceForensics++/")
        share = self.max_failure_share
        _require(0 <= share <= 1, f"data.max_failure_share is {share}; it must be in [0, 1]")
        for name in ("train_pairs_per_video", "val_pairs_per_video"):
            _require(getattr(self, name) >= 1, f"data.{name} is {getattr(self, name)}; it must be at least 1")


@dataclass(frozen=True)
class SbiParams:
    """Video-SBI's choices that are not fixed by the SBI paper (SPEC section 4). Pixels are at img_size scale."""

    mask_anchor: Literal["first", "tracked"] = "first"
    elastic_on_source: bool = False
    tps_probability: float = 0.3
    drift_step_range: tuple[float, float] = (0.5, 5.0)
    drift_max_cumulative: float = 8.0
    compression_probability: float = 0.5
    compression_qp_range: tuple[int, int] = (23, 40)

    def __post_init__(self) -> None:
        for name in ("tps_probability", "compression_probability"):
            _require(
                0 <= getattr(self, name) <= 1, f"sbi.{name} is {getattr(self, name)}; it must be in [0, 1]"
            )
        low, high = self.drift_step_range
        _require(0 < low <= high, f"sbi.drift_step_range is {low, high}; it must be 0 < low <= high")
        _require(self.drift_max_cumulative > 0, "sbi.drift_max_cumulative must be above 0")
        _require(
            low <= self.drift_max_cumulative,
            f"sbi.drift_step_range begins at {low}, beyond sbi.drift_max_cumulative ({self.drift_max_cumulative})",
        )
        _require(high <= MAX_DRIFT_PX, f"sbi.drift_step_range is {low, high}; at most {MAX_DRIFT_PX} pixels")
        low, high = self.compression_qp_range
        _require(0 <= low <= high <= 51, f"sbi.compression_qp_range is {low, high}; H.264 has QP 0 to 51")


@dataclass(frozen=True)
class AuditParams:
    """The leak audit of verify_data: how many real/fake pairs it draws, and what it tolerates."""

    pairs: int = 240
    auc_tolerance: float = 0.05
    win_rate_tolerance: float = 0.05

    def __post_init__(self) -> None:
        _require(self.pairs >= 200, f"audit.pairs is {self.pairs}; fewer than 200 cannot show a leak of .05")


@dataclass(frozen=True)
class ModelParams:
    """Widths and depths of the network; the meaning of each stands in STFV8Config."""

    stem_dim: int = 48
    stage1_dim: int = 96
    stage2_dim: int = 192
    stage3_dim: int = 384
    stage4_dim: int = 384
    stage1_blocks: int = 2
    stage2_blocks: int = 2
    stage3_blocks: int = 4
    stage4_blocks: int = 2
    dwt_channels: int = 64
    dwt_hidden_dim: int = 64
    d_state: int = 16
    d_conv: int = 4
    ssm_expand: int = 2
    num_heads: int = 8
    mlp_ratio: float = 2.0
    dropout: float = 0.3
    drop_path: float = 0.1
    dcconv_kernel_length: int = 9
    ssm_backend: ScanBackend = "auto"
    spatial_backbone: str = DCCONV
    spatial_weights: str = ""
    spatial_frozen: bool = True


@dataclass(frozen=True)
class TrainingParams:
    """What both phases share in training (SPEC section 7)."""

    batch_size: int = 16
    grad_accum: int = 2
    weight_decay: float = 0.05
    min_lr: float = 1.0e-6
    backbone_lr_scale: float = 0.01
    label_smoothing: float = 0.1
    hll_loss_weight: float = 0.1
    hll_loss_margin: float = 1.0
    max_grad_norm: float = 1.0
    amp_dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    ema_decay: float = 0.0

    def __post_init__(self) -> None:
        _require(
            0 <= self.ema_decay < 1, f"training.ema_decay is {self.ema_decay}; it must be in [0, 1), 0 is off"
        )
        _require(self.backbone_lr_scale > 0, "training.backbone_lr_scale must be above 0")


@dataclass(frozen=True)
class PhaseAParams:
    """Phase A: its length, learning rate and flags."""

    epochs: int = 70
    lr: float = 5.0e-4
    warmup_epochs: int = 5
    use_contrastive_hll: bool = True
    use_compression_aug: bool = True
    use_multiscale_drift: bool = True
    use_hll_normalization: bool = True
    use_hydra: bool = False
    use_mamer: bool = False
    use_wss: bool = False
    use_adaptive_sdim: bool = False


@dataclass(frozen=True)
class PhaseBParams(PhaseAParams):
    """Phase B: fine-tunes phase A; refused below `min_phase_a_auc` on real deepfakes."""

    epochs: int = 50
    lr: float = 1.0e-4
    use_hydra: bool = True
    use_mamer: bool = True
    use_wss: bool = True
    use_adaptive_sdim: bool = True
    min_phase_a_auc: float = 0.70

    def __post_init__(self) -> None:
        _require(0 <= self.min_phase_a_auc <= 1, "phase_b.min_phase_a_auc must be in [0, 1]")


@dataclass(frozen=True)
class BudgetParams:
    """Money in US dollars; `safety_margin` is the share of max_budget that is never spent."""

    cost_per_hour: float = 1.39
    max_budget: float = 5.0
    safety_margin: float = 0.10

    def __post_init__(self) -> None:
        _require(0 <= self.safety_margin < 1, "budget.safety_margin must be in [0, 1)")


@dataclass(frozen=True)
class EvaluationParams:
    """What is scored on real deepfakes, and how (SPEC section 8)."""

    methods: tuple[Method, ...] = METHODS
    clips_per_video: int = 4
    bootstrap_samples: int = 2000

    def __post_init__(self) -> None:
        _require(len(self.methods) > 0, "evaluation.methods is empty; name at least one method")
        twice = len(set(self.methods)) < len(self.methods)
        _require(not twice, f"evaluation.methods names one twice: {', '.join(self.methods)}")
        _require(self.clips_per_video >= 1, "evaluation.clips_per_video must be at least 1")
        _require(self.bootstrap_samples >= 100, "evaluation.bootstrap_samples must be at least 100")


@dataclass(frozen=True)
class RuntimeParams:
    """What changes no result: nobody's DVC dependency."""

    device: str = "auto"
    threads: int = 0
    num_workers: int = 8
    log_every_steps: int = 10
    empty_cache_every: int = 15
    checkpoint_minutes: float = (
        5.0  # at most this much work is done twice after a kill; every epoch is kept anyway
    )
    billing: bool = True
    face_cache: str = ""  # folder of decoded face crops; empty: PNG frames are decoded for every clip
    compile: bool = False  # torch.compile: rounds differently, needs a C++ compiler or a CUDA GPU
    activation_checkpointing: bool = False  # stages 1-4 run twice and keep a quarter or less

    def __post_init__(self) -> None:
        minutes = self.checkpoint_minutes
        known = ["auto", "cpu", "cuda"]
        _require(
            _DEVICES.fullmatch(self.device) is not None,
            f"runtime.device is {shown(self.device)}; it must be one of {', '.join(known)} or cuda:N"
            f"{nearest_name(self.device, known)}",
        )
        _require(minutes > 0, f"runtime.checkpoint_minutes is {minutes}; it must be above 0")


@dataclass(frozen=True)
class Params:
    """The whole of params.yaml."""

    seed: int = 0
    data: DataParams = field(default_factory=DataParams)
    sbi: SbiParams = field(default_factory=SbiParams)
    audit: AuditParams = field(default_factory=AuditParams)
    model: ModelParams = field(default_factory=ModelParams)
    training: TrainingParams = field(default_factory=TrainingParams)
    phase_a: PhaseAParams = field(default_factory=PhaseAParams)
    phase_b: PhaseBParams = field(default_factory=PhaseBParams)
    budget: BudgetParams = field(default_factory=BudgetParams)
    evaluation: EvaluationParams = field(default_factory=EvaluationParams)
    runtime: RuntimeParams = field(default_factory=RuntimeParams)

    @classmethod
    def load(cls, source: str | Path | dict[str, Any]) -> Params:
        """Reads and validates a params.yaml (or its dict); raises ConfigError naming section and key."""
        values = source if isinstance(source, dict) else read_params_file(Path(source))
        hints = get_type_hints(cls)
        _check_keys("params.yaml", values, list(hints))
        sections: dict[str, Any] = {}
        for key, value in values.items():
            is_section = dataclasses.is_dataclass(hints[key])
            sections[key] = _section(hints[key], key, value) if is_section else coerce(key, value, hints[key])
        parsed = cls(**sections)
        wrong = out_of_range("seed", parsed.seed)
        _require(not wrong, f"seed{wrong}")
        for phase in get_args(PhaseName):  # a contradiction in either phase is found before anything is spent
            STFV8Config.from_params(parsed, phase)
        parsed.require_consistent()
        return parsed

    def require_consistent(self) -> None:
        """Raises ConfigError where two values of the file contradict each other.

        Not when an option changes one of them: `--epochs 1` is a short look, whatever the warm-up.
        """
        for name, phase in (("phase_a", self.phase_a), ("phase_b", self.phase_b)):
            _require(
                phase.warmup_epochs <= phase.epochs,
                f"{name}.warmup_epochs is {phase.warmup_epochs}, more than {name}.epochs ({phase.epochs}): the "
                "learning rate would never be reached",
            )
        tree, cache = os.path.join(self.data.root, TREE_FOLDER), self.runtime.face_cache
        inside = cache and Path(os.path.realpath(cache)).is_relative_to(os.path.realpath(tree))
        _require(
            not inside,
            f"runtime.face_cache ({cache}) lies inside the data ({tree}), which would change with it; give a folder "
            "elsewhere",
        )

    def flat(self) -> dict[str, Any]:
        """{'data.root': ..., ...}: one entry per leaf, as MLflow parameters want them."""
        flat: dict[str, Any] = {}
        for section, value in dataclasses.asdict(self).items():
            flat |= (
                {f"{section}.{k}": v for k, v in value.items()}
                if isinstance(value, dict)
                else {section: value}
            )
        return flat
