"""Clips per second through network and loss: python -m benchmarks.step --params params.yaml

CPU seconds divided by the threads bound from above what a busy machine would show as wall time; both are printed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import click
import torch

from stf.config import STFV8Config
from stf.models.backbone_v73 import STFMambaV73
from stf.models.losses import STFV8Loss


def timed_s(work: Callable[[], object]) -> tuple[float, float]:
    """(wall, CPU) seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


@click.command()
@click.option("--params", "params_path", default="params.yaml", show_default=True)
@click.option("--full-size", is_flag=True, help="32 frames of 224 px at full width, forward only, one clip.")
@click.option("--batch-size", type=int, help="Clips; default: that of the parameter file, 1 at full size.")
@click.option("--threads", default=2, show_default=True)
@click.option("--repeats", default=5, show_default=True)
def main(params_path: str, full_size: bool, batch_size: int | None, threads: int, repeats: int) -> None:
    """Times the forward pass and, unless --full-size, a forward and backward pass on random clips."""
    torch.set_num_threads(threads)
    config = STFV8Config.phase_a() if full_size else STFV8Config.from_params(params_path)
    n = batch_size or (1 if full_size else config.batch_size)
    model, loss = STFMambaV73(config), STFV8Loss(config)
    with torch.no_grad():  # snakes as bent as in training: straight ones read memory in order
        for name, parameter in model.named_parameters():
            if ".steps.weight" in name:
                parameter.normal_(std=0.3)
    video = torch.rand(n, 3, config.num_frames, config.img_size, config.img_size)
    labels = torch.arange(n) % 2

    def forward() -> None:
        with torch.no_grad():
            model.eval()(video)

    def step() -> None:
        loss(model.train()(video), labels)["total"].backward()

    click.echo(config.describe())
    for name, work in {"forward": forward, "forward + backward": step}.items():
        if full_size and work is step:
            continue
        work()
        walls, cpus = zip(*(timed_s(work) for _ in range(repeats)), strict=True)
        wall, cpu = statistics.median(walls), statistics.median(cpus)
        click.echo(
            f"{name}: {n / wall:.1f} clips/s by the clock, {n * threads / cpu:.1f} by CPU time on {threads} threads "
            f"({wall:.2f} s wall, {cpu:.2f} s CPU for {n} clips)"
        )


if __name__ == "__main__":
    main()
