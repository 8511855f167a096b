"""Inference on one full-size clip (32 frames of 224 px) on the CPU, against efficientnet_b4 on 32 frames of 380 px.

    python -m benchmarks.infer [--threads 2]

SBI and many later detectors score frames with EfficientNet-B4 at 380 px. It runs channels-last, one frame at a time,
which was fastest here (of 1, 2, 4 and 8 frames, channels first or last). All weights are random; the snakes are bent as
after training.
"""

from __future__ import annotations

from collections.abc import Callable

import click
import timm
import torch
from torch import nn

from benchmarks.harness import interleaved, print_table
from stf.config import STFV8Config
from stf.models.network import build_network

VARIANTS = {"V7.3 and A": STFV8Config.phase_a(), "B": STFV8Config.phase_b()}
REFERENCE = "efficientnet_b4, 380 px"
FRAMES, FRAMES_AT_ONCE = 32, 1


def bent(config: STFV8Config) -> nn.Module:
    """The network of `config` with bent snakes: straight ones read memory in order, which is faster."""
    network = build_network(config).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if ".steps.weight" in name:
                parameter.normal_(std=0.3)
    return network


def scored(network: nn.Module, video: torch.Tensor) -> Callable[[], object]:
    """One forward pass."""

    def run() -> object:
        with torch.inference_mode():
            return network(video)

    return run


def framewise() -> Callable[[], object]:
    """The reference on all frames of a clip."""
    network = timm.create_model("efficientnet_b4", num_classes=2).eval().to(memory_format=torch.channels_last)  # pyright: ignore
    frames = torch.rand(FRAMES_AT_ONCE, 3, 380, 380).to(memory_format=torch.channels_last)

    def run() -> object:
        with torch.inference_mode():
            return [network(frames) for _ in range(FRAMES // FRAMES_AT_ONCE)]

    return run


@click.command(help=__doc__)
@click.option("--repeats", default=1, show_default=True)
@click.option("--threads", default=1, show_default=True)
def main(repeats: int, threads: int) -> None:
    torch.set_num_threads(threads)
    works = {REFERENCE: framewise()}
    for name, config in VARIANTS.items():
        shape = (1, 3, config.num_frames, config.img_size, config.img_size)
        works[name] = scored(bent(config), torch.rand(shape))
    print_table("Scoring one clip of 32 frames", interleaved(works, repeats), REFERENCE, unit="s")


if __name__ == "__main__":
    main()
