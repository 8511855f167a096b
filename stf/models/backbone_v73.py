"""STFMambaV73: clip → logits and wavelet energies.

    stem /4 ─── stage 1 /4 ─── stage 2 /8 ─┬─ stage 3 /16 ─── stage 4 /32 ─── head
      │          DCConv  │      DCConv │   │   Mamba along      attention
      └─ HLL gate ───────┴─────────────┘   │   time
                                           └─ energies, for the loss

Time keeps its T frames throughout. Stage 4 merges 2×2 locations first: at full size it attends over
32·7·7 = 1,568 tokens, a sixteenth of the cost of stage 3's 6,272.
Shapes: B clips, T frames, H and W pixels, C channels.

Memory for backward at 32×224×224, batch 16, bfloat16, counted by tests/models/test_memory.py: stem 1.0 GiB, gates
0.2, stages 1 and 2 2.9 and 2.4 (see dcconv_3d.py), stage 3 18.9 (four blocks, in each 16·196·32 rows of 2·768 inner
channels: 154 M numbers, in float32 where the scan reads them), stage 4 0.5: 26.0 GiB of 80 GB, 41.4 in float32; phase
B, whose Hydra has one set of inner channels, 18.7. With activation checkpointing (checkpointing.py) 4.7 and 4.9, and
while a block is differentiated its own up to 4.6 or 2.8 again. Beside that, in all cases: a block of stages 1-2 takes
0.9 GB more while it is differentiated, a scan 2.1 GB (scan.py) and its 2.5 GB of gradients; weights, gradients,
AdamW's two moments and the moving average 0.3 GB. So at most 26.0 + 4.6 + 0.3 = 31 GiB, plus the CUDA context:
calculated, not measured on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from stf.config import PHASE_B_FLAGS, STFV8Config
from stf.errors import ConfigError
from stf.models.dwt_3d import STF3DDWTModule, hll_band, inner
from stf.models.early_stages import PatchMerging, build_early_stages
from stf.models.hydra_mixer import Conv1DSequenceMixer
from stf.models.mamba_blocks import MambaBlock, MambaVisionMixer
from stf.models.scan_backends import SsmBackend, resolve_backend
from stf.models.transformer_blocks import TransformerBlock, position_code

# Sets λ·hll_energy² at initialisation. Features have unit variance, of which an HLL coefficient
# holds 0.03 … 0.1 on clips with a camera's noise and 1 on white noise; 7² times that stays within 0.7 … 70, a
# factor 10 about ce/λ = 7.
ENERGY_GAIN = 7.0


class STFMambaV73(nn.Module):
    """V7.3's network for `config`; raises ConfigError when a flag of V8.0's modules is on.

    `backend` is the scan backend that was chosen for this machine (scan_backends.resolve_backend); None chooses
    for a CPU. The attribute `ssm_backend` holds the choice.
    """

    def __init__(self, config: STFV8Config, backend: SsmBackend | None = None) -> None:
        super().__init__()
        config.validate()
        self._check_flags(config)
        c = config
        self.ssm_backend: SsmBackend = backend or resolve_backend(c.ssm_backend, "cpu")
        rates = drop_path_rates(c)
        n_early, n_late = c.stage1_blocks + c.stage2_blocks, c.stage4_blocks
        self.early = build_early_stages(c, rates[:n_early])
        self.energy_norm = nn.LayerNorm(c.stage2_dim, elementwise_affine=False)
        self.energy_dwt = STF3DDWTModule(c.stage2_dim, c.dwt_channels, gain=ENERGY_GAIN)
        self.merge3 = PatchMerging(c.stage2_dim, c.stage3_dim)
        self.stage3 = self._mixing_stage(c, rates[n_early:-n_late], self.ssm_backend)
        self.merge4 = PatchMerging(c.stage3_dim, c.stage4_dim)
        blocks = (TransformerBlock(c.stage4_dim, c.num_heads, c.mlp_ratio, rate) for rate in rates[-n_late:])
        self.stage4 = nn.Sequential(*blocks)
        self.head_norm = nn.LayerNorm(c.stage4_dim)
        self.head_dropout = nn.Dropout(c.dropout)
        self.head = nn.Linear(2 * c.stage4_dim, c.num_classes)  # of the tokens' mean and maximum
        nn.init.normal_(self.head.weight, std=0.002)  # logits start near 0: a maximum is far from 0 by itself
        nn.init.zeros_(self.head.bias)

    @staticmethod
    def _check_flags(config: STFV8Config) -> None:
        on = ", ".join(flag for flag in config.active_flags() if flag in PHASE_B_FLAGS)
        if on:
            raise ConfigError(f"STFMambaV73 does not support {on}; build STFMambaV8, or set it to false")

    @staticmethod
    def _mixing_stage(c: STFV8Config, rates: list[float], backend: SsmBackend) -> nn.Module:
        """Stage 3: mixes along time at every location, (B, H, W, T, C) → the same."""

        def mixer() -> nn.Module:
            if backend == "conv1d":
                return Conv1DSequenceMixer(c.stage3_dim, c.d_conv, c.ssm_expand)
            return MambaVisionMixer(c.stage3_dim, c.d_state, c.d_conv, c.ssm_expand, backend)

        return nn.Sequential(*(MambaBlock(c.stage3_dim, mixer(), c.mlp_ratio, rate) for rate in rates))

    def analyse(self, features_BTHWC: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """(bands, hll_energy, all_band_energy) of stage 2's features; V7.3 needs the energies alone."""
        return {}, *self.energy_dwt.energies(self.energy_norm(features_BTHWC))

    def mix_in_time(self, features_BTHWC: Tensor, bands: dict[str, Tensor]) -> Tensor:
        """Stage 3 on stage 2's features, (B, T, H/2, W/2, stage3_dim)."""
        return self.stage3(self.merge3(features_BTHWC).movedim(1, 3)).movedim(3, 1)

    def forward(self, video_BCTHW: Tensor) -> dict[str, Tensor]:
        """(B, 3, T, H, W) in [0, 1] → "logits" (B, 2), and in float32 "hll_energy", "all_band_energy" (B,)."""
        features = self.early(video_BCTHW)
        bands, hll_energy, all_band_energy = self.analyse(features)
        x = self.merge4(self.mix_in_time(features, bands))
        x = x + position_code(x.shape[1:4], x.shape[4]).to(x)
        tokens = self.stage4(x.flatten(1, 3))
        normed = self.head_norm(tokens)
        # The maximum beside the mean: a forgery is local, and an average over all of a clip's tokens drowns it.
        pooled = torch.cat((normed.mean(1), normed.amax(1)), dim=1)
        logits = self.head(self.head_dropout(pooled))
        return {"logits": logits, "hll_energy": hll_energy, "all_band_energy": all_band_energy}

    @torch.no_grad()
    def hll_maps(self, video_BCTHW: Tensor) -> Tensor:
        """|HLL| averaged over channels, (B, T/2 - 2, H/16, W/16): a map of where the clip flickers."""
        features = self.energy_norm(self.early(video_BCTHW))
        return inner(hll_band(self.energy_dwt.projection(features))).abs().mean(-1)

    def backbone_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """(name, parameter) of the stem and stages 1-2, which train at `backbone_lr_scale`."""
        return ((f"early.{n}", p) for n, p in self.early.backbone_parameters())

    def temporal_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """(name, parameter) of everything else: wavelet modules, stages 3-4 and head."""
        early = {name for name, _ in self.backbone_parameters()}
        return ((n, p) for n, p in self.named_parameters() if n not in early)

    def no_weight_decay(self) -> set[str]:
        """Names of the state-space parameters (timm's hook): decay would pull them off their time scales."""
        return {n for n, p in self.named_parameters() if getattr(p, "_no_weight_decay", False)}


def drop_path_rates(config: STFV8Config) -> list[float]:
    """Stochastic depth growing linearly from 0 to drop_path over the blocks (Huang et al. 2016)."""
    n = config.stage1_blocks + config.stage2_blocks + config.stage3_blocks + config.stage4_blocks
    return [config.drop_path * i / max(1, n - 1) for i in range(n)]
