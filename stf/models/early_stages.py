"""What stands before stage 3: clip → stage 2's features, channels-last, at an even height and width.

Shapes: B clips, T frames, H and W rows and columns, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from stf.config import DCCONV, STFV8Config
from stf.models.dcconv_3d import DCConv3DBlock
from stf.models.spatial import HLLGate, PatchMerging, Stem, apply_gate
from stf.models.timm_stages import TimmStages

TRAINED_SLOWLY = ("stem", "stage1", "stage2")


class DCConvStages(nn.Module):
    """Stem and DCConv stages 1-2, weighed by the gates of the stem's HLL band: F_out = DCConv(F)·(1 + σ(HLL))."""

    def __init__(self, config: STFV8Config, drop_paths: Sequence[float]) -> None:
        super().__init__()
        c, kernel = config, config.dcconv_kernel_length
        rates1, rates2 = drop_paths[: c.stage1_blocks], drop_paths[c.stage1_blocks :]
        self.stem = Stem(c.in_channels, c.stem_dim)
        self.hll_gate = HLLGate(c.stem_dim, c.dwt_channels, c.dwt_hidden_dim, (c.stage1_dim, c.stage2_dim))
        blocks1 = (DCConv3DBlock(c.stage1_dim, kernel, rate) for rate in rates1)
        self.stage1 = nn.Sequential(nn.Linear(c.stem_dim, c.stage1_dim), *blocks1)
        blocks2 = (DCConv3DBlock(c.stage2_dim, kernel, rate) for rate in rates2)
        self.stage2 = nn.Sequential(PatchMerging(c.stage1_dim, c.stage2_dim), *blocks2)

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        """(B, 3, T, H, W) in [0, 1] → stage 2's gated output, (B, T, H/8, W/8, stage2_dim)."""
        stem = self.stem(video_BCTHW)
        gate1, gate2 = self.hll_gate(stem)
        return apply_gate(self.stage2(apply_gate(self.stage1(stem), gate1)), gate2)

    def backbone_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """(name, parameter) of what trains at `backbone_lr_scale`: all but the gate."""
        return ((n, p) for n, p in self.named_parameters() if n.split(".")[0] in TRAINED_SLOWLY)


def build_early_stages(config: STFV8Config, drop_paths: Sequence[float]) -> DCConvStages | TimmStages:
    """The stages that `config.spatial_backbone` names; `drop_paths` are the rates of the blocks of stages 1 and 2.

    A timm network comes without weights (timm_stages.py): they are in the checkpoint, or a new network gets them by
    spatial_weights.load_spatial_weights.
    """
    return DCConvStages(config, drop_paths) if config.spatial_backbone == DCCONV else TimmStages(config)
