"""Parameters and multiply-adds of the V7.3 network in closed form, without torch.

Beside the configuration rather than among the models, because `STFV8Config.describe()` prints them and the
configuration imports no models. Widths that follow from others are defined here and used by the modules
themselves.

Symbols: T frames, P positions of a feature map (T·H·W), K taps of the snake kernel, E inner channels of one
scan direction, N states, R rank of the step size, L tokens of stage 4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

STEM_KERNEL, STEM_STRIDE, STEM_FRAMES = 7, 4, 3
SNAKE_AXES, SCAN_DIRECTIONS = 3, 2
CORNERS = 8  # of a trilinear sample


class NetworkShape(Protocol):
    """The fields of STFV8Config that set the network's size."""

    in_channels: int
    num_classes: int
    num_frames: int
    img_size: int
    stem_dim: int
    stage1_dim: int
    stage2_dim: int
    stage3_dim: int
    stage4_dim: int
    stage1_blocks: int
    stage2_blocks: int
    stage3_blocks: int
    stage4_blocks: int
    dwt_channels: int
    dwt_hidden_dim: int
    d_state: int
    d_conv: int
    ssm_expand: int
    mlp_ratio: float
    dcconv_kernel_length: int


def snake_channels(dim: int) -> int:
    """Width of the snake inside a DCConv block of `dim` channels: an eighth, at least 4.

    Sampling reads 8 corners per tap and channel and is most of a block's time on CPU and GPU; an eighth keeps
    the full-size network's four blocks at about the cost of its scans.
    """
    return max(4, dim // 8)


def snake_steps(kernel_length: int) -> int:
    """Numbers that steer one position's three snakes: axes · (K-1) taps · (Δx, Δy, Δt)."""
    return SNAKE_AXES * (kernel_length - 1) * 3


def dt_rank(dim: int) -> int:
    """Rank R of the projection that makes the scan's step size, Mamba's "auto": ⌈dim / 16⌉."""
    return math.ceil(dim / 16)


def _linear(inputs: int, outputs: int, bias: bool = True) -> int:
    return inputs * outputs + outputs * bias


def _mlp(dim: int, ratio: float) -> int:
    hidden = int(dim * ratio)
    return _linear(dim, hidden) + _linear(hidden, dim)


def _dcconv_block(dim: int, kernel_length: int) -> int:
    width = snake_channels(dim)
    snakes = SNAKE_AXES * (kernel_length * width**2 + width) + _linear(dim, snake_steps(kernel_length))
    return 2 * dim + _linear(dim, width) + snakes + _linear(SNAKE_AXES * width, dim)


def _mixer(c: NetworkShape) -> int:
    d, E, N, R = c.stage3_dim, c.ssm_expand * c.stage3_dim, c.d_state, dt_rank(c.stage3_dim)
    per_direction = E * (c.d_conv + 1) + E * (R + 2 * N) + R * E + E + E * N + E
    return 2 * SCAN_DIRECTIONS * d * E + SCAN_DIRECTIONS * per_direction + SCAN_DIRECTIONS * E * d


def _merging(dim: int, outputs: int) -> int:
    return 8 * dim + _linear(4 * dim, outputs)


def parameters(c: NetworkShape) -> dict[str, int]:
    """Parameters of each part of STFMambaV73; their sum is the network's."""
    stem = _linear(STEM_KERNEL**2 * c.in_channels, c.stem_dim) + _linear(STEM_FRAMES * c.stem_dim, c.stem_dim)
    gate = c.stem_dim * c.dwt_channels + _linear(c.dwt_channels, c.dwt_hidden_dim)
    gate += _linear(c.dwt_hidden_dim, c.stage1_dim) + _linear(c.dwt_hidden_dim, c.stage2_dim)
    mamba = 4 * c.stage3_dim + _mixer(c) + _mlp(c.stage3_dim, c.mlp_ratio)
    d4 = c.stage4_dim
    transformer = 4 * d4 + _linear(d4, 3 * d4) + _linear(d4, d4) + _mlp(d4, c.mlp_ratio)
    kernel = c.dcconv_kernel_length
    return {
        "stem": stem + 4 * c.stem_dim,
        "wavelet": gate + c.stage2_dim * c.dwt_channels,
        "stage 1": _linear(c.stem_dim, c.stage1_dim) + c.stage1_blocks * _dcconv_block(c.stage1_dim, kernel),
        "stage 2": _merging(c.stage1_dim, c.stage2_dim)
        + c.stage2_blocks * _dcconv_block(c.stage2_dim, kernel),
        "stage 3": _merging(c.stage2_dim, c.stage3_dim) + c.stage3_blocks * mamba,
        "stage 4": _merging(c.stage3_dim, d4) + c.stage4_blocks * transformer,
        "head": 2 * d4 + _linear(2 * d4, c.num_classes),
    }


@dataclass(frozen=True)
class MultiplyAdds:
    """Per clip: `products` of matrices and convolutions by part, and what is not a matrix product.

    `sampling` is the snakes' trilinear interpolation, `recurrence` the scans' decay and input (the read-out
    is a product) and their depthwise convolutions.
    """

    products: dict[str, int]
    sampling: int
    recurrence: int

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.products.values()) + self.sampling + self.recurrence


