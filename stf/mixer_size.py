"""What stage 3 and V8.0's modules cost, in closed form and without torch; beside model_size.py, which adds them up.

Widths that follow from others are defined here and used by the modules themselves.
Symbols: T frames, D width of stage 3, E = ssm_expand·D inner channels of a direction, N states, R rank of the step
size, H heads of P channels, C channels of a wavelet band, K hidden channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

SCAN_DIRECTIONS = 2
LARGEST_HEAD, FEWEST_HEADS = 64, 4
REACH_PER_D_CONV = 4  # of the convolution in a mixer's place
N_STATE_SIZES, FEWEST_STATE_SIZES, N_HLL_STATISTICS = 4, 3, 5
N_BANDS = 8


class MixingShape(Protocol):
    """The fields of STFV8Config that set the cost of stage 3 and of what phase B adds."""

    num_frames: int
    stage2_dim: int
    stage3_dim: int
    stage3_blocks: int
    dwt_channels: int
    dwt_hidden_dim: int
    d_state: int
    d_conv: int
    ssm_expand: int
    mlp_ratio: float
    use_hydra: bool
    use_mamer: bool
    use_wss: bool
    use_adaptive_sdim: bool

    @property
    def ssm_backend(self) -> str: ...


@dataclass(frozen=True)
class Cost:
    """Parameters, and multiply-adds per position (clip frame and location): of products, and of what is none."""

    parameters: int
    products: int
    recurrence: int = 0


def linear(inputs: int, outputs: int, bias: bool = True) -> int:
    """Parameters of a dense layer; without bias also its multiply-adds."""
    return inputs * outputs + outputs * bias


def mlp(dim: int, ratio: float) -> Cost:
    """Two dense layers with int(dim·ratio) channels between them."""
    hidden = int(dim * ratio)
    return Cost(linear(dim, hidden) + linear(hidden, dim), 2 * dim * hidden)


def dt_rank(dim: int) -> int:
    """Rank R of the projection that makes the scan's step size, Mamba's "auto": ⌈dim / 16⌉."""
    return math.ceil(dim / 16)


def hydra_head_dim(d_inner: int) -> int:
    """Channels P of a head: the largest divisor of d_inner that is at most 64 and leaves 4 heads (1 if none is).

    A head has one decay, so a narrow network needs several; and the (T, T) matrices of all heads take T / P of
    the memory of x, so a wide network's heads are no narrower than a clip is long: 64 at the full 768 channels.
    """
    widest = max(1, min(LARGEST_HEAD, d_inner // FEWEST_HEADS))
    return max(p for p in range(1, widest + 1) if d_inner % p == 0)


def odd_kernel(d_conv: int) -> int:
    """Taps of Hydra's convolution: d_conv, one more if it is even, so that it reaches as far ahead as back."""
    return d_conv + 1 - d_conv % 2


def state_sizes(n_states: int) -> tuple[int, ...]:
    """⌈N/4⌉, ⌈N/2⌉, ⌈3N/4⌉, N without repetitions: what an adaptive state chooses among."""
    return tuple(sorted({math.ceil(n_states * k / N_STATE_SIZES) for k in range(1, N_STATE_SIZES + 1)}))


def vision_mixer(c: MixingShape) -> Cost:
    """MambaVisionMixer: two Mamba-1 models."""
    d, E, N, R = c.stage3_dim, c.ssm_expand * c.stage3_dim, c.d_state, dt_rank(c.stage3_dim)
    per_direction = E * (c.d_conv + 1) + E * (R + 2 * N) + R * E + E + E * N + E
    parameters = 2 * SCAN_DIRECTIONS * d * E + SCAN_DIRECTIONS * per_direction + SCAN_DIRECTIONS * E * d
    products = 4 * d * E + 2 * E * (R + 2 * N) + 2 * R * E + 2 * E * N + 2 * E * d
    return Cost(parameters, products, SCAN_DIRECTIONS * E * (2 * N + c.d_conv))


