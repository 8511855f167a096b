"""The network that a configuration asks for: its weights on the CPU, or its shapes alone on torch's meta device."""

from __future__ import annotations

import torch

from stf.config import PHASE_B_FLAGS, STFV8Config
from stf.errors import ConfigError
from stf.models.backbone_v8 import STFMambaV8
from stf.models.backbone_v73 import STFMambaV73
from stf.models.scan_backends import resolve_backend

MAX_PARAMETERS = 4_000_000_000  # 16 GB of weights


def build_network(config: STFV8Config, device: str = "cpu") -> STFMambaV73:
    """STFMambaV73, or STFMambaV8 when one of its flags is on, with the scan backend chosen for `device`.

    Still on the CPU. Raises ConfigError when the configuration asks for mamba_ssm and `device` cannot run it, or for
    more than MAX_PARAMETERS.
    """
    backend = resolve_backend(config.ssm_backend, device)
    meta_network(config)
    return _network_class(config)(config, backend)


def meta_network(config: STFV8Config) -> STFMambaV73:
    """The network as shapes without values, whatever its size: no memory, no random numbers, some 20 ms.

    Raises ConfigError when it has more than MAX_PARAMETERS.
    """
    with torch.device("meta"):
        network = _network_class(config)(config, "conv1d" if config.ssm_backend == "conv1d" else "torch")
    size = sum(parameter.numel() for parameter in network.parameters())
    if size > MAX_PARAMETERS:
        raise ConfigError(
            f"the network would have {size:.1e} parameters; at most {MAX_PARAMETERS:.0e} are built: lower the widths "
            "(stage1_dim to stage4_dim, d_state, ssm_expand) or the numbers of blocks"
        )
    return network


def _network_class(config: STFV8Config) -> type[STFMambaV73]:
    return STFMambaV8 if any(flag in PHASE_B_FLAGS for flag in config.active_flags()) else STFMambaV73