def multiply_adds(c: NetworkShape) -> MultiplyAdds:
    """Multiply-adds of STFMambaV73 for one clip of num_frames × img_size × img_size."""
    T, side = c.num_frames, c.img_size // STEM_STRIDE
    sides = [side, side // 2, side // 4, math.ceil(side / 8)]  # of stages 1, 2, 3, 4
    P1, P2, P3, P4 = (T * s * s for s in sides)
    stem = _linear(STEM_KERNEL**2 * c.in_channels, c.stem_dim, False) + STEM_FRAMES * c.stem_dim**2
    E, N, R, d3, d4 = (
        c.ssm_expand * c.stage3_dim,
        c.d_state,
        dt_rank(c.stage3_dim),
        c.stage3_dim,
        c.stage4_dim,
    )
    mixer = 4 * d3 * E + 2 * E * (R + 2 * N) + 2 * R * E + 2 * E * N + 2 * E * d3
    mamba = mixer + 2 * d3 * int(d3 * c.mlp_ratio)
    transformer = 4 * d4**2 + 2 * d4 * int(d4 * c.mlp_ratio) + 2 * P4 * d4
    products = {
        "stem": P1 * stem,
        "wavelet": _wavelet(c, T, sides),
        "stage 1": P1 * (c.stem_dim * c.stage1_dim + c.stage1_blocks * _snake_products(c, c.stage1_dim)),
        "stage 2": P2
        * (4 * c.stage1_dim * c.stage2_dim + c.stage2_blocks * _snake_products(c, c.stage2_dim)),
        "stage 3": P3 * (4 * c.stage2_dim * d3 + c.stage3_blocks * mamba),
        "stage 4": P4 * (4 * d3 * d4 + c.stage4_blocks * transformer),
        "head": 2 * d4 * c.num_classes,
    }
    taps = SNAKE_AXES * (c.dcconv_kernel_length - 1) * CORNERS
    sampled = P1 * c.stage1_blocks * snake_channels(c.stage1_dim) + P2 * c.stage2_blocks * snake_channels(
        c.stage2_dim
    )
    recurrence = P3 * c.stage3_blocks * SCAN_DIRECTIONS * E * (2 * N + c.d_conv)
    return MultiplyAdds(products, taps * sampled, recurrence)


def _snake_products(c: NetworkShape, dim: int) -> int:
    width = snake_channels(dim)
    snakes = SNAKE_AXES * c.dcconv_kernel_length * width**2 + dim * snake_steps(c.dcconv_kernel_length)
    return dim * width + snakes + SNAKE_AXES * width * dim


def _wavelet(c: NetworkShape, T: int, sides: list[int]) -> int:
    """Gates from the stem's HLL band, energies from stage 2's projection; transforms as matrix products."""
    n1, n2, t = sides[0], sides[1], T // 2
    hll = (
        t * n1 * n1 * c.stem_dim * T
        + t * (n1 // 2) * n1 * c.stem_dim * n1
        + t * (n1 // 2) ** 2 * c.stem_dim * n1
    )
    gate = c.stem_dim * c.dwt_channels + c.dwt_hidden_dim * (c.dwt_channels + c.stage1_dim + c.stage2_dim)
    projection = T * n2 * n2 * c.stage2_dim * c.dwt_channels
    inner, w = t - 2, c.dwt_channels
    energies = 2 * t * n2 * n2 * w * T + inner * (n2 // 2) * n2 * w * n2 + inner * (n2 // 2) ** 2 * w * n2
    return hll + t * (n1 // 2) ** 2 * gate + projection + energies


def size_text(c: NetworkShape) -> str:
    """Two lines: parameters and multiply-adds per clip, each with its parts."""
    counts, work = parameters(c), multiply_adds(c)
    parts = work.products | {"sampling": work.sampling, "recurrence": work.recurrence}
    by_part = ", ".join(f"{name} {n:,}" for name, n in counts.items())
    by_work = ", ".join(f"{name} {n / 1e9:.3g} G" for name, n in parts.items())
    return (
        f"parameters: {sum(counts.values()):,} ({by_part})\n"
        f"multiply-adds per clip: {work.total / 1e9:.4g} G ({by_work})"
    )
