"""V8.0 against V7.3, forward and forward + backward through network and loss: python -m benchmarks.step

All variants run in one process in turns, so that a busy machine slows them alike; medians, and the peak of memory.
CPU seconds divided by the threads bound from above what a busy machine would show as wall time; both are printed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import click
import torch

from benchmarks.harness import peak_mb
from stf.config import FLAGS, STFV8Config
from stf.model_size import multiply_adds, parameters
from stf.models.losses import STFV8Loss
from stf.models.network import build_network

VARIANTS = {"V7.3": STFV8Config(), "V8.0": STFV8Config.phase_b()}  # phase A has V7.3's network


def timed_s(work: Callable[[], object]) -> tuple[float, float]:
    """(wall, CPU) seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def works_of(config: STFV8Config, n_clips: int) -> dict[str, Callable[[], object]]:
    """{"forward", "forward + backward"} of one network on random clips."""
    model, loss = build_network(config), STFV8Loss(config)
    with torch.no_grad():  # snakes as bent as in training: straight ones read memory in order
        for name, parameter in model.named_parameters():
            if ".steps.weight" in name:
                parameter.normal_(std=0.3)
    video = torch.rand(n_clips, 3, config.num_frames, config.img_size, config.img_size)
    labels = torch.arange(n_clips) % 2

    def forward() -> None:
        with torch.no_grad():
            model.eval()(video)

    def step() -> None:
        loss(model.train()(video), labels)["total"].backward()

    return {"forward": forward, "forward + backward": step}


@click.command()
@click.option("--params", "params_path", default="params.yaml", show_default=True)
@click.option("--full-size", is_flag=True, help="32 frames of 224 px at full width, one clip.")
@click.option("--batch-size", type=int, help="Clips; default: that of the parameter file, 1 at full size.")
@click.option("--threads", default=2, show_default=True)
@click.option("--repeats", default=5, show_default=True)
def main(params_path: str, full_size: bool, batch_size: int | None, threads: int, repeats: int) -> None:
    """Times V7.3 (the network of phase A too) and V8.0 on random clips."""
    torch.set_num_threads(threads)
    base = STFV8Config() if full_size else STFV8Config.from_params(params_path)
    n = batch_size or (1 if full_size else base.batch_size)
    works, times = {}, {}
    for name, variant in VARIANTS.items():
        config = replace(base, **{flag: getattr(variant, flag) for flag in FLAGS})
        works[name] = works_of(config, n)
        size, work = sum(parameters(config).values()), multiply_adds(config).total
        click.echo(f"{name}: {size:,} parameters, {work / 1e9:.3g} G multiply-adds a clip")
    for kind in ("forward", "forward + backward"):
        for name in VARIANTS:
            works[name][kind]()
            times[name] = []
        for _ in range(repeats):
            for name in VARIANTS:
                times[name].append(timed_s(works[name][kind]))
        cpus = {}
        for name in VARIANTS:
            wall, cpu = (statistics.median(column) for column in zip(*times[name], strict=True))
            cpus[name] = cpu
            click.echo(
                f"{kind}, {name}: {wall:.2f} s wall, {cpu:.2f} s CPU for {n} clips on {threads} threads, "
                f"{n / wall:.2f} clips/s, CPU time × {cpu / cpus['V7.3']:.2f} of V7.3's, "
                f"{peak_mb(works[name][kind]):,.0f} MB"
            )


if __name__ == "__main__":
    main()
