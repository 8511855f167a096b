"""Parameters and multiply-adds of the network in closed form, without torch.

Beside the configuration rather than among the models, because `STFV8Config.describe()` prints them and the
configuration imports no models. Widths that follow from others are defined here or in mixer_size.py and used by the
modules themselves.

Symbols: T frames, P positions of a feature map (T·H·W), L tokens of stage 4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from stf.mixer_size import MixingShape, linear, mlp, stage3_blocks, upgrade_parameters, upgrade_products

STEM_KERNEL, STEM_STRIDE, STEM_FRAMES = 7, 4, 3
STEM_RESIDUALS = 3  # log energies that the stem reads per colour and patch
SNAKE_AXES = 3
CORNERS = 8  # of a trilinear sample
DCCONV = "dcconv"  # the spatial backbone that is counted; a timm network is not


class NetworkShape(MixingShape, Protocol):
    """The fields of STFV8Config that set the network's size."""

    in_channels: int
    num_classes: int
    img_size: int
    stem_dim: int
    stage1_dim: int
    stage4_dim: int
    stage1_blocks: int
    stage2_blocks: int
    stage4_blocks: int
    dcconv_kernel_length: int
    spatial_backbone: str


def snake_channels(dim: int) -> int:
    """Width of the snake inside a DCConv block of `dim` channels: an eighth, at least 4.

    Sampling reads 8 corners per tap and channel and is most of a block's time on CPU and GPU; an eighth keeps
    the full-size network's four blocks at about the cost of its scans.
    """
    return max(4, dim // 8)


def snake_steps(kernel_length: int) -> int:
    """Numbers that steer one position's three snakes: axes · (K-1) taps · (Δx, Δy, Δt)."""
    return SNAKE_AXES * (kernel_length - 1) * 3


def _dcconv_block(dim: int, kernel_length: int) -> int:
    width = snake_channels(dim)
    snakes = SNAKE_AXES * (kernel_length * width**2 + width) + linear(dim, snake_steps(kernel_length))
    return 2 * dim + linear(dim, width) + snakes + linear(SNAKE_AXES * width, dim)


def _merging(dim: int, outputs: int) -> int:
    return 8 * dim + linear(4 * dim, outputs)


def parameters(c: NetworkShape) -> dict[str, int]:
    """Parameters of each part of STFMambaV8 (without its flags, of STFMambaV73); their sum is the network's.

    Those of a timm spatial backbone and its projection are left out: only torch knows them.
    """
    d4 = c.stage4_dim
    transformer = 4 * d4 + linear(d4, 3 * d4) + linear(d4, d4) + mlp(d4, c.mlp_ratio).parameters
    return {
        **(_early_parameters(c) if c.spatial_backbone == DCCONV else {}),
        "energies": c.stage2_dim * c.dwt_channels,
        **upgrade_parameters(c),
        "stage 3": _merging(c.stage2_dim, c.stage3_dim) + stage3_blocks(c).parameters,
        "stage 4": _merging(c.stage3_dim, d4) + c.stage4_blocks * transformer,
        "head": 2 * d4 + linear(2 * d4, c.num_classes),
    }


def _early_parameters(c: NetworkShape) -> dict[str, int]:
    stem = linear(STEM_KERNEL**2 * c.in_channels, c.stem_dim) + linear(STEM_FRAMES * c.stem_dim, c.stem_dim)
    stem += linear(STEM_RESIDUALS * c.in_channels, c.stem_dim)
    gate = c.stem_dim * c.dwt_channels + linear(c.dwt_channels, c.dwt_hidden_dim)
    gate += linear(c.dwt_hidden_dim, c.stage1_dim) + linear(c.dwt_hidden_dim, c.stage2_dim)
    block1, block2 = (_dcconv_block(dim, c.dcconv_kernel_length) for dim in (c.stage1_dim, c.stage2_dim))
    return {
        "stem": stem + 4 * c.stem_dim,
        "HLL gate": gate,
        "stage 1": linear(c.stem_dim, c.stage1_dim) + c.stage1_blocks * block1,
        "stage 2": _merging(c.stage1_dim, c.stage2_dim) + c.stage2_blocks * block2,
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
    """Multiply-adds for one clip of num_frames × img_size × img_size; those of a timm backbone are left out."""
    T, sides = c.num_frames, _sides(c)
    P3, P4 = (T * s * s for s in sides[2:])
    d3, d4, blocks = c.stage3_dim, c.stage4_dim, stage3_blocks(c)
    transformer = 4 * d4**2 + mlp(d4, c.mlp_ratio).products + 2 * P4 * d4
    counted_early = c.spatial_backbone == DCCONV
    products = {
        **(_early_products(c, sides) if counted_early else {}),
        "energies": _energy_products(c, sides[1]),
        **upgrade_products(c, sides[1]),
        "stage 3": P3 * (4 * c.stage2_dim * d3 + blocks.products),
        "stage 4": P4 * (4 * d3 * d4 + c.stage4_blocks * transformer),
        "head": 2 * d4 * c.num_classes,
    }
    sampling = _sampling(c, sides) if counted_early else 0
    return MultiplyAdds(products, sampling, P3 * blocks.recurrence)


def _sides(c: NetworkShape) -> list[int]:
    """Height and width of the features of stages 1, 2, 3 and 4."""
    side = c.img_size // STEM_STRIDE
    return [side, side // 2, side // 4, math.ceil(side / 8)]


def _early_products(c: NetworkShape, sides: list[int]) -> dict[str, int]:
    P1, P2 = (c.num_frames * s * s for s in sides[:2])
    stem = linear(STEM_KERNEL**2 * c.in_channels, c.stem_dim, False) + STEM_FRAMES * c.stem_dim**2
    stem += STEM_RESIDUALS * c.in_channels * c.stem_dim
    stage1 = c.stem_dim * c.stage1_dim + c.stage1_blocks * _snake_products(c, c.stage1_dim)
    stage2 = 4 * c.stage1_dim * c.stage2_dim + c.stage2_blocks * _snake_products(c, c.stage2_dim)
    return {
        "stem": P1 * stem,
        "HLL gate": _gate_products(c, sides[0]),
        "stage 1": P1 * stage1,
        "stage 2": P2 * stage2,
    }


def _sampling(c: NetworkShape, sides: list[int]) -> int:
    P1, P2 = (c.num_frames * s * s for s in sides[:2])
    numbers = P1 * c.stage1_blocks * snake_channels(c.stage1_dim)
    numbers += P2 * c.stage2_blocks * snake_channels(c.stage2_dim)
    return SNAKE_AXES * (c.dcconv_kernel_length - 1) * CORNERS * numbers


def _snake_products(c: NetworkShape, dim: int) -> int:
    width = snake_channels(dim)
    snakes = SNAKE_AXES * c.dcconv_kernel_length * width**2 + dim * snake_steps(c.dcconv_kernel_length)
    return dim * width + snakes + SNAKE_AXES * width * dim


def _gate_products(c: NetworkShape, side: int) -> int:
    """The stem's HLL band, its projection and the gates; transforms as matrix products, one axis at a time."""
    T, t, half = c.num_frames, c.num_frames // 2, side // 2
    hll = t * c.stem_dim * (side**2 * T + half * side * side + half**2 * side)
    gate = c.stem_dim * c.dwt_channels + c.dwt_hidden_dim * (c.dwt_channels + c.stage1_dim + c.stage2_dim)
    return hll + t * half**2 * gate


def _energy_products(c: NetworkShape, side: int) -> int:
    """Stage 2's projection and transform: of HLL without its ends, or of all eight bands where a part reads them."""
    T, t, half, w = c.num_frames, c.num_frames // 2, side // 2, c.dwt_channels
    projection, in_time = T * side**2 * c.stage2_dim * w, 2 * t * side**2 * w * T
    rows, columns = half * side * w * side, half**2 * w * side  # of one band at one time
    if c.use_wss or c.use_adaptive_sdim:
        return projection + in_time + t * (4 * rows + 8 * columns)
    return projection + in_time + (t - 2) * (rows + columns)


def size_text(c: NetworkShape) -> str:
    """Two lines: parameters and multiply-adds per clip, each with its parts."""
    counts, work = parameters(c), multiply_adds(c)
    parts = work.products | {"sampling": work.sampling, "recurrence": work.recurrence}
    by_part = ", ".join(f"{name} {n:,}" for name, n in counts.items())
    by_work = ", ".join(f"{name} {n / 1e9:.3g} G" for name, n in parts.items())
    timm = "" if c.spatial_backbone == DCCONV else f", without {c.spatial_backbone}"
    return (
        f"parameters{timm}: {sum(counts.values()):,} ({by_part})\n"
        f"multiply-adds per clip{timm}: {work.total / 1e9:.4g} G ({by_work})"
    )
