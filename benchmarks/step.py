"""A training step through network and loss, of V7.3 (the same network as A) and of B: python -m benchmarks.step

On a batch of random clips of the sample's size, or one full-size clip (`--full-size`, minutes), with and without
activation checkpointing. The snakes are bent as after training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import click
import torch

from benchmarks.harness import interleaved, print_table
from stf.config import FLAGS, STFV8Config
from stf.models.checkpointing import use_checkpointing
from stf.models.losses import STFV8Loss
from stf.models.network import build_network
from stf.models.size import multiply_adds, parameters

VARIANTS = {"V7.3": STFV8Config(), "B": STFV8Config.phase_b()}
CHECKPOINTED = ", checkpointing"


def works_of(config: STFV8Config, n_clips: int) -> dict[str, Callable[[], object]]:
    """{"forward", "forward and backward", the latter checkpointed} of one network on random clips."""
    model, loss = build_network(config), STFV8Loss(config)
    with torch.no_grad():  # straight snakes would read memory in order, which is faster
        for name, parameter in model.named_parameters():
            if ".steps.weight" in name:
                parameter.normal_(std=0.3)
    video = torch.rand(n_clips, 3, config.num_frames, config.img_size, config.img_size)
    labels = torch.arange(n_clips) % 2

    def forward() -> None:
        with torch.no_grad():
            model.eval()(video)

    def step(checkpointing: bool) -> None:
        use_checkpointing(model, checkpointing)
        loss(model.train()(video), labels)["total"].backward()
        model.zero_grad(set_to_none=True)

    return {
        "forward": forward,
        "forward and backward": lambda: step(False),
        f"forward and backward{CHECKPOINTED}": lambda: step(True),
    }


@click.command(help=__doc__)
@click.option(
    "--full-size", is_flag=True, help="One clip of 32 × 224² at full width instead of params.yaml's batch."
)
@click.option("--threads", default=1, show_default=True)
@click.option("--repeats", type=int, help="Rounds; default 3, at full size 1.")
def main(full_size: bool, threads: int, repeats: int | None) -> None:
    torch.set_num_threads(threads)
    base = STFV8Config() if full_size else STFV8Config.from_params("params.yaml")
    n_clips = 1 if full_size else base.batch_size
    works = {}
    for name, variant in VARIANTS.items():
        config = replace(base, **{flag: getattr(variant, flag) for flag in FLAGS})
        works[name] = works_of(config, n_clips)
        size, work = sum(parameters(config).values()), sum(multiply_adds(config).values())
        click.echo(f"{name}: {size:,} parameters, {work / 1e9:.3g} G multiply-adds a clip")
    click.echo()
    clips = f"{n_clips} clip{'s' * (n_clips > 1)} of {base.num_frames} × {base.img_size}²"
    for kind in works["V7.3"]:
        measured = interleaved(
            {n: w[kind] for n, w in works.items()}, repeats or (1 if full_size else 3), warmup=not full_size
        )
        print_table(f"{kind.capitalize()}, {clips}", measured, "V7.3", unit="s")


if __name__ == "__main__":
    main()
