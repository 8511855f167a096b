"""Selective scan against the plain loop that autograd differentiates: python -m benchmarks.scan

Both run in one process in turns, so that a busy machine slows them alike; medians of CPU time, and the peak of memory.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable

import click
import torch
from torch import Tensor

from benchmarks.harness import peak_mb
from stf.models.scan import selective_scan
from tests.reference import models_scan_plain

SIDES: dict[str, Callable[..., Tensor]] = {"plain": models_scan_plain.selective_scan, "ours": selective_scan}


def inputs(T: int, M: int, D: int, N: int) -> list[Tensor]:
    """u, dt, A, B, C of two directions, all with gradients."""
    u, B, C = torch.randn(T, M, 2, D), torch.randn(T, M, 2, N), torch.randn(T, M, 2, N)
    dt = torch.nn.functional.softplus(torch.randn(T, M, 2, D) - 4)
    A = -torch.arange(1.0, N + 1).expand(2, D, N).clone()
    return [x.requires_grad_() for x in (u, dt, A, B, C)]


def timed_ms(scan: Callable[..., Tensor], leaves: list[Tensor]) -> tuple[float, float]:
    """(forward, backward) CPU milliseconds."""
    start = time.process_time()
    y = scan(*leaves)
    middle = time.process_time()
    torch.autograd.grad(y.sum(), leaves)
    return 1e3 * (middle - start), 1e3 * (time.process_time() - middle)


@click.command()
@click.option("--repeats", default=7, show_default=True)
@click.option("--threads", default=1, show_default=True)
def main(repeats: int, threads: int) -> None:
    """Times both at the sample's size and at a quarter of a full-size clip (49 of 196 locations)."""
    torch.set_num_threads(threads)
    for name, shape in {
        "sample, batch 8": (16, 288, 128, 8),
        "full size, 49 locations": (32, 49, 768, 16),
    }.items():
        leaves, times = inputs(*shape), {side: [] for side in SIDES}
        for _ in range(repeats):
            for side, scan in SIDES.items():
                times[side].append(timed_ms(scan, leaves))
        median = {s: [statistics.median(column) for column in zip(*t, strict=True)] for s, t in times.items()}
        for side, (forward, backward) in median.items():
            memory = peak_mb(functools.partial(timed_ms, SIDES[side], leaves))
            click.echo(
                f"{name}: {side:>5} forward {forward:7.1f} ms, backward {backward:7.1f} ms, {memory:6.0f} MB"
            )
        ratio = sum(median["plain"]) / sum(median["ours"])
        click.echo(f"{name}: plain / ours = {ratio:.2f}\n")


if __name__ == "__main__":
    main()
