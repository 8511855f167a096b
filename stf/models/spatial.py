"""The parts of the network that look at space: stem, patch merging, and the gates set by the HLL band.

Shapes: B clips, T frames, H and W rows and columns, C channels; channels-last from the stem on.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stf.model_size import STEM_FRAMES, STEM_KERNEL, STEM_STRIDE
from stf.models.dwt_3d import STF3DDWTModule


class Stem(nn.Module):
    """(B, 3, T, H, W) in [0, 1] → (B, T, H/4, W/4, C): 7×7 convolution of stride 4, then 3 frames in time.

    The convolution in time repeats the end frames: zeros there would look like flicker. Norms are per
    position, so nothing depends on the batch.
    """

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(in_channels, dim, STEM_KERNEL, STEM_STRIDE, padding=STEM_KERNEL // 2)
        self.norm1 = nn.LayerNorm(dim)
        self.act = nn.GELU()
        self.temporal = nn.Linear(STEM_FRAMES * dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        with (
            torch.no_grad()
        ):  # what stands still is a hundredfold of what flickers: quarter its first response
            kernels = self.temporal.weight.view(dim, STEM_FRAMES, dim)
            kernels -= 0.75 * kernels.mean(1, keepdim=True)

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        B, _, T = video_BCTHW.shape[:3]
        frames = (4 * video_BCTHW - 2).transpose(1, 2).flatten(0, 1)  # about zero mean and unit spread
        x = self.spatial(frames).unflatten(0, (B, T)).movedim(2, -1)
        x = self.act(self.norm1(x))
        before, after = torch.cat((x[:, :1], x[:, :-1]), 1), torch.cat((x[:, 1:], x[:, -1:]), 1)
        return self.norm2(self.temporal(torch.cat((before, x, after), -1)))


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
