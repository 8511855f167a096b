"""params.yaml → validated dataclasses, once. Nothing below `pipeline` ever sees a dict of settings.

A parameter, its range, its unit and its meaning stand here, at its field, and nowhere else. STFV8Config, one network's
flat view of params.yaml, and the sections of params.yaml inherit the fields that both have.
"""

from __future__ import annotations

import dataclasses
import os
import re
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform, get_args, get_type_hints

import pydantic.dataclasses
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationError

from stf.errors import ConfigError
from stf.io.params_file import read_params_file
from stf.io.values import is_plain_text, nearest_name, shown

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
SAMPLE_ROOT = "data/sample"
TREE_FOLDER = "FaceForensics++"  # below data.root
DCCONV = "dcconv"  # the spatial backbone with a stem and stages of our own
TIMM_PREFIX = "timm:"
MIN_ADAPTIVE_STATES = 3  # from here on models.adaptive_state.state_sizes gives three sizes or more
# No "hf-hub:…" or "local-dir:…", which fetch or read elsewhere.
_TIMM_NAME = re.compile(r"[\w.-]{1,100}", re.ASCII)
_DEVICE_NAME = re.compile(r"auto|cpu|cuda(:\d{1,3})?", re.ASCII)
_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)  # text is no number, a bool no integer
T = TypeVar("T")


@dataclass_transform(field_specifiers=(Field,))
def validated(cls: type[T]) -> type[T]:
    """Makes `cls` a frozen pydantic dataclass that raises ConfigError, in one line, for its first wrong value."""
    made: Any = pydantic.dataclasses.dataclass(cls, frozen=True, config=_STRICT)
    checked_init = made.__init__

    @wraps(checked_init)
    def init(self: Any, *args: Any, **values: Any) -> None:
        try:
            checked_init(self, *args, **values)
        except ValidationError as errors:
            raise ConfigError(_in_words(errors.errors(include_url=False)[0], made)) from None

    made.__init__ = init
    return made


def _in_words(error: Any, kind: Any) -> str:
    """pydantic's error as one line: which field, its value, what it must be, and what it means."""
    if not error["loc"]:  # values that contradict each other
        return str(error["ctx"]["error"])
    (name, *indices), value, problem = error["loc"], error["input"], error["type"]
    if problem == "unexpected_keyword_argument":
        return _unknown_key(name, kind.__name__, list(kind.__pydantic_fields__))
    where, hint = name + "".join(f"[{index}]" for index in indices), ""
    must = re.sub(r"^(Input|Tuple|Value error,)( should)?", "it must", error["msg"]).replace("tuple", "list")
    if problem == "missing":  # an entry of a list: `value` is all of it
        where, must = name, f"it must have more than {len(value)}"
    elif problem in ("float_type", "int_type") and isinstance(value, str) and _is_number(value):
        hint = f"; {value[:30]} is text here: write it without quotes and with a dot, as in 1.0e-4"
    elif problem == "literal_error" and isinstance(value, str):
        hint = nearest_name(value, re.findall(r"'([^']*)'", must))
    meaning = kind.__pydantic_fields__[name].description
    return f"{where} is {shown(value)}; {must}{f' ({meaning})' if meaning else ''}{hint}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _unknown_key(key: Any, where: str, known: list[str]) -> str:
    near = nearest_name(key, known) if isinstance(key, str) else ""
    name = shown(key).strip("'")
    return f'unknown key "{name}" in {where}{near}'


def _section(kind: type[T], where: str, values: Any) -> T:
    """`values` as one of the dataclasses below; raises ConfigError naming `where` and the key."""
    if not isinstance(values, dict):
        raise ConfigError(f"{where} is {shown(values)}; it must be a section of key: value lines")
    known = list(get_type_hints(kind))
    for key in values:
        if key not in known:
            raise ConfigError(_unknown_key(key, where, known))
    try:
        return kind(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}.{error}") from None


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


# What a value must be beside its type and range; each returns it, or raises ValueError that continues "it must".


def _plain_text(value: str) -> str:
    if not is_plain_text(value):
        raise ValueError("have at most 1000 characters and no control characters")
    return value


def _not_empty(value: str) -> str:
    if not value.strip():
        raise ValueError("not be empty")
    return value


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError("be odd")
    return value