def hydra_mixer(c: MixingShape) -> Cost:
    """HydraQuasiseparableMixer, its core as the dense (T, T) matrix of every head."""
    d, E, N, T = c.stage3_dim, c.ssm_expand * c.stage3_dim, c.d_state, c.num_frames
    heads, taps = E // hydra_head_dim(E), odd_kernel(c.d_conv)
    convolved = E + 2 * SCAN_DIRECTIONS * N
    projection = d * (E + convolved + SCAN_DIRECTIONS * heads) + E * heads + E * d
    parameters = projection + convolved * (taps + 1) + 3 * heads + E
    return Cost(parameters, projection + convolved * taps + T * (SCAN_DIRECTIONS * N + E))


def conv1d_mixer(c: MixingShape) -> Cost:
    """Conv1DSequenceMixer, its convolution as one (T, T) matrix per channel."""
    d, E = c.stage3_dim, c.ssm_expand * c.stage3_dim
    taps = 2 * (REACH_PER_D_CONV * c.d_conv - 1) + 1
    return Cost(3 * d * E + E * (taps + 1), 3 * d * E + c.num_frames * E)


def mixer(c: MixingShape) -> Cost:
    """The mixer that flags and backend ask for."""
    if c.ssm_backend == "conv1d":
        return conv1d_mixer(c)
    return hydra_mixer(c) if c.use_hydra else vision_mixer(c)


def stage3_blocks(c: MixingShape) -> Cost:
    """All blocks of stage 3: mixer and MLP, and with use_mamer the last one mixer and attention along time."""
    d, one, feed = c.stage3_dim, mixer(c), mlp(c.stage3_dim, c.mlp_ratio)
    attention = Cost(linear(d, 3 * d) + linear(d, d), 4 * d * d + 2 * c.num_frames * d)
    second = [feed] * (c.stage3_blocks - c.use_mamer) + [attention] * c.use_mamer
    return Cost(
        sum(4 * d + one.parameters + part.parameters for part in second),
        sum(one.products + part.products for part in second),
        c.stage3_blocks * one.recurrence,
    )


def upgrade_parameters(c: MixingShape) -> dict[str, int]:
    """Parameters of the modules that stand beside the stages, by flag."""
    C, K, d = c.dwt_channels, c.dwt_hidden_dim, c.stage2_dim
    gru = 2 * (3 * K * C + 3 * K * K + 6 * K)
    gate = 2 * N_BANDS * C + linear(N_BANDS * C, K) + linear(K, K)
    parts = {}
    if c.use_wss:
        parts["wavelet-selective scan"] = gru + linear(2 * K, K) + linear(2 * C, K) + gate + K * d
    if c.use_adaptive_sdim:
        parts["adaptive state"] = linear(N_HLL_STATISTICS, len(state_sizes(c.d_state)))
    return parts


def upgrade_products(c: MixingShape, side: int) -> dict[str, int]:
    """Multiply-adds per clip of those modules, at stage 2's height and width `side`."""
    C, K, d, T = c.dwt_channels, c.dwt_hidden_dim, c.stage2_dim, c.num_frames
    t, half = T // 2, side // 2
    n = t - 2  # temporal coefficients without the two that wrap
    parts = {}
    if c.use_wss:
        recurrent = n * (2 * (3 * K * C + 3 * K * K) + 2 * K * K)
        texture = n * half**2 * (2 * C * K + K * d) + N_BANDS * C * K + K * K
        resized = d * (T * n * half**2 + T * side * half * half + T * side * side * half)
        parts["wavelet-selective scan"] = recurrent + texture + resized
    if c.use_adaptive_sdim:
        n_sizes = len(state_sizes(c.d_state))
        parts["adaptive state"] = N_HLL_STATISTICS * n_sizes + n_sizes * c.d_state
    return parts
