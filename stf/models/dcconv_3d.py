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

N_AXES, N_SIDES = 3, 2


def snake_channels(dim: int) -> int:
    """Width of the snake inside a block of `dim` channels: an eighth, at least 8.

    Sampling costs 8 reads per tap and channel and is what a GPU spends its time on; an eighth keeps the four blocks
    of the full-size network to about the cost of its scans.
    """
    return max(8, dim // 8)


def _taps(half: int) -> Iterator[tuple[int, int, int, int]]:
    """(axis, side, index outward from the centre, signed place on the axis) of every tap but the three centres."""
    for axis in range(N_AXES):
        for side, sign in enumerate((-1, 1)):
            for n in range(half):
                yield axis, side, n, sign * (n + 1)


def _straight_lines(clip_THW: torch.Size, axis: int, place: int, like: Tensor) -> Tensor:
    """(T, H, W, 3): where an undisplaced tap reads, as grid_sample wants it: (x, y, t), each in [-1, 1]."""
    lines = [torch.arange(n, device=like.device, dtype=like.dtype) for n in clip_THW]
    lines[axis] = lines[axis] + place
    lines = [line * (2 / (n - 1)) - 1 for line, n in zip(lines, clip_THW, strict=True)]
    return torch.stack(torch.meshgrid(*lines, indexing="ij")[::-1], dim=-1)


class _SnakeConvolution(torch.autograd.Function):
    """y_a = Σ_k sample(x · W_{a,k}, p + k·e_a + displacement_{a,k}) for each axis a, trilinear, clamped at borders."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, displacement: Tensor) -> Tensor:  # pyright: ignore
        """x (B, T, H, W, S), weight (3, K, S, S), displacement (3, 2, N, B, T, H, W, 3) → (B, T, H, W, 3·S)."""
        ctx.save_for_backward(x, weight, displacement)
        half = weight.shape[1] // 2
        outputs = [x @ weight[axis, half] for axis in range(N_AXES)]
        for axis, side, n, place in _taps(half):
            grid = displacement[axis, side, n] + _straight_lines(x.shape[1:4], axis, place, displacement)
            mixed = (x @ weight[axis, half + place]).movedim(-1, 1)
            outputs[axis] += torch.ops.aten.grid_sampler_3d(mixed, grid, 0, 1, True).movedim(1, -1)
        return torch.cat(outputs, dim=-1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # pyright: ignore
        x, weight, displacement = ctx.saved_tensors
        half, rows = weight.shape[1] // 2, x.flatten(0, -2)
        grad_weight, grad_displacement = torch.empty_like(weight), torch.empty_like(displacement)
        grads = [grad.contiguous() for grad in grad_output.chunk(N_AXES, dim=-1)]
        grad_x = sum(grad @ weight[axis, half].T for axis, grad in enumerate(grads))
        for axis, grad in enumerate(grads):
            grad_weight[axis, half] = rows.T @ grad.flatten(0, -2)
        for axis, side, n, place in _taps(half):
            grid = displacement[axis, side, n] + _straight_lines(x.shape[1:4], axis, place, displacement)
            tap = weight[axis, half + place]
            grad_mixed, grad_displacement[axis, side, n] = torch.ops.aten.grid_sampler_3d_backward(
                grads[axis].movedim(-1, 1), (x @ tap).movedim(-1, 1), grid, 0, 1, True, [True, True]
            )
            grad_mixed = grad_mixed.movedim(1, -1)
            grad_weight[axis, half + place] = rows.T @ grad_mixed.flatten(0, -2)
            grad_x += grad_mixed @ tap.T
        return grad_x, grad_weight, grad_displacement


class DCConv3D(nn.Module):
    """Three snakes through every position, (B, T, H, W, S) → (B, T, H, W, 3·S), steered by a context (B, T, H, W, C).

    A step is tanh of a linear function of the context, at most one pixel along each axis; displacements are the sums
    of the steps outward from the centre, so a snake bends but never breaks. Steps start at zero: the module begins
    as three 1-D convolutions along t, y and x with replicated borders. Every axis must be longer than 1.
    """

    def __init__(self, channels: int, context_channels: int, kernel_length: int = 9) -> None:
        super().__init__()
        self.half = kernel_length // 2
        self.weight = nn.Parameter(torch.empty(N_AXES, kernel_length, channels, channels))
        self.bias = nn.Parameter(torch.zeros(N_AXES * channels))
        self.steps = nn.Linear(context_channels, N_AXES * N_SIDES * self.half * 3)
        nn.init.normal_(self.weight, std=(kernel_length * channels) ** -0.5)
        nn.init.zeros_(self.steps.weight)
        nn.init.zeros_(self.steps.bias)

    def displacement(self, context_BTHWC: Tensor) -> Tensor:
        """(3, 2, N, B, T, H, W, 3) in grid_sample's units (2/(n-1) to the pixel) and order (x, y, t); float32.

        Taps stand first because they are used one at a time. bfloat16 would place a tap to a quarter of a pixel.
        """
        raw = self.steps(context_BTHWC).unflatten(-1, (N_AXES, N_SIDES, self.half, 3))
        steps = raw.permute(4, 5, 6, 0, 1, 2, 3, 7).contiguous()
        steps = torch.tanh(steps if steps.dtype == torch.float64 else steps.float())
        pixel = torch.tensor(
            [2 / (n - 1) for n in context_BTHWC.shape[3:0:-1]], device=steps.device, dtype=steps.dtype
        )
        return steps.cumsum(dim=2) * pixel

    def forward(self, x_BTHWS: Tensor, context_BTHWC: Tensor) -> Tensor:
        """Sampling is done in float32 even under autocast: grid_sample wants features and places of one type."""
        displacement = self.displacement(context_BTHWC)
        with torch.autocast(x_BTHWS.device.type, enabled=False):
            x = x_BTHWS.to(displacement.dtype)
            return _SnakeConvolution.apply(x, self.weight, displacement) + self.bias


class DCConv3DBlock(nn.Module):
    """Residual bottleneck around DCConv3D: x + Wₒ·GELU(DCConv(W_i·Norm x)), (B, T, H, W, C) → the same."""

    def __init__(self, dim: int, kernel_length: int = 9, drop_path: float = 0.0) -> None:
        super().__init__()
        width = snake_channels(dim)
        self.norm = nn.LayerNorm(dim)
        self.reduce = nn.Linear(dim, width)
        self.snake = DCConv3D(width, dim, kernel_length)
        self.act = nn.GELU()
        self.expand = nn.Linear(N_AXES * width, dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        context = self.norm(x_BTHWC)
        return x_BTHWC + self.drop_path(self.expand(self.act(self.snake(self.reduce(context), context))))
