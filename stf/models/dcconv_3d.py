"""Snake-like convolution of a clip: chains of nine taps along t, y and x, displaced by learned offsets.

After Dynamic Snake Convolution (Qi et al., ICCV 2023, eq. 4-5), with two differences: a tap may move along
all three axes, not only across its kernel's direction, and a tap's matrix is applied before sampling instead
of after (the two commute), so that the backward pass needs no sampled features.

Shapes: B clips, T frames, H and W rows and columns, P = T·H·W, C channels of the block, S channels of the
snake, K taps. A = 3 axes (t, y, x), each with two arms of N = (K-1)/2 taps, towards lower and towards higher
coordinates.

On a GPU a tap is torch's grid_sampler_3d; on a CPU the same operator gathers rows of channels (snake_cpu.py).

Memory. Nothing of size P·K·C ever exists: taps are a loop with one sampled tap alive at a time, and the
backward pass makes it again. At 32×224×224 and batch 16, stage 1 has 16·32·56·56 = 1.61 M positions, C = 96,
S = 12. Bytes per position and block, bfloat16 except what the snake keeps in float32:
    kept       norm's in- and output, sum          3·C·2 = 576
               raw steps                            72·2 = 144
               snake input, output, GELU's in- and output   S·(4 + 3·4 + 3·4 + 3·2) = 408
    transient  on a GPU: gradient of steps 72·2, of the snake's in- and output 4·S·4, one arm's four grids and steps
               8·3·4, one tap's sample, grid and their gradients (2·S + 2·3)·4      = 552
so 1.8 GB kept per block of stage 1 and 0.9 GB per block of stage 2 (a quarter of the positions, twice C and S),
5.4 GB for two blocks of each, and 0.9 GB while one is differentiated.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from stf.models.checkpointing import CheckpointedBlock
from stf.models.precision import without_autocast
from stf.models.snake_cpu import SNAKE_AXES, SnakeOnCPU, arms_of

N_ARMS = 2


def snake_channels(dim: int) -> int:
    """Width of the snake inside a DCConv block of `dim` channels: an eighth, at least 4.

    Sampling reads 8 corners per tap and channel and is most of a block's time on CPU and GPU; an eighth keeps
    the full-size network's four blocks at about the cost of its scans.
    """
    return max(4, dim // 8)


def snake_steps(kernel_length: int) -> int:
    """Numbers that steer one position's three snakes: axes · (K-1) taps · (Δx, Δy, Δt)."""
    return SNAKE_AXES * (kernel_length - 1) * 3


def _centres(x_BSTHW: Tensor) -> tuple[Tensor, Tensor]:
    """Where the centre taps read, (3, 1, T, H, W), and the size of a pixel, (3, 1, 1, 1, 1).

    Both in grid_sample's coordinates: order (x, y, t), each from -1 to 1, so that a pixel is 2/(n-1).
    """
    like = {"device": x_BSTHW.device, "dtype": x_BSTHW.dtype}
    lines = [torch.linspace(-1, 1, n, **like) for n in x_BSTHW.shape[2:]]
    pixel = torch.tensor([2 / (n - 1) for n in reversed(x_BSTHW.shape[2:])], **like)
    return torch.stack(torch.meshgrid(*lines, indexing="ij")[::-1]).unsqueeze(1), pixel.view(3, 1, 1, 1, 1)


