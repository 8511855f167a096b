"""DCConv3D against its definition (all taps kept, eight corners by hand): python -m benchmarks.dcconv

Both run in one process in turns; medians of CPU time. Three straight convolutions of the same width, which is what a
DCConv3D starts as, show what bending costs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import click
import torch
from torch import Tensor, nn

from stf.models.dcconv_3d import DCConv3D
from tests.reference import models_snake_plain


def straight(channels: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Convolutions of 9 taps along t, y and x, channels-last in and out."""
    kernels = [(9, 1, 1), (1, 9, 1), (1, 1, 9)]
    convolutions = [nn.Conv3d(channels, channels, k, padding=tuple(n // 2 for n in k)) for k in kernels]

    def convolve(x_BTHWS: Tensor, context: Tensor) -> Tensor:
        x = x_BTHWS.movedim(-1, 1)
        return (
            torch.cat([convolution(x) for convolution in convolutions], 1).movedim(1, -1) + 0 * context.mean()
        )

    return convolve


def timed_ms(snake: Callable[[Tensor, Tensor], Tensor], x: Tensor, context: Tensor) -> float:
    """CPU milliseconds of one forward and backward pass."""
    start = time.process_time()
    torch.autograd.grad(snake(x, context).square().sum(), (x, context))
    return 1e3 * (time.process_time() - start)


@click.command()
@click.option("--repeats", default=7, show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("--shape", nargs=4, type=int, default=(2, 16, 24, 24), show_default=True, help="B T H W")
@click.option(
    "--channels", nargs=2, type=int, default=(4, 24), show_default=True, help="Of snake and context."
)
def main(repeats: int, threads: int, shape: tuple[int, ...], channels: tuple[int, int]) -> None:
    """Prints medians and ratios for stage 1 of the sample's network."""
    torch.set_num_threads(threads)
    module = DCConv3D(*channels)
    nn.init.normal_(module.steps.weight, std=0.3)
    x, context = (torch.randn(*shape, c).requires_grad_() for c in channels)
    sides = {
        "definition": lambda x, context: models_snake_plain.snake(x, context, module),
        "ours": module,
        "straight": straight(channels[0]),
    }
    times = {side: [] for side in sides}
    for _ in range(repeats):
        for side, snake in sides.items():
            times[side].append(timed_ms(snake, x, context))
    median = {side: statistics.median(t) for side, t in times.items()}
    for side, ms in median.items():
        click.echo(
            f"{side:>10}: {ms:8.1f} ms forward + backward, {1e6 * ms / x[..., 0].numel():7.0f} ns a position"
        )
    click.echo(f"definition / ours = {median['definition'] / median['ours']:.2f}")
    click.echo(f"ours / straight = {median['ours'] / median['straight']:.2f}")


if __name__ == "__main__":
    main()
