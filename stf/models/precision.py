"""Parts of the network that are computed in float32 whatever autocast says."""

from __future__ import annotations

import torch
from torch import Tensor


def without_autocast(x: Tensor) -> torch.autocast:
    """A context without autocast on x's device; the meta device (size.py) has none, so there it is the CPU's."""
    return torch.autocast("cpu" if x.is_meta else x.device.type, enabled=False)
