"""Snake-like convolution of a clip: a chain of nine taps along t, y and x, each tap displaced by learned offsets.

After Dynamic Snake Convolution (Qi et al., ICCV 2023, eq. 4-5), with two differences: a tap may move along all three
axes, not only across its kernel's direction, and a tap's matrix is applied before sampling instead of after (the
two commute), so that the backward pass needs no sampled features.

Shapes: B clips, T frames, H and W rows and columns, C channels of the block, S channels of the snake, K taps.
A = 3 axes (t, y, x), each with 2 sides (towards lower, towards higher coordinates) of N = (K-1)/2 taps.

Memory. Nothing of size T·H·W·K·C ever exists: taps are a loop with one sampled tap alive at a time, and the backward
pass makes it again. At 32×224×224, batch 16, stage 1 has P = 16·32·56·56 = 1.61 M positions, C = 96, S = 12:
  kept per block (bfloat16 under autocast, displacements float32): input, its norm and sum 3·C·2 B, snake input, output,
    activation (1 + 3 + 3)·S·2 B, raw steps, tanh, displacements 72·(2 + 4 + 4) B = 1,464 B per position: 2.4 GB;
  alive during one backward pass: gradients of displacements 72·4 B, of snake output and input 4·S·4 B, one tap
    (2·S + 6)·4 B = 600 B per position: 1.0 GB.
Stage 2 has a quarter of the positions at C = 192, S = 24: 0.9 GB a block. Stages 1-2 with two blocks each: 7.6 GB of 80.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from stf.model_size import SNAKE_AXES, snake_channels, snake_steps

N_SIDES = 2


def _straight_lines(clip_THW: torch.Size, axis: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Where the centre tap reads, (3, 1, T, H, W), and one pixel along `axis`, (3, 1, 1, 1, 1).

    Both in grid_sample's coordinates (x, y, t), each from -1 to 1, so that a pixel is 2/(n-1).
    """
    lines = [torch.linspace(-1, 1, n, device=like.device, dtype=like.dtype) for n in clip_THW]
    centre = torch.stack(torch.meshgrid(*lines, indexing="ij")[::-1]).unsqueeze(1)
    step = like.new_zeros(3, 1, 1, 1, 1)
    step[2 - axis] = 2 / (clip_THW[axis] - 1)
    return centre, step


def _arms(weight_AKSS: Tensor) -> Iterator[tuple[int, int, list[int]]]:
    """(axis, side, indices of the taps outward from the centre) of the six arms of the three snakes."""
    half = weight_AKSS.shape[1] // 2
    for axis in range(SNAKE_AXES):
        yield axis, 0, [half - n for n in range(1, half + 1)]
        yield axis, 1, [half + n for n in range(1, half + 1)]


def _arm_grids(raw_N3BTHW: Tensor, axis: int, side: int, pixel: Tensor) -> list[Tensor]:
    """grid_sample's (B, T, H, W, 3) for each tap of an arm: straight ahead plus the sum of tanh steps so far."""
    centre, ahead = _straight_lines(raw_N3BTHW.shape[-3:], axis, pixel)
    grids, bend = [], torch.zeros_like(raw_N3BTHW[0], dtype=pixel.dtype)
    for n, raw in enumerate(raw_N3BTHW, start=1):
        bend = bend + torch.tanh(raw.to(pixel.dtype))
        grids.append(torch.addcmul(centre + ahead * (n if side else -n), bend, pixel).movedim(0, -1))
    return grids


def _pixel(clip_THW: torch.Size, like: Tensor) -> Tensor:
    """Size of one pixel along (x, y, t) in grid_sample's coordinates, (3, 1, 1, 1, 1)."""
    sizes = [2 / (n - 1) for n in reversed(clip_THW)]
    return torch.tensor(sizes, device=like.device, dtype=like.dtype).view(3, 1, 1, 1, 1)


def _mix(tap_SS: Tensor, columns_BSP: Tensor) -> Tensor:
    """W·x at every position. Written as bmm: matmul would transpose x to make one product of it."""
    return torch.bmm(tap_SS.expand(len(columns_BSP), -1, -1), columns_BSP)


