"""What comes before stage 3: stem, patch merging, the gates set by the HLL band, and stages 1 and 2.

Shapes: B clips, T frames, H and W rows and columns, C channels; channels-last from the stem on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stf.config import DCCONV, STFV8Config
from stf.models.dcconv_3d import DCConv3DBlock
from stf.models.dwt_3d import STF3DDWTModule
from stf.models.timm_stages import TimmStages

STEM_KERNEL, STEM_STRIDE, STEM_FRAMES = 7, 4, 3
STEM_RESIDUALS = 3  # log energies that the stem reads per colour and patch
TRAINED_SLOWLY = ("stem", "stage1", "stage2")
# Added to an energy before its logarithm, pixels being in [-2, 2]: 0.2 grey levels, below 8-bit rounding.
QUIET = 1.0e-5
# Of compressed faces, roughly: they bring the maps to the scale of normed features.
RESIDUAL_LOG_MEAN, RESIDUAL_LOG_SPREAD = -7.0, 2.0


@torch.no_grad()
def residual_energies(video_BCTHW: Tensor) -> Tensor:
    """(B, 3, T, H, W) in [0, 1] → (B, T, H/4, W/4, 9): log energies, per colour and 4×4 patch, of three residuals.

    The deviation from the 3×3 mean, the change to the next frame (the last frame repeats the change before it), and
    the change of that deviation; noise residuals as in forensics (Fridrich & Kodovský 2012, "Rich models"). A blend
    shows in their *amplitude*, which a norm over channels removes at every position. In float32 under autocast too;
    the filters are fixed, so no gradient flows to the pixels and nothing is stored for one.
    """
    frames_BTCHW = (4 * video_BCTHW.float()).transpose(1, 2)
    B, T = frames_BTCHW.shape[:2]
    flat = frames_BTCHW.flatten(0, 1)
    local_mean = F.avg_pool2d(F.pad(flat, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    fine_BTCHW = (flat - local_mean).unflatten(0, (B, T))
    residuals = fine_BTCHW, _change(frames_BTCHW), _change(fine_BTCHW)
    energies = [F.avg_pool2d(residual.flatten(0, 1).square(), STEM_STRIDE) for residual in residuals]
    logs = (torch.cat(energies, 1) + QUIET).log()
    return ((logs - RESIDUAL_LOG_MEAN) / RESIDUAL_LOG_SPREAD).unflatten(0, (B, T)).movedim(2, -1)


def _change(x_BTCHW: Tensor) -> Tensor:
    change = x_BTCHW[:, 1:] - x_BTCHW[:, :-1]
    return torch.cat((change, change[:, -1:]), 1)


class Stem(nn.Module):
    """(B, 3, T, H, W) in [0, 1] → (B, T, H/4, W/4, C): 7×7 convolution of stride 4, then 3 frames in time.

    A projection of `residual_energies` is added after the last norm: what the norms remove, the local strength of fine
    detail and of flicker, is where a blend shows. On 96 validation pairs of the sample the AUC after 80
    steps was .70 and .71 (two seeds) with them, .59 without (one seed). The convolution in time repeats the end
    frames: zeros there would look like flicker. Norms are per position, so nothing depends on the batch.
    """

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(in_channels, dim, STEM_KERNEL, STEM_STRIDE, padding=STEM_KERNEL // 2)
        self.norm1 = nn.LayerNorm(dim)
        self.act = nn.GELU()
        self.temporal = nn.Linear(STEM_FRAMES * dim, dim)
        self.residual = nn.Linear(STEM_RESIDUALS * in_channels, dim)
        self.norm2 = nn.LayerNorm(dim)
        # What does not move is a hundred times what flickers: its first response is a quarter.
        with torch.no_grad():
            kernels = self.temporal.weight.view(dim, STEM_FRAMES, dim)
            kernels -= 0.75 * kernels.mean(1, keepdim=True)

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        B, _, T = video_BCTHW.shape[:3]
        # About zero mean and unit spread.
        pixels_BTHWC = (4 * video_BCTHW - 2).permute(0, 2, 3, 4, 1).contiguous()
        # Channels-last, so that what the norms read is contiguous: two thirds of the time of convolution and norm.
        frames = pixels_BTHWC.flatten(0, 1).permute(0, 3, 1, 2)
        x = self.spatial(frames).unflatten(0, (B, T)).movedim(2, -1)
        x = self.act(self.norm1(x))
        before, after = torch.cat((x[:, :1], x[:, :-1]), 1), torch.cat((x[:, 1:], x[:, -1:]), 1)
        x = self.norm2(self.temporal(torch.cat((before, x, after), -1)))
        return x + self.residual(residual_energies(video_BCTHW).to(x.dtype))


class PatchMerging(nn.Module):
    """(B, T, H, W, C) → (B, T, ⌈H/2⌉, ⌈W/2⌉, D): a 2×2 patch's channels, normed and projected.

    An odd side repeats its last row or column.
    """

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.project = nn.Linear(4 * dim, out_dim)

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        x = x_BTHWC
        x = torch.cat((x, x[:, :, -1:]), 2) if x.shape[2] % 2 else x
        x = torch.cat((x, x[:, :, :, -1:]), 3) if x.shape[3] % 2 else x
        patches = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).transpose(3, 4).flatten(4)
        return self.project(self.norm(patches))


class HLLGate(nn.Module):
    """1 + σ(attention) for stages 1 and 2, from the HLL band of the stem's output: flicker weighs features.

    The attention has the band's resolution, half the stem's in t, y and x; a gate is resized to its stage by
    repetition, without being stored at full size.
    """

    def __init__(
        self, stem_dim: int, dwt_channels: int, hidden_dim: int, stage_dims: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.dwt = STF3DDWTModule(stem_dim, dwt_channels)
        self.hidden = nn.Sequential(nn.Linear(dwt_channels, hidden_dim), nn.GELU())
        self.stages = nn.ModuleList(nn.Linear(hidden_dim, dim) for dim in stage_dims)

    def forward(self, stem_BTHWC: Tensor) -> list[Tensor]:
        """One gate per stage, (B, T/2, H/2, W/2, stage dim), each in (1, 2)."""
        hidden = self.hidden(self.dwt.hll(stem_BTHWC).abs())
        return [1 + torch.sigmoid(stage(hidden)) for stage in self.stages]


def apply_gate(x_BTHWC: Tensor, gate_BTHWC: Tensor) -> Tensor:
    """x · gate, the gate repeated along every axis on which x is a whole multiple of it."""
    B, t, h, w, C = gate_BTHWC.shape
    fine = x_BTHWC.reshape(B, t, x_BTHWC.shape[1] // t, h, x_BTHWC.shape[2] // h, w, x_BTHWC.shape[3] // w, C)
    return (fine * gate_BTHWC[:, :, None, :, None, :, None]).view(x_BTHWC.shape)


class DCConvStages(nn.Module):
    """Stem and DCConv stages 1-2, weighted by the gates of the stem's HLL band: F_out = DCConv(F)·(1 + σ(HLL))."""

    def __init__(self, config: STFV8Config, drop_paths: Sequence[float]) -> None:
        super().__init__()
        c, kernel = config, config.dcconv_kernel_length
        rates1, rates2 = drop_paths[: c.stage1_blocks], drop_paths[c.stage1_blocks :]
        self.stem = Stem(c.in_channels, c.stem_dim)
        self.hll_gate = HLLGate(c.stem_dim, c.dwt_channels, c.dwt_hidden_dim, (c.stage1_dim, c.stage2_dim))
        blocks1 = (DCConv3DBlock(c.stage1_dim, kernel, rate) for rate in rates1)
        self.stage1 = nn.Sequential(nn.Linear(c.stem_dim, c.stage1_dim), *blocks1)
        blocks2 = (DCConv3DBlock(c.stage2_dim, kernel, rate) for rate in rates2)
        self.stage2 = nn.Sequential(PatchMerging(c.stage1_dim, c.stage2_dim), *blocks2)

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        """(B, 3, T, H, W) in [0, 1] → stage 2's gated output, (B, T, H/8, W/8, stage2_dim)."""
        stem = self.stem(video_BCTHW)
        gate1, gate2 = self.hll_gate(stem)
        return apply_gate(self.stage2(apply_gate(self.stage1(stem), gate1)), gate2)

    def backbone_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """(name, parameter) of what trains at `backbone_lr_scale`: all but the gate."""
        return ((n, p) for n, p in self.named_parameters() if n.split(".")[0] in TRAINED_SLOWLY)


def build_early_stages(config: STFV8Config, drop_paths: Sequence[float]) -> DCConvStages | TimmStages:
    """The stages of `config.spatial_backbone`; `drop_paths` are the rates of the blocks of stages 1 and 2.

    A timm network comes without weights (timm_stages.py): they are in the checkpoint, or a new network gets them by
    spatial_weights.load_spatial_weights.
    """
    return DCConvStages(config, drop_paths) if config.spatial_backbone == DCCONV else TimmStages(config)
