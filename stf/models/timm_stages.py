"""A timm network in place of stem and stages 1-2: every frame by itself, from one of its feature maps.

`model.spatial_backbone: timm:<name>` takes any of timm's networks that gives intermediate feature maps: ConvNeXt
and other pyramids (their map of stride 8, the layers behind it are dropped) and ViTs (the patch grid of their
last block). Frames do not see each other before stage 3, and the gates that DCConvStages set from its stem's HLL
band do not exist here; the energies' DWT acts on the learned projection of this module's output, as without timm.
Shapes: B clips, T frames, H and W pixels, h and w cells of the network's map, C its channels.

Memory: all B·T frames go through at once. Frozen, nothing is stored for backward (512 frames of 224 px: 1.2 GB at a
time in ConvNeXt-T, 0.8 in DINOv2's ViT-B/14, bfloat16); trained, a block's inside is computed again in
backward, so that ViT-B/14 keeps 2.4 GB.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import timm
import torch
from timm.data.config import resolve_model_data_config
from timm.models import get_pretrained_cfg, safe_model_name
from torch import Tensor, nn

from stf.config import TIMM_PREFIX, STFV8Config, nearest_name
from stf.errors import CheckpointError, ConfigError
from stf.models.resample import resize_axis

STRIDE = 8  # of stage 2's features, which this module's output replaces
_NEEDED = ("feature_info", "forward_intermediates", "prune_intermediate_layers")


def timm_config(name: str) -> Any:
    """timm's PretrainedCfg of a model, with or without a tag; raises ConfigError with the nearest name."""
    try:
        config = get_pretrained_cfg(name, allow_unregistered=False) if timm.is_model(name) else None
    except RuntimeError:  # the model exists, the tag does not
        config = None
    if config is None:
        known = [*timm.list_models(), *timm.list_pretrained()]
        raise ConfigError(
            f'spatial_backbone is "timm:{name}", which timm {timm.__version__} does not have'
            f"{nearest_name(name, known)}; timm.list_pretrained() lists what it has weights for"
        )
    return config


def build_timm_network(
    name: str, img_size: int, weights: dict[str, Tensor] | None = None
) -> tuple[Any, int, int | None]:
    """(network, index of its feature map, side in pixels that frames must have or None for any).

    The map is the one whose stride is nearest to 8, of equals the last; what lies behind it is dropped.
    `weights` go in as timm loads a checkpoint: names of other releases are translated, position embeddings
    resized, the classifier left out. The network is of timm's classes, which share methods but no type.
    """
    config = timm_config(name)
    overlay = {} if weights is None else {"state_dict": weights}
    network: Any = timm.create_model(
        name, pretrained=weights is not None, pretrained_cfg_overlay=overlay, num_classes=0
    )
    if not all(hasattr(network, method) for method in _NEEDED):
        raise ConfigError(
            f'spatial_backbone "{name}" gives no intermediate features; choose a ConvNeXt or a ViT'
        )
    strides = [info["reduction"] for info in network.feature_info]
    index = min(range(len(strides)), key=lambda i: (abs(math.log2(strides[i] / STRIDE)), -i))
    side = None
    if config.fixed_input_size:
        side = config.input_size[-1]
        if hasattr(network, "set_input_size"):
            side = max(1, round(img_size / strides[index])) * strides[index]
            network.set_input_size(img_size=(side, side))
    network.prune_intermediate_layers([index], prune_norm=True)
    return network, index, side


class TimmStages(nn.Module):
    """Frames → timm network → norm and learned projection to stage2_dim → resized to (H/8, W/8), even.

    Built without weights: they come from a checkpoint of ours or from spatial_weights.load_spatial_weights, and
    `forward` raises CheckpointError until then. A buffer marks that they are loaded; it is saved with the weights,
    under the timm network's name, so that the weights of another network do not set it.

    The network stays in eval mode: batch norms keep their pretrained statistics, which the frames of a clip,
    all alike, would spoil. With `spatial_frozen` only the norm and the projection are trained.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: STFV8Config) -> None:
        super().__init__()
        self.name, self.img_size = config.spatial_backbone.removeprefix(TIMM_PREFIX), config.img_size
        self.frozen = config.spatial_frozen
        self.network, self.index, self.side = build_timm_network(self.name, self.img_size)
        self.network.requires_grad_(not self.frozen).eval()
        if not self.frozen:
            with contextlib.suppress(AssertionError):  # what timm raises for a network that cannot
                self.network.set_grad_checkpointing(True)
        parameters = dict(self.network.named_parameters())
        for exempt in parameters.keys() & self._exempt_from_decay():
            parameters[exempt]._no_weight_decay = True
        channels = self.network.feature_info[self.index]["num_chs"]
        self.norm, self.project = nn.LayerNorm(channels), nn.Linear(channels, config.stage2_dim)
        data = resolve_model_data_config(self.network)
        for statistic in ("mean", "std"):
            self.register_buffer(statistic, torch.tensor(data[statistic]).view(3, 1, 1), persistent=False)
        self._mark = f"loaded_{safe_model_name(self.name)}"
        self.register_buffer(self._mark, torch.tensor(False))
        self._known_loaded = False  # reading the buffer in every step would make a CUDA device wait

    def _exempt_from_decay(self) -> set[str]:
        exempt_names = getattr(self.network, "no_weight_decay", set)
        return set(exempt_names())

    def load(self, weights: dict[str, Tensor]) -> None:
        """Takes the timm network's own state_dict, and marks it as loaded."""
        self.network.load_state_dict(weights)
        self.get_buffer(self._mark).fill_(True)

    def _require_weights(self) -> None:
        mark = self.get_buffer(self._mark)
        if mark.is_meta:
            return  # counted, not computed (size.py)
        if not self._known_loaded and not mark.item():
            raise CheckpointError(
                f"the timm network {self.name} has no weights: call load_spatial_weights(model, config), or load "
                "a checkpoint of a network with the same spatial_backbone"
            )
        self._known_loaded = True

    def forward(self, video_BCTHW: Tensor) -> Tensor:
        """(B, 3, T, H, W) in [0, 1] → (B, T, H/8, W/8, stage2_dim); H and W multiples of 16."""
        self._require_weights()
        B, _, _, H, W = video_BCTHW.shape
        frames = (video_BCTHW.transpose(1, 2).flatten(0, 1) - self.mean) / self.std
        if self.side is not None:
            frames = resize_axis(resize_axis(frames, self.side, 2), self.side, 3)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            maps = self.network.forward_intermediates(
                frames, indices=[self.index], output_fmt="NCHW", intermediates_only=True
            )
        x = self.project(self.norm(maps[0].movedim(1, -1)))  # (B·T, h, w, stage2_dim)
        return resize_axis(resize_axis(x, H // STRIDE, 1), W // STRIDE, 2).unflatten(0, (B, -1))

    def train(self, mode: bool = True) -> TimmStages:
        super().train(mode)
        self.network.eval()
        return self

    def backbone_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """(name, parameter) of the timm network: trained at `backbone_lr_scale`, or, frozen, not at all."""
        return ((n, p) for n, p in self.named_parameters() if n.startswith("network."))
