"""Parameters and multiply-adds of a network, part by part, counted on the network itself.

On torch's meta device, where a tensor has a shape and no values: a network of any size takes no memory and a forward
pass a fraction of a second. FlopCounterMode counts matrix products, convolutions and attention, two operations to a
multiply-add. It does not count the snakes' trilinear sampling, the scans' decay and input (their read-out is a
product), Mamba's depthwise convolution along time, norms, activations and other element-wise steps.
"""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from stf.config import DCCONV, STFV8Config
from stf.models.network import meta_network

DCCONV_PARTS = {
    "stem": ("early.stem",),
    "HLL gate": ("early.hll_gate",),
    "stage 1": ("early.stage1",),
    "stage 2": ("early.stage2",),
}
TIMM_PARTS = {"timm backbone": ("early",)}
LATER_PARTS = {
    "energies": ("energy_dwt",),
    "wavelet-selective scan": ("frequency",),
    "adaptive state": ("state_gate",),
    "stage 3": ("merge3", "stage3"),
    "stage 4": ("merge4", "stage4"),
    "head": ("head_norm", "head"),
}


def parameters(config: STFV8Config) -> dict[str, int]:
    """Parameters of each part of the network; raises ConfigError for a network that is too large to be built."""
    modules = dict(meta_network(config).named_modules())
    sizes = {path: sum(p.numel() for p in module.parameters()) for path, module in modules.items()}
    return _by_part(config, sizes)


def multiply_adds(config: STFV8Config) -> dict[str, int]:
    """Multiply-adds of each part for one clip, as the head of this file counts them; raises as `parameters` does.

    "energies" is the rest: the wavelet transforms are called as functions, which the counter does not see as modules.
    """
    network = meta_network(config).eval()
    side, name = config.img_size, type(network).__name__
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.empty(1, config.in_channels, config.num_frames, side, side))
    flops = {path: sum(of_module.values()) for path, of_module in counter.get_flop_counts().items()}
    counts = {path.removeprefix(f"{name}."): n // 2 for path, n in flops.items()}
    parts = _by_part(config, counts)
    parts["energies"] = counter.get_total_flops() // 2 - sum(
        n for part, n in parts.items() if part != "energies"
    )
    return parts


def _by_part(config: STFV8Config, counts: dict[str, int]) -> dict[str, int]:
    """{part: sum over its modules} from {module's path: count}, the parts that the network has."""
    paths = (DCCONV_PARTS if config.spatial_backbone == DCCONV else TIMM_PARTS) | LATER_PARTS
    sums = {part: sum(counts.get(path, 0) for path in modules) for part, modules in paths.items()}
    return {part: n for part, n in sums.items() if n or part == "energies"}


def size_text(config: STFV8Config) -> str:
    """Two lines: parameters and multiply-adds per clip, each with its parts."""
    counts, work = parameters(config), multiply_adds(config)
    by_part = ", ".join(f"{part} {n:,}" for part, n in counts.items())
    by_work = ", ".join(f"{part} {n / 1e9:.3g} G" for part, n in work.items())
    return (
        f"parameters: {sum(counts.values()):,} ({by_part})\n"
        f"multiply-adds per clip: {sum(work.values()) / 1e9:.4g} G ({by_work}), without sampling and scans' decay"
    )