def _arm_grids(
    raw_N3BTHW: Tensor, axis: int, arm: int, centre: Tensor, pixel: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """For each tap outward: its grid (B, T, H, W, 3), n pixels ahead plus the steps so far, and its own step."""
    ahead = torch.zeros_like(pixel)
    ahead[SNAKE_AXES - 1 - axis] = pixel[SNAKE_AXES - 1 - axis] * (1 if arm else -1)
    bend = torch.zeros_like(raw_N3BTHW[0], dtype=pixel.dtype)
    for n, raw in enumerate(raw_N3BTHW, start=1):
        step = torch.tanh(raw.to(pixel.dtype))
        bend = bend + step
        yield torch.addcmul(centre + n * ahead, bend, pixel).movedim(0, -1), step


def _mix(tap_SS: Tensor, columns_BSP: Tensor) -> Tensor:
    """W·x at every position. Written as bmm: matmul would transpose x to make one product of it."""
    return torch.bmm(tap_SS.expand(len(columns_BSP), -1, -1), columns_BSP)


class SnakeOnPlanes(torch.autograd.Function):
    """y_a = Σ_k sample(W_{a,k}·x, p + k·e_a + Σ tanh steps), trilinear, clamped at borders."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, raw_steps: Tensor) -> Tensor:  # pyright: ignore
        """x (B, S, T, H, W), weight (3, K, S, S), raw_steps (3, 2, N, 3, B, T, H, W) → (B, 3·S, T, H, W)."""
        ctx.save_for_backward(x, weight, raw_steps)
        columns, middle, (centre, pixel) = x.flatten(2), weight.shape[1] // 2, _centres(x)
        outputs = [_mix(weight[axis, middle], columns).view_as(x) for axis in range(SNAKE_AXES)]
        for axis, arm, taps in arms_of(weight):
            grids = _arm_grids(raw_steps[axis, arm], axis, arm, centre, pixel)
            for tap, (grid, _) in zip(taps, grids, strict=True):
                mixed = _mix(weight[axis, tap], columns).view_as(x)
                outputs[axis] += torch.ops.aten.grid_sampler_3d(mixed, grid, 0, 1, True)
        return torch.cat(outputs, dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # pyright: ignore
        x, weight, raw_steps = ctx.saved_tensors
        columns, middle, (centre, pixel) = x.flatten(2), weight.shape[1] // 2, _centres(x)
        grad_weight, grad_raw = torch.empty_like(weight), torch.empty_like(raw_steps)
        grad_x = torch.zeros_like(columns)
        grads = grad_output.contiguous().chunk(SNAKE_AXES, dim=1)

        def through_mixing(axis: int, tap: int, grad_mixed: Tensor) -> None:
            grad_weight[axis, tap] = (grad_mixed @ columns.mT).sum(0)
            grad_x.add_(_mix(weight[axis, tap].T, grad_mixed))

        for axis, grad in enumerate(grads):
            through_mixing(axis, middle, grad.flatten(2))
        for axis, arm, taps in arms_of(weight):
            grids = list(_arm_grids(raw_steps[axis, arm], axis, arm, centre, pixel))
            bend_grad = torch.zeros_like(raw_steps[axis, arm, 0], dtype=pixel.dtype)
            for n, tap in reversed(list(enumerate(taps))):  # inward: a step moves every tap beyond it
                (grid, step), mixed = grids[n], _mix(weight[axis, tap], columns).view_as(x)
                grad_mixed, grad_grid = torch.ops.aten.grid_sampler_3d_backward(
                    grads[axis], mixed, grid, 0, 1, True, [True, True]
                )
                through_mixing(axis, tap, grad_mixed.flatten(2))
                bend_grad = bend_grad + grad_grid.movedim(-1, 0)
                grad_raw[axis, arm, n] = bend_grad * pixel * (1 - step.square())
        return grad_x.view_as(x), grad_weight, grad_raw


@torch.compiler.disable()  # 24 taps of eight corners unrolled: minutes of compiling; and scipy is not traceable
def convolve(x_BTHWS: Tensor, weight: Tensor, raw_steps: Tensor) -> Tensor:
    """The device's operator; weight (3, K, S, S), raw_steps (3, 2, N, 3, B, T, H, W) → (B, T, H, W, 3·S)."""
    if x_BTHWS.device.type == "cpu":
        return SnakeOnCPU.apply(x_BTHWS, weight, raw_steps)
    planes = x_BTHWS.movedim(-1, 1).contiguous()
    return SnakeOnPlanes.apply(planes, weight, raw_steps).movedim(1, -1)


class DCConv3D(nn.Module):
    """Three snakes through every position, (B, T, H, W, S) → (B, T, H, W, 3·S), steered by a context.

    A step (Δx, Δy, Δt) is tanh of a linear function of the context (B, T, H, W, C): at most one pixel along
    each axis. A tap is moved by the sum of the steps from the centre out to it, so a snake
    bends but never breaks. The steps start at zero: the module begins as 1-D convolutions along t, y and x
    with replicated borders. Every axis must be longer than 1.
    """

    def __init__(self, channels: int, context_channels: int, kernel_length: int = 9) -> None:
        super().__init__()
        self.arm_length = kernel_length // 2
        self.weight = nn.Parameter(torch.empty(SNAKE_AXES, kernel_length, channels, channels))
        self.bias = nn.Parameter(torch.zeros(SNAKE_AXES * channels))
        self.steps = nn.Linear(context_channels, snake_steps(kernel_length))
        nn.init.normal_(self.weight, std=(kernel_length * channels) ** -0.5)
        nn.init.zeros_(self.steps.weight)
        nn.init.zeros_(self.steps.bias)

    def forward(self, x_BTHWS: Tensor, context_BTHWC: Tensor) -> Tensor:
        """Sampled in float32 even under autocast: bfloat16 places a tap to a quarter of a pixel only."""
        columns = context_BTHWC.flatten(0, -2).T
        raw_steps = torch.addmm(self.steps.bias[:, None], self.steps.weight, columns)  # a plane per number
        raw_steps = raw_steps.view(SNAKE_AXES, N_ARMS, self.arm_length, 3, *context_BTHWC.shape[:-1])
        with without_autocast(x_BTHWS):
            return convolve(x_BTHWS.to(self.weight.dtype), self.weight, raw_steps) + self.bias


class DCConv3DBlock(CheckpointedBlock):
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
