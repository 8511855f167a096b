"""The network that a configuration asks for."""

from __future__ import annotations

from stf.config import PHASE_B_FLAGS, STFV8Config
from stf.models.backbone_v8 import STFMambaV8
from stf.models.backbone_v73 import STFMambaV73
from stf.models.scan_backends import resolve_backend


def build_network(config: STFV8Config, device: str = "cpu") -> STFMambaV73:
    """STFMambaV73, or STFMambaV8 when one of its flags is on, with the scan backend chosen for `device`.

    On the CPU still. Raises ConfigError when the configuration asks for mamba_ssm and `device` cannot run it.
    """
    has_upgrade = any(flag in PHASE_B_FLAGS for flag in config.active_flags())
    network = STFMambaV8 if has_upgrade else STFMambaV73
    return network(config, resolve_backend(config.ssm_backend, device))
