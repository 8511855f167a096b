"""State-space scans along time against their plain recurrences: python -m benchmarks.scan [--threads 2]

Hydra's core as batched matrix products against the sequential recurrence that it equals; Mamba-1's per-channel scan
against the loop that autograd differentiates; and both mixers. M sequences of T steps: all 196 locations of a full-size
clip, or those of 8 clips of the sample.
"""

from __future__ import annotations

from collections.abc import Callable

import click
import torch
from torch import Tensor, nn

from benchmarks.harness import interleaved, print_table
from stf.models.hydra_mixer import HydraQuasiseparableMixer, hydra_head_dim
from stf.models.mamba_blocks import MambaVisionMixer
from stf.models.scan import selective_scan
from stf.models.ssd import quasiseparable_mix
from tests.reference import models_hydra_plain, models_scan_plain

Case = tuple[Callable[..., Tensor], list[Tensor]]  # the function to time, and the tensors to differentiate
# name: T, M, model channels D (the scans have 2·D), N states
SIZES = {"full size, 196 × 32 × 768": (32, 196, 384, 16), "sample, 288 × 12 × 128": (12, 288, 64, 8)}
SEQUENTIAL = "sequential"


def hydra_core(T: int, M: int, D: int, N: int) -> dict[str, Case]:
    """x, dt, A, B, C and diagonal, all with gradients."""
    P = hydra_head_dim(2 * D)
    H = 2 * D // P
    dt = nn.functional.softplus(torch.randn(M, T, 2, H) - 4)
    x, diagonal, A = torch.randn(M, T, H, P), torch.randn(M, T, H), -torch.rand(H).exp()
    B, C = torch.randn(M, T, 2, N), torch.randn(M, T, 2, N)
    leaves = [z.requires_grad_() for z in (x, dt, A, B, C, diagonal)]
    return {
        SEQUENTIAL: (models_hydra_plain.mix, leaves),
        "ours, matrix products": (quasiseparable_mix, leaves),
    }


def mamba_scan(T: int, M: int, D: int, N: int) -> dict[str, Case]:
    """u, dt, A, B, C of two directions, all with gradients."""
    u, B, C = torch.randn(T, M, 2, 2 * D), torch.randn(T, M, 2, N), torch.randn(T, M, 2, N)
    dt = nn.functional.softplus(torch.randn(T, M, 2, 2 * D) - 4)
    A = -torch.arange(1.0, N + 1).expand(2, 2 * D, N).clone()
    leaves = [x.requires_grad_() for x in (u, dt, A, B, C)]
    return {SEQUENTIAL: (models_scan_plain.selective_scan, leaves), "ours, blocks": (selective_scan, leaves)}


def mixers(T: int, M: int, D: int, N: int) -> dict[str, Case]:
    """The whole mixers, gradients of their input and of every parameter."""
    x_MTD = torch.randn(M, T, D, requires_grad=True)

    def case(module: nn.Module) -> Case:
        return lambda x, *_: module(x), [x_MTD, *module.parameters()]

    return {
        "MambaVisionMixer": case(MambaVisionMixer(D, N)),
        "HydraQuasiseparableMixer": case(HydraQuasiseparableMixer(D, N)),
    }


def works(cases: dict[str, Case], backward: bool) -> dict[str, Callable[[], object]]:
    """Forward, or forward and backward, of each case."""

    def forward(work: Callable[..., Tensor], leaves: list[Tensor]) -> object:
        with torch.no_grad():
            return work(*leaves)

    def both(work: Callable[..., Tensor], leaves: list[Tensor]) -> object:
        return torch.autograd.grad(work(*leaves).sum(), leaves)

    run = both if backward else forward
    return {name: lambda case=case: run(*case) for name, case in cases.items()}


@click.command(help=__doc__)
@click.option("--repeats", default=1, show_default=True)
@click.option("--threads", default=1, show_default=True)
def main(repeats: int, threads: int) -> None:
    torch.set_num_threads(threads)
    for size_name, size in SIZES.items():
        for title, make in (
            ("Hydra's core", hydra_core),
            ("Mamba-1's selective scan, two directions", mamba_scan),
            ("Mixers", mixers),
        ):
            cases = make(*size)
            for kind, backward in (("forward", False), ("forward and backward", True)):
                measured = interleaved(works(cases, backward), repeats)
                print_table(f"{title}, {size_name}: {kind}", measured, next(iter(cases)))


if __name__ == "__main__":
    main()
