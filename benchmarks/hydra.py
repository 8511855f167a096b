"""Hydra's dense core against its recurrence, and its mixer against V7.3's: python -m benchmarks.hydra

All run in one process in turns, so that a busy machine slows them alike; medians of CPU time, and the peak of memory.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable

import click
import torch
from torch import Tensor, nn

from benchmarks.harness import peak_mb
from benchmarks.scan import timed_ms
from stf.mixer_size import hydra_head_dim
from stf.models.hydra_mixer import HydraQuasiseparableMixer
from stf.models.mamba_blocks import MambaVisionMixer
from stf.models.ssd import quasiseparable_mix
from tests.reference import models_hydra_plain

Case = tuple[Callable[..., Tensor], list[Tensor]]  # what is timed, and its leaves
CORES: dict[str, Callable[..., Tensor]] = {
    "recurrence": models_hydra_plain.mix,
    "dense matrix": quasiseparable_mix,
}
MIXERS: dict[str, Callable[[int, int], nn.Module]] = {
    "MambaVision": MambaVisionMixer,
    "Hydra": HydraQuasiseparableMixer,
}


def core_cases(T: int, M: int, D: int, N: int) -> dict[str, Case]:
    """x, dt, A, B, C and diagonal of D model channels, all with gradients."""
    P = hydra_head_dim(2 * D)
    H = 2 * D // P
    dt = nn.functional.softplus(torch.randn(M, T, 2, H) - 4)
    x, diagonal, A = torch.randn(M, T, H, P), torch.randn(M, T, H), -torch.rand(H).exp()
    B, C = torch.randn(M, T, 2, N), torch.randn(M, T, 2, N)
    leaves = [z.requires_grad_() for z in (x, dt, A, B, C, diagonal)]
    return {name: (mix, leaves) for name, mix in CORES.items()}


def mixer_cases(T: int, M: int, D: int, N: int) -> dict[str, Case]:
    """The whole mixers, gradients of their input and of every parameter."""
    x_MTD = torch.randn(M, T, D, requires_grad=True)

    def case(module: nn.Module) -> Case:
        return lambda x, *_: module(x), [x_MTD, *module.parameters()]

    return {name: case(kind(D, N)) for name, kind in MIXERS.items()}


def compare(title: str, cases: dict[str, Case], repeats: int) -> None:
    """One line per side and the ratio of the first side's time to the second's."""
    times: dict[str, list[tuple[float, float]]] = {side: [] for side in cases}
    for _ in range(repeats):
        for side, (work, leaves) in cases.items():
            times[side].append(timed_ms(work, leaves))
    total = []
    for side, (work, leaves) in cases.items():
        forward, backward = (statistics.median(column) for column in zip(*times[side], strict=True))
        total.append(forward + backward)
        memory = peak_mb(functools.partial(timed_ms, work, leaves))
        click.echo(
            f"{title}: {side:>12} forward {forward:7.1f} ms, backward {backward:7.1f} ms, {memory:6.0f} MB"
        )
    click.echo(f"{title}: {' / '.join(cases)} = {total[0] / total[1]:.2f}\n")


@click.command()
@click.option("--repeats", default=7, show_default=True)
@click.option("--threads", default=1, show_default=True)
def main(repeats: int, threads: int) -> None:
    """Times cores and mixers at the sample's size and at a quarter of a full-size clip (49 of 196 locations)."""
    torch.set_num_threads(threads)
    sizes = {"sample, batch 8": (16, 288, 64, 8), "full size, 49 locations": (32, 49, 384, 16)}
    for title, size in sizes.items():
        compare(f"{title}, core", core_cases(*size), repeats)
        compare(f"{title}, mixer", mixer_cases(*size), repeats)


if __name__ == "__main__":
    main()
