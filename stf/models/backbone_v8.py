"""STFMambaV8: STFMambaV73 with any of Hydra, Mamer, Wavelet-Selective Scan and adaptive state.

    stage 2 ─┬─ + Wavelet-Selective Scan (8 bands) ── stage 3: n × [Hydra, MLP], Mamer ── stage 4 ── head
             │                                          │
             ├─ HLL statistics ── adaptive state ───────┘  share of the state that is read, per clip
             └─ energies, for the loss

An upgrade replaces entries in a table of parts; parts that phase A also has keep their names, so that its
weights load. Without any flag the network is V7.3's, parameter by parameter.
Shapes: B clips, T frames, H and W rows and columns, C channels, N states.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from stf.config import STFV8Config
from stf.models.adaptive_state import AdaptiveStateGate
from stf.models.backbone_v73 import STFMambaV73
from stf.models.hydra_mixer import Conv1DSequenceMixer, HydraQuasiseparableMixer, PNMamerStage
from stf.models.mamba_blocks import MambaVisionMixer
from stf.models.scan_backends import SsmBackend
from stf.models.wss_module import WaveletSelectiveScan


class AllStatesOpen(nn.Module):
    """In place of an adaptive state: every state is read."""

    def forward(self, bands: dict[str, Tensor]) -> None:
        return None


BASE: dict[str, Any] = {
    "mixer": MambaVisionMixer,
    "use_mamer": False,
    "use_wss": False,
    "state_gate": lambda c: AllStatesOpen(),
}
UPGRADES: dict[str, dict[str, Any]] = {
    "use_hydra": {"mixer": HydraQuasiseparableMixer},
    "use_mamer": {"use_mamer": True},
    "use_wss": {"use_wss": True},
    "use_adaptive_sdim": {"state_gate": lambda c: AdaptiveStateGate(c.d_state)},
}


def parts_of(config: STFV8Config) -> dict[str, Any]:
    """The parts of `config`'s network: BASE, updated by the upgrades that are on."""
    parts = dict(BASE)
    for flag in config.active_flags():
        parts |= UPGRADES.get(flag, {})
    return parts


def mixer_factory(config: STFV8Config, backend: SsmBackend) -> Callable[[], nn.Module]:
    """Makes stage 3's mixers: what the flags select, or the convolution that ssm_backend "conv1d" puts in its place."""
    c = config
    if backend == "conv1d":
        return partial(Conv1DSequenceMixer, c.stage3_dim, c.d_conv, c.ssm_expand)
    return partial(parts_of(c)["mixer"], c.stage3_dim, c.d_state, c.d_conv, c.ssm_expand, backend=backend)


class STFMambaV8(STFMambaV73):
    """The network of any `config`; `backend` as in STFMambaV73."""

    def __init__(self, config: STFV8Config, backend: SsmBackend | None = None) -> None:
        super().__init__(config, backend)
        c, parts = config, parts_of(config)
        self.frequency = WaveletSelectiveScan(
            c.stage2_dim, c.dwt_channels, c.dwt_hidden_dim, parts["use_wss"]
        )
        self.state_gate = parts["state_gate"](c)
        self._needs_bands = c.use_wss or c.use_adaptive_sdim

    @staticmethod
    def _check_flags(config: STFV8Config) -> None:
        """This network supports all of them."""

    @staticmethod
    def _mixing_stage(c: STFV8Config, rates: list[float], backend: SsmBackend) -> nn.Module:
        return PNMamerStage(
            c.stage3_dim,
            c.d_state,
            n_hydra=len(rates) - c.use_mamer,
            n_heads=c.num_heads,
            use_mamer=c.use_mamer,
            mlp_ratio=c.mlp_ratio,
            drop_paths=rates,
            mixer=mixer_factory(c, backend),
        )

    def analyse(self, features_BTHWC: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """(bands, hll_energy, all_band_energy); the bands only where a part reads them."""
        if not self._needs_bands:
            return super().analyse(features_BTHWC)
        return self.energy_dwt.bands_and_energies(self.energy_norm(features_BTHWC))

    @torch.no_grad()
    def open_share(self, video_BCTHW: Tensor) -> Tensor:
        """Share of stage 3's state that is read, (B,), each in (0, 1]; 1 without an adaptive state."""
        open_BN = self.state_gate(self.analyse(self.early(video_BCTHW))[0])
        return video_BCTHW.new_ones(len(video_BCTHW)) if open_BN is None else open_BN.float().mean(1)

    def mix_in_time(self, features_BTHWC: Tensor, bands: dict[str, Tensor]) -> Tensor:
        """Stage 3 on the features with the scan of their bands added, (B, T, H/2, W/2, stage3_dim)."""
        open_BN = self.state_gate(bands)
        x = self.merge3(self.frequency(features_BTHWC, bands)).movedim(1, 3)
        return self.stage3(x, open_BN).movedim(3, 1)
