"""The snake convolution, forward and backward, against its definition and grid_sampler_3d.

    python -m benchmarks.dcconv [--threads 2]

definition: every tap stored, eight corners written out. grid_sampler_3d: the GPU's code path, here on the CPU.
straight: three convolutions of nine taps, which a DCConv3D starts as; it shows what bending costs.
"""

from __future__ import annotations

from collections.abc import Callable
from unittest.mock import patch

import click
import torch
from torch import Tensor, nn

from benchmarks.harness import interleaved, print_table
from stf.models import dcconv_3d
from stf.models.dcconv_3d import DCConv3D, SnakeOnPlanes
from tests.reference import models_snake_plain

# name: (B, T, H, W), channels of snake and context
SHAPES = {
    "the sample's stage 1, 8 clips": ((8, 12, 24, 24), (4, 24)),
    "full size, stage 1, 1 clip": ((1, 32, 56, 56), (12, 96)),
    "full size, stage 2, 1 clip": ((1, 32, 28, 28), (24, 192)),
}
DEFINITION_UP_TO = 10_000  # positions of a clip; larger ones take many seconds and gigabytes


class OnPlanes:
    """Replaces SnakeOnCPU."""

    @staticmethod
    def apply(x_BTHWS: Tensor, weight: Tensor, raw_steps: Tensor) -> Tensor:
        planes = x_BTHWS.movedim(-1, 1).contiguous()
        return SnakeOnPlanes.apply(planes, weight, raw_steps).movedim(1, -1)


def straight(channels: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Convolutions of 9 taps along t, y and x, channels-last in and out."""
    kernels = [(9, 1, 1), (1, 9, 1), (1, 1, 9)]
    convolutions = [
        nn.Conv3d(channels, channels, k, padding=(k[0] // 2, k[1] // 2, k[2] // 2)) for k in kernels
    ]

    def convolve(x_BTHWS: Tensor, context: Tensor) -> Tensor:
        x = x_BTHWS.movedim(-1, 1)
        y = torch.cat([convolution(x) for convolution in convolutions], 1).movedim(1, -1)
        return y + 0 * context.mean()

    return convolve


def variants(
    module: DCConv3D, inputs: tuple[Tensor, Tensor], backward: bool
) -> dict[str, Callable[[], object]]:
    """{name: forward pass, or forward and backward}."""

    def run(snake: Callable[[Tensor, Tensor], Tensor]) -> object:
        if backward:
            return torch.autograd.grad(snake(*inputs).square().sum(), inputs)
        with torch.no_grad():
            return snake(*inputs)

    def on_planes() -> object:
        with patch.object(dcconv_3d, "SnakeOnCPU", OnPlanes):
            return run(module)

    convolve = straight(inputs[0].shape[-1])
    return {
        "definition": lambda: run(lambda x, context: models_snake_plain.snake(x, context, module)),
        "grid_sampler_3d": on_planes,
        "ours": lambda: run(module),
        "straight": lambda: run(convolve),
    }


@click.command(help=__doc__)
@click.option("--repeats", default=3, show_default=True)
@click.option("--threads", default=1, show_default=True)
def main(repeats: int, threads: int) -> None:
    torch.set_num_threads(threads)
    for name, (shape, channels) in SHAPES.items():
        module = DCConv3D(*channels)
        nn.init.normal_(module.steps.weight, std=0.3)
        x, context = (torch.randn(*shape, c).requires_grad_() for c in channels)
        for kind, backward in (("forward", False), ("forward and backward", True)):
            works = variants(module, (x, context), backward)
            if x[0, ..., 0].numel() > DEFINITION_UP_TO:
                del works["definition"]
            measured = interleaved(works, repeats)
            print_table(f"DCConv3D, {name}: {kind}", measured, "grid_sampler_3d")


if __name__ == "__main__":
    main()
