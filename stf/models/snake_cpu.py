"""The snake convolution on a CPU: dcconv_3d's operator on channels-last features, sampled row by row (trilinear.py).

Shapes as in dcconv_3d: B clips, T frames, H and W rows and columns, P = positions of a chunk of clips, S channels of
the snake, K taps, N of an arm. Clips are worked on in chunks, so that transient memory does not grow with the batch.
benchmarks/dcconv.py measures 1.3 kB per position of a chunk forward and 2.8 kB with backward, in- and outputs
included, at 12 channels: .13 and .28 GB for a clip of 32×56×56.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from stf.models.trilinear import cells_of, corners, inside, sample, scatter, slopes

SNAKE_AXES = 3  # t, y and x
# Positions that are worked on at once, in whole clips: more of the small ones of the sample, one at full size.
CHUNK_POSITIONS = 1 << 16


def arms_of(weight_AKSS: Tensor) -> Iterator[tuple[int, int, list[int]]]:
    """(axis, arm, indices of the arm's taps outward from the centre) of the six arms of the three snakes."""
    length = weight_AKSS.shape[1] // 2
    for axis in range(SNAKE_AXES):
        yield axis, 0, [length - n for n in range(1, length + 1)]
        yield axis, 1, [length + n for n in range(1, length + 1)]


def _chunks(x_BTHWS: Tensor) -> list[slice]:
    clips = max(1, CHUNK_POSITIONS // x_BTHWS[0, ..., 0].numel())
    return [slice(start, start + clips) for start in range(0, len(x_BTHWS), clips)]


def _places(raw_N3BTHW: Tensor, axis: int, arm: int, kind: torch.dtype) -> Iterator[tuple[Tensor, Tensor]]:
    """For each tap outward: its places (3, B, T, H, W) px in the order (x, y, t), and its own step."""
    lines = [torch.arange(n, dtype=kind) for n in raw_N3BTHW.shape[3:]]
    centres = torch.stack(torch.meshgrid(*lines, indexing="ij")[::-1]).unsqueeze(1)
    places = centres.expand(raw_N3BTHW.shape[1:]).clone()
    for raw in raw_N3BTHW:
        step = torch.tanh(raw.to(kind))
        places += step
        places[SNAKE_AXES - 1 - axis] += 1 if arm else -1
        yield places, step


class SnakeOnCPU(torch.autograd.Function):
    """y_a = Σ_k sample(W_{a,k}·x, p + k·e_a + Σ tanh steps), trilinear, clamped at borders."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, raw_steps: Tensor) -> Tensor:  # pyright: ignore
        """x (B, T, H, W, S), weight (3, K, S, S), raw_steps (3, 2, N, 3, B, T, H, W) → (B, T, H, W, 3·S)."""
        ctx.save_for_backward(x, weight, raw_steps)
        y = x.new_empty(*x.shape[:-1], SNAKE_AXES * x.shape[-1])
        for clips in _chunks(x):
            y[clips] = _forward(x[clips], weight, raw_steps[:, :, :, :, clips])
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # pyright: ignore
        x, weight, raw_steps = ctx.saved_tensors
        grad_x, grad_weight = torch.empty_like(x), torch.zeros_like(weight)
        grad_raw = torch.empty_like(raw_steps)
        for clips in _chunks(x):
            raw, grad_of_raw = raw_steps[:, :, :, :, clips], grad_raw[:, :, :, :, clips]
            grad_x[clips] = _backward(x[clips], weight, raw, grad_y[clips], (grad_weight, grad_of_raw))
        return grad_x, grad_weight, grad_raw


def _forward(x: Tensor, weight: Tensor, raw_steps: Tensor) -> Tensor:
    table, middle = x.flatten(0, -2), weight.shape[1] // 2
    outputs = [table @ weight[axis, middle].T for axis in range(SNAKE_AXES)]
    for axis, arm, taps in arms_of(weight):
        for tap, (places, _) in zip(taps, _places(raw_steps[axis, arm], axis, arm, x.dtype), strict=True):
            outputs[axis] += sample(table @ weight[axis, tap].T, *corners(cells_of(places)))
    return torch.cat(outputs, dim=1).view(*x.shape[:-1], -1)


def _backward(
    x: Tensor, weight: Tensor, raw_steps: Tensor, grad_y: Tensor, grads_out: tuple[Tensor, Tensor]
) -> Tensor:
    """The gradient of one chunk's x; adds the weight's and writes the raw steps' into `grads_out`."""
    grad_weight, grad_raw = grads_out
    table, middle = x.flatten(0, -2), weight.shape[1] // 2
    grads = [grad.contiguous() for grad in grad_y.flatten(0, -2).chunk(SNAKE_AXES, dim=1)]
    grad_table = torch.zeros_like(table)

    def through_mixing(axis: int, tap: int, grad_mixed: Tensor) -> None:
        grad_weight[axis, tap] += grad_mixed.T @ table
        grad_table.addmm_(grad_mixed, weight[axis, tap])

    for axis, grad in enumerate(grads):
        through_mixing(axis, middle, grad)
    for axis, arm, taps in arms_of(weight):
        of_places, steps = [], []
        for tap, (places, step) in zip(taps, _places(raw_steps[axis, arm], axis, arm, x.dtype), strict=True):
            cells, mixed = cells_of(places), table @ weight[axis, tap].T
            through_mixing(axis, tap, scatter(grads[axis], *corners(cells)))
            of_places.append(slopes(mixed, cells, grads[axis]).view_as(step).mul_(inside(places)))
            steps.append(step)
        bend_grad = torch.zeros_like(steps[0])
        for n in reversed(range(len(taps))):  # inward: a step moves every tap beyond it
            bend_grad += of_places[n]
            grad_raw[axis, arm, n] = bend_grad * (1 - steps[n].square())
    return grad_table.view_as(x)
