"""Which implementation runs the state-space scans on this machine.

torch      stf.models.scan and ssd, exact on CPU and GPU, bit-identical over runs
mamba_ssm  the mamba-ssm package's CUDA and Triton kernels, of the same parameters: a checkpoint moves between the
           two. Meant to equal torch to float32 rounding in scan.py and to three digits in ssd.py, whose products
           are TF32 (the tests marked gpu measure it); gradients add up in an order that varies from run to run.
conv1d     Conv1DSequenceMixer in place of the state-space model: other parameters, an approximation that is
           chosen only by name
"""

from __future__ import annotations

from typing import Literal

from stf.config import ScanBackend
from stf.errors import ConfigError

KernelBackend = Literal["torch", "mamba_ssm"]  # of a scan
SsmBackend = Literal["torch", "mamba_ssm", "conv1d"]  # of a network

INSTALL = (
    "on a machine with an NVIDIA GPU, nvcc and this project installed, "
    "`pip install setuptools wheel packaging ninja`, then "
    "`MAMBA_FORCE_BUILD=TRUE pip install --no-build-isolation -e '.[cuda]'`"
)


def unusable_because(device: str) -> str:
    """The reason why mamba-ssm's kernels cannot run on `device`; an empty string when they can.

    Importing them is the only test that counts: a package built without nvcc installs, and fails on the import of
    selective_scan_cuda; one built against another torch fails on an undefined symbol.
    """
    if not device.startswith("cuda"):
        return f"its kernels need CUDA and the device is {device}"
    try:
        # selective_scan_cuda by name too: versions after 2.3.2 import without it and fail at the first scan instead
        import mamba_ssm.ops.selective_scan_interface  # pyright: ignore[reportMissingImports]  # noqa: F401
        import selective_scan_cuda  # pyright: ignore[reportMissingImports]  # noqa: F401
    except (ImportError, OSError, RuntimeError, AttributeError, TypeError) as error:
        # mamba_ssm imports triton, tilelang and transformers, which raise all of these where versions do not match
        reason = " ".join(str(error).split())[:150] or type(error).__name__
        return f"the package mamba_ssm cannot be imported ({reason})"
    return ""


def resolve_backend(requested: ScanBackend, device: str) -> SsmBackend:
    """The backend for `device` ("cpu", "cuda", "cuda:1"): "auto" is mamba_ssm where it runs, else torch.

    Raises ConfigError when mamba_ssm is requested by name and cannot run: no other backend replaces it silently.
    """
    if requested in ("torch", "conv1d"):
        return requested
    reason = unusable_because(device)
    if not reason:
        return "mamba_ssm"
    if requested == "auto":
        return "torch"
    raise ConfigError(
        f'model.ssm_backend is "mamba_ssm", but {reason}. To install it: {INSTALL}. '
        'Or set model.ssm_backend to "auto" or "torch": same parameters, slower on a GPU'
    )


def portable(requested: ScanBackend) -> ScanBackend:
    """The backend to request for evaluation: weights trained with mamba_ssm run with torch on a machine without it."""
    return "auto" if requested == "mamba_ssm" else requested