def _device(value: str) -> str:
    if not _DEVICE_NAME.fullmatch(value):
        hint = nearest_name(value, ["auto", "cpu", "cuda"])
        raise ValueError(f"be one of auto, cpu, cuda or cuda:N{hint}")
    return value


def _spatial_backbone(value: str) -> str:
    is_timm = value.startswith(TIMM_PREFIX) and _TIMM_NAME.fullmatch(value.removeprefix(TIMM_PREFIX))
    if value != DCCONV and not is_timm:
        raise ValueError(f'be "{DCCONV}" or "{TIMM_PREFIX}" and the name of a timm model')
    return value


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _low_to_high(pair: tuple[Any, Any]) -> tuple[Any, Any]:
    if pair[0] > pair[1]:
        raise ValueError("have low <= high")
    return pair


def _each_once(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if not values:
        raise ValueError("name at least one")
    if len(set(values)) < len(values):
        raise ValueError("not name one twice")
    return values


Width = Annotated[int, Field(ge=1, le=8192, description="channels")]
Blocks = Annotated[int, Field(ge=1, le=128, description="blocks")]
Share = Annotated[float, Field(ge=0, le=1, description="a share")]
ShareBelow1 = Annotated[float, Field(ge=0, lt=1, description="a share")]
Tolerance = Annotated[float, Field(ge=0, le=0.5)]
Weight = Annotated[float, Field(ge=0, le=1.0e6)]
# Far too high already, but training itself reports that, at the first loss that is not finite.
LearningRate = Annotated[float, Field(gt=0, le=1.0e30)]
Dollars = Annotated[float, Field(gt=0, le=1.0e9, description="US dollars")]
Count = Annotated[int, Field(ge=1, le=10_000)]
Epochs = Annotated[int, Field(ge=1, le=100_000)]
Text = Annotated[str, AfterValidator(_plain_text)]
Folder = Annotated[Text, AfterValidator(_not_empty)]
DriftPx = Annotated[float, Field(gt=0, le=1000, description="pixels at img_size scale")]
QP = Annotated[int, Field(ge=0, le=51)]


@validated
class ClipFields:
    """Size of a clip."""

    num_frames: Annotated[
        int, Field(ge=8, le=1024, multiple_of=2, description="consecutive frames of a clip")
    ] = 32
    img_size: Annotated[int, Field(ge=32, le=2048, multiple_of=16, description="pixels, square")] = 224


@validated
class ModelParams:
    """Widths and depths of the network, and what its parts are."""

    stem_dim: Width = 48
    stage1_dim: Width = 96
    stage2_dim: Width = 192
    stage3_dim: Width = 384
    stage4_dim: Width = 384
    stage1_blocks: Blocks = 2
    stage2_blocks: Blocks = 2
    stage3_blocks: Blocks = 4
    stage4_blocks: Blocks = 2
    dwt_channels: Width = 64
    dwt_hidden_dim: Width = 64
    d_state: Annotated[int, Field(ge=1, le=4096, description="states of a channel's state-space model")] = 16
    d_conv: Annotated[int, Field(ge=1, le=64, description="frames of the convolution before a scan")] = 4
    ssm_expand: Annotated[int, Field(ge=1, le=16, description="inner width over stage3_dim")] = 2
    num_heads: Annotated[int, Field(ge=1, le=256, description="attention heads")] = 8
    mlp_ratio: Annotated[float, Field(gt=0, le=64, description="hidden width over width")] = 2.0
    dropout: ShareBelow1 = 0.3
    drop_path: ShareBelow1 = 0.1
    dcconv_kernel_length: Annotated[int, Field(ge=3, le=99, description="taps"), AfterValidator(_odd)] = 9
    ssm_backend: ScanBackend = "auto"
    spatial_backbone: Annotated[Text, AfterValidator(_spatial_backbone)] = DCCONV
    spatial_weights: Annotated[Text, Field(description="a file for a timm backbone; empty: timm's hub")] = ""
    spatial_frozen: Annotated[bool, Field(description="whether a timm backbone keeps its weights")] = True


@validated
class LossFields:
    """Loss, batch and optimizer settings that both phases share."""

    batch_size: Annotated[
        int, Field(ge=2, le=65_536, multiple_of=2, description="clips; real and fake of a pair stay together")
    ] = 16
    grad_accum: Annotated[int, Field(ge=1, le=65_536, description="batches per optimizer step")] = 2
    weight_decay: Annotated[float, Field(ge=0, le=100)] = 0.05
    min_lr: Annotated[float, Field(ge=0, le=1.0e30, description="learning rate at the end")] = 1.0e-6
    label_smoothing: ShareBelow1 = 0.1
    hll_loss_weight: Weight = 0.1
    hll_loss_margin: Annotated[float, Field(gt=0, le=1.0e6)] = 1.0
    max_grad_norm: Annotated[float, Field(gt=0, le=1.0e9)] = 1.0
    amp_dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"


@validated
class PhaseFields:
    """Learning rate and flags of a phase."""

    lr: LearningRate = 5.0e-4
    warmup_epochs: Annotated[int, Field(ge=0, le=100_000)] = 5
    use_contrastive_hll: bool = False
    use_compression_aug: bool = False
    use_multiscale_drift: bool = False
    use_hll_normalization: bool = False
    use_hydra: bool = False
    use_mamer: bool = False
    use_wss: bool = False
    use_adaptive_sdim: bool = False


@validated
class PriceFields:
    """What a machine costs, and what may be spent."""

    cost_per_hour: Annotated[Dollars, Field(le=1.0e6, description="US dollars")] = 1.39
    max_budget: Dollars = 5.0


@validated
class WorkerFields:
    """Processes that make clips."""

    num_workers: Annotated[int, Field(ge=0, le=1024, description="processes that make clips")] = 8


@validated
class STFV8Config(ClipFields, ModelParams, LossFields, PhaseFields, PriceFields, WorkerFields):
    """One network, its loss and its optimizer settings.

    Mutable, so call `validate()` after changing a field; everything built from it calls it again.
    """

    in_channels: Annotated[int, Field(ge=3, le=3, description="frames are RGB")] = 3
    num_classes: Annotated[int, Field(ge=2, le=2, description="real and fake")] = 2
    data_root: Text = SAMPLE_ROOT

    def __post_init__(self) -> None:
        for name in ("stage3_dim", "stage4_dim"):
            _require(
                getattr(self, name) % self.num_heads == 0,
                f"{name} is {getattr(self, name)}; it must be a multiple of num_heads ({self.num_heads})",
            )
        _require(self.min_lr <= self.lr, f"min_lr ({self.min_lr}) is above lr ({self.lr}); lower it")
        _require(
            not self.spatial_weights or self.spatial_backbone != DCCONV,
            f'spatial_weights is for a timm spatial_backbone; with "{DCCONV}" leave it empty',
        )
        _require(
            not self.use_adaptive_sdim or self.d_state >= MIN_ADAPTIVE_STATES,
            f"d_state is {self.d_state}; use_adaptive_sdim needs at least {MIN_ADAPTIVE_STATES} states to choose among",
        )
        _require(
            not self.use_adaptive_sdim or self.ssm_backend != "conv1d",
            'ssm_backend "conv1d" has no state: set use_adaptive_sdim to false or choose another backend',
        )

    def validate(self) -> None:
        """Raises ConfigError naming the first field that is of the wrong type, out of range or contradicts another."""
        self.__init__(**vars(self))

    @classmethod
    def from_params(cls, params: Params | dict[str, Any] | str | Path, phase: PhaseName = "a") -> STFV8Config:
        """The configuration of one phase, from a parsed params.yaml, its dict, or its path."""
        parsed = params if isinstance(params, Params) else Params.load(params)
        if phase not in ("a", "b"):
            raise ConfigError(f'phase is {phase!r}; it must be "a" or "b"')
        names = {field.name for field in dataclasses.fields(cls)}
        values: dict[str, Any] = {"data_root": parsed.data.root}
        places = {"data_root": "data.root"}
        for section in ("model", "training", f"phase_{phase}", "data", "budget", "runtime"):
            shared = {k: v for k, v in vars(getattr(parsed, section)).items() if k in names}
            values |= shared
            places |= {name: f"{section}.{name}" for name in shared}
        try:
            return cls(**values)
        except ConfigError as error:  # it names fields; a reader of params.yaml needs their sections too
            pattern = rf"(?<![\w.'\"])(?:{'|'.join(names)})(?![\w'\"])"
            raise ConfigError(re.sub(pattern, lambda match: places[match[0]], str(error))) from None

    @classmethod
    def from_settings(cls, settings: dict[Any, Any]) -> STFV8Config:
        """The configuration whose fields a checkpoint holds; raises ConfigError in one short line."""
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
        return cls(
            stem_dim=8, stage1_dim=8, stage2_dim=16, stage3_dim=16, stage4_dim=16,
            stage1_blocks=1, stage2_blocks=1, stage3_blocks=1, stage4_blocks=1,
            dwt_channels=8, dwt_hidden_dim=8, d_state=4, num_heads=2,
            num_frames=8, img_size=32, batch_size=4, num_workers=0,
        )  # fmt: skip

    def active_flags(self) -> tuple[str, ...]:
        """The names of the flags that are on, in the order phase A then phase B."""
        return tuple(flag for flag in FLAGS if getattr(self, flag))

    def variant(self) -> str:
        """The short name of the flags that are on: 'V7.3', 'A', 'B', or the nearest of them with the differences.

        V7.3 has no flag on, A phase A's four, B all eight. From the base that differs in the fewest flags (of equally
        near ones the first) a flag more is '+name' and a flag less '-name', without 'use_' and in the order of FLAGS:
        'V7.3+contrastive_hll', 'A+wss', 'B-mamer'. Base and differences give the flags back: no two names are equal.
        """
        on, bases = set(self.active_flags()), {"V7.3": (), "A": PHASE_A_FLAGS, "B": FLAGS}
        base = min(bases, key=lambda name: len(on.symmetric_difference(bases[name])))
        changed = [flag for flag in FLAGS if (flag in on) != (flag in bases[base])]
        return base + "".join(("+" if flag in on else "-") + flag.removeprefix("use_") for flag in changed)

    def describe(self) -> str:
        """Variant, active features, clip, and the network's parameters and multiply-adds per clip, as text."""
        # The one import from above: text for people, never part of a result, so verify_data does not depend on it.
        from stf.models.size import size_text

        self.validate()
        flags = self.active_flags()
        lines = [
            f"STF-Mamba {self.variant()}",
            f"active features: {', '.join(flags) if flags else 'none'}",
            f"clip: {self.num_frames} frames of {self.img_size}×{self.img_size} px, {self.batch_size} clips a batch",
            size_text(self),
        ]
        return "\n".join(lines)


# A dataclass cannot be mutable where the fields it inherits are frozen; the author's tests set flags on this one.
STFV8Config.__setattr__ = object.__setattr__
STFV8Config.__delattr__ = object.__delattr__


@validated
class DataParams(ClipFields):
    """Which videos, and how a clip is cut from one."""

    root: Annotated[Folder, Field(description="the folder that holds FaceForensics++/")] = SAMPLE_ROOT
    quality: Quality = "c23"
    allow_strided: bool = False
    train_pairs_per_video: Count = 1
    val_pairs_per_video: Count = 1
    max_failure_share: Annotated[
        Share, Field(description="share of an epoch's pairs whose draws may fail before training stops")
    ] = 0.1


@validated
class SbiParams:
    """Video-SBI's choices that are not fixed by the SBI paper."""

    mask_anchor: Literal["first", "tracked"] = "first"
    elastic_on_source: bool = False
    tps_probability: Share = 0.3
    drift_step_range: Annotated[
        tuple[DriftPx, DriftPx],
        Field(description="pixels at img_size scale, above 0"),
        BeforeValidator(_as_tuple),
        AfterValidator(_low_to_high),
    ] = (0.5, 5.0)
    drift_max_cumulative: DriftPx = 8.0
    compression_probability: Share = 0.5
    compression_qp_range: Annotated[
        tuple[QP, QP],
        Field(description="H.264 has QP 0 to 51"),
        BeforeValidator(_as_tuple),
        AfterValidator(_low_to_high),
    ] = (23, 40)

    def __post_init__(self) -> None:
        low, most = self.drift_step_range[0], self.drift_max_cumulative
        _require(
            low <= most, f"drift_step_range begins at {low}, beyond drift_max_cumulative ({most}); lower it"
        )


@validated
class AuditParams:
    """The leak audit of verify_data: how many real/fake pairs it draws, and what it tolerates."""

    pairs: Annotated[
        int, Field(ge=200, le=1_000_000, description="fewer than 200 cannot show a leak of .05")
    ] = 240
    auc_tolerance: Tolerance = 0.05
    win_rate_tolerance: Tolerance = 0.05


@validated
class TrainingParams(LossFields):
    """What both phases share in training."""

    backbone_lr_scale: Annotated[float, Field(gt=0, le=1000)] = 0.01
    ema_decay: Annotated[ShareBelow1, Field(description="of the moving average of the weights; 0 is off")] = (
        0.0
    )


@validated
class PhaseAParams(PhaseFields):
    """Phase A: its length, learning rate and flags."""

    epochs: Epochs = 70
    use_contrastive_hll: bool = True
    use_compression_aug: bool = True
    use_multiscale_drift: bool = True
    use_hll_normalization: bool = True


@validated
class PhaseBParams(PhaseAParams):
    """Phase B: fine-tunes phase A; refused below `min_phase_a_auc` on real deepfakes."""

    epochs: Epochs = 50
    lr: LearningRate = 1.0e-4
    use_hydra: bool = True
    use_mamer: bool = True
    use_wss: bool = True
    use_adaptive_sdim: bool = True
    min_phase_a_auc: Share = 0.70


@validated
class BudgetParams(PriceFields):
    """Money in US dollars."""

    safety_margin: Annotated[ShareBelow1, Field(description="share of max_budget that is never spent")] = 0.10


@validated
class EvaluationParams:
    """What is scored on real deepfakes, and how."""

    methods: Annotated[tuple[Method, ...], BeforeValidator(_as_tuple), AfterValidator(_each_once)] = METHODS
    clips_per_video: Count = 4
    bootstrap_samples: Annotated[int, Field(ge=100, le=1_000_000)] = 2000


@validated
class RuntimeParams(WorkerFields):
    """What changes no result: nobody's DVC dependency."""

    device: Annotated[Text, AfterValidator(_device)] = "auto"
    threads: Annotated[int, Field(ge=0, le=4096, description="of the CPU; 0: all")] = 0
    log_every_steps: Annotated[int, Field(ge=1, le=1_000_000_000)] = 10
    empty_cache_every: Annotated[int, Field(ge=0, le=1_000_000_000, description="steps; 0: never")] = 15
    checkpoint_minutes: Annotated[
        float, Field(gt=0, le=1.0e6, description="work lost at most by a kill; each epoch is kept anyway")
    ] = 5.0
    billing: bool = True
    face_cache: Annotated[
        Text, Field(description="folder of decoded face crops; empty: PNG frames are decoded for every clip")
    ] = ""
    compile: Annotated[
        bool, Field(description="torch.compile: rounds differently, needs a C++ compiler or a CUDA GPU")
    ] = False
    activation_checkpointing: Annotated[
        bool, Field(description="stages 1-4 run twice and keep a quarter of the memory or less")
    ] = False


@validated
class Params:
    """The whole of params.yaml."""

    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    data: DataParams = DataParams()
    sbi: SbiParams = SbiParams()
    audit: AuditParams = AuditParams()
    model: ModelParams = ModelParams()
    training: TrainingParams = TrainingParams()
    phase_a: PhaseAParams = PhaseAParams()
    phase_b: PhaseBParams = PhaseBParams()
    budget: BudgetParams = BudgetParams()
    evaluation: EvaluationParams = EvaluationParams()
    runtime: RuntimeParams = RuntimeParams()

    @classmethod
    def load(cls, source: str | Path | dict[str, Any]) -> Params:
        """Reads and validates a params.yaml (or its dict); raises ConfigError naming section and key."""
        values = source if isinstance(source, dict) else read_params_file(Path(source))
        kinds = get_type_hints(cls)
        for key in values:
            if key not in kinds:
                raise ConfigError(_unknown_key(key, "params.yaml", list(kinds)))
        sections = {
            key: _section(kinds[key], key, value) if dataclasses.is_dataclass(kinds[key]) else value
            for key, value in values.items()
        }
        parsed = cls(**sections)
        for phase in get_args(
            PhaseName
        ):  # a contradiction in either phase is reported before anything is spent
            STFV8Config.from_params(parsed, phase)
        parsed.require_consistent()
        return parsed

    def require_consistent(self) -> None:
        """Raises ConfigError where two values of the file contradict each other.

        Not called when an option changes one of them: `--epochs 1` is a short look, whatever the warm-up.
        """
        for name, phase in (("phase_a", self.phase_a), ("phase_b", self.phase_b)):
            _require(
                phase.warmup_epochs <= phase.epochs,
                f"{name}.warmup_epochs is {phase.warmup_epochs}, more than {name}.epochs ({phase.epochs}): the "
                "learning rate would never be reached; lower it",
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