class _SnakeConvolution(torch.autograd.Function):
    """y_a = Σ_k sample(W_{a,k}·x, p + k·e_a + Σ tanh steps) for each axis a; trilinear, clamped at borders."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, raw_steps: Tensor) -> Tensor:  # pyright: ignore
        """x (B, S, T, H, W), weight (3, K, S, S), raw_steps (3, 2, N, 3, B, T, H, W) → (B, 3·S, T, H, W)."""
        ctx.save_for_backward(x, weight, raw_steps)
        columns, half = x.flatten(2), weight.shape[1] // 2
        outputs = [_mix(weight[axis, half], columns).view_as(x) for axis in range(SNAKE_AXES)]
        for axis, side, taps in _arms(weight):
            grids = _arm_grids(raw_steps[axis, side], axis, side, _pixel(x.shape[2:], x))
            for tap, grid in zip(taps, grids, strict=True):
                mixed = _mix(weight[axis, tap], columns).view_as(x)
                outputs[axis] += torch.ops.aten.grid_sampler_3d(mixed, grid, 0, 1, True)
        return torch.cat(outputs, dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # pyright: ignore
        x, weight, raw_steps = ctx.saved_tensors
        columns, half, pixel = x.flatten(2), weight.shape[1] // 2, _pixel(x.shape[2:], x)
        grad_weight, grad_raw = torch.empty_like(weight), torch.empty_like(raw_steps)
        grad_x = torch.zeros_like(columns)
        grads = grad_output.contiguous().chunk(SNAKE_AXES, dim=1)

        def through_mixing(axis: int, tap: int, grad_mixed: Tensor) -> None:
            grad_weight[axis, tap] = (grad_mixed @ columns.mT).sum(0)
            grad_x.add_(_mix(weight[axis, tap].T, grad_mixed))

        for axis, grad in enumerate(grads):
            through_mixing(axis, half, grad.flatten(2))
        for axis, side, taps in _arms(weight):
            grids = _arm_grids(raw_steps[axis, side], axis, side, pixel)
            bend_grad = torch.zeros_like(grids[0]).movedim(-1, 0)
            for n, tap in reversed(list(enumerate(taps))):  # inward: a step moves every tap beyond it
                mixed = _mix(weight[axis, tap], columns).view_as(x)
                grad_mixed, grad_grid = torch.ops.aten.grid_sampler_3d_backward(
                    grads[axis], mixed, grids[n], 0, 1, True, [True, True]
                )
                through_mixing(axis, tap, grad_mixed.flatten(2))
                bend_grad = bend_grad + grad_grid.movedim(-1, 0)
                tanh = torch.tanh(raw_steps[axis, side, n].to(pixel.dtype))
                grad_raw[axis, side, n] = bend_grad * pixel * (1 - tanh.square())
        return grad_x.view_as(x), grad_weight, grad_raw


class DCConv3D(nn.Module):
    """Three snakes through every position, (B, T, H, W, S) → (B, T, H, W, 3·S), steered by a context (B, T, H, W, C).

    A step (Δx, Δy, Δt) is tanh of a linear function of the context: at most one pixel along each axis. A tap stands
    where the steps up to it, summed outward from the centre, have moved it, so a snake bends but never breaks. The
    steps start at zero: the module begins as 1-D convolutions along t, y and x with replicated borders. Every axis
    must be longer than 1.
    """

    def __init__(self, channels: int, context_channels: int, kernel_length: int = 9) -> None:
        super().__init__()
        self.half = kernel_length // 2
        self.weight = nn.Parameter(torch.empty(SNAKE_AXES, kernel_length, channels, channels))
        self.bias = nn.Parameter(torch.zeros(SNAKE_AXES * channels))
        self.steps = nn.Linear(context_channels, snake_steps(kernel_length))
        nn.init.normal_(self.weight, std=(kernel_length * channels) ** -0.5)
        nn.init.zeros_(self.steps.weight)
        nn.init.zeros_(self.steps.bias)

    def forward(self, x_BTHWS: Tensor, context_BTHWC: Tensor) -> Tensor:
        """Sampled in float32 even under autocast: in bfloat16 a tap would stand within a quarter of a pixel."""
        rows = context_BTHWC.flatten(0, -2)
        raw_steps = torch.addmm(self.steps.bias[:, None], self.steps.weight, rows.T)  # one plane per coordinate
        raw_steps = raw_steps.view(SNAKE_AXES, N_SIDES, self.half, 3, *context_BTHWC.shape[:-1])
        with torch.autocast(x_BTHWS.device.type, enabled=False):
            x = x_BTHWS.to(self.weight.dtype).movedim(-1, 1).contiguous()
            return _SnakeConvolution.apply(x, self.weight, raw_steps).movedim(1, -1) + self.bias


class DCConv3DBlock(nn.Module):
    """Residual bottleneck around DCConv3D: x + Wₒ·GELU(DCConv(W_i·Norm x)), (B, T, H, W, C) → the same."""

    def __init__(self, dim: int, kernel_length: int = 9, drop_path: float = 0.0) -> None:
        super().__init__()
        width = snake_channels(dim)
        self.norm = nn.LayerNorm(dim)
        self.reduce = nn.Linear(dim, width)
        self.snake = DCConv3D(width, dim, kernel_length)
        self.act = nn.GELU()
        self.expand = nn.Linear(SNAKE_AXES * width, dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        context = self.norm(x_BTHWC)
        return x_BTHWC + self.drop_path(self.expand(self.act(self.snake(self.reduce(context), context))))
