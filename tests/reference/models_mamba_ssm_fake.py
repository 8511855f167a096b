"""A stand-in for the mamba-ssm package on machines without CUDA: its kernel's demands, the plain loop's numbers."""

import sys
from types import ModuleType

import torch
from torch import Tensor

from tests.reference import models_scan_plain as plain


def selective_scan_fn(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """u, delta (M, E, T), A (E, N), B and C (M, G, N, T) → (M, E, T); channel e belongs to group e // (E / G).

    Demands are those of csrc/selective_scan/selective_scan.cpp in version 2.3.2, for real A and variable B and C.
    Its optional arguments (D, z, delta_bias, delta_softplus, return_last_state) have no use here.
    """
    (M, E, T), N, G = u.shape, A.shape[1], B.shape[1]
    assert u.dtype in (torch.float32, torch.float16, torch.bfloat16)
    assert delta.dtype == B.dtype == C.dtype == u.dtype
    assert A.dtype == torch.float32
    assert delta.shape == (M, E, T)
    assert A.shape == (E, N)
    assert B.shape == C.shape == (M, G, N, T)
    assert E % G == 0
    assert N <= 256
    assert all(x.stride(-1) == 1 or x.shape[-1] == 1 for x in (u, delta, B, C))
    B_TMEN, C_TMEN = (x.permute(3, 0, 1, 2).repeat_interleave(E // G, dim=2) for x in (B, C))
    u_TME1, dt_TME1 = (x.permute(2, 0, 1).unsqueeze(-1) for x in (u, delta))
    y_TME1 = plain.selective_scan(u_TME1, dt_TME1, A.unsqueeze(1), B_TMEN, C_TMEN)
    return y_TME1.squeeze(-1).permute(1, 2, 0).contiguous()


def modules() -> dict[str, ModuleType]:
    """What `sys.modules` holds once the package is imported."""
    names = ("mamba_ssm", "mamba_ssm.ops", "mamba_ssm.ops.selective_scan_interface", "selective_scan_cuda")
    fakes = {name: ModuleType(name) for name in names}
    fakes["mamba_ssm"].ops = fakes["mamba_ssm.ops"]
    fakes["mamba_ssm.ops"].selective_scan_interface = fakes["mamba_ssm.ops.selective_scan_interface"]
    fakes["mamba_ssm.ops.selective_scan_interface"].selective_scan_fn = selective_scan_fn
    return fakes


def forget(monkeypatch) -> None:
    """Takes out whatever part of the real package has been imported, for the time of a test."""
    for name in list(sys.modules):
        if name.split(".")[0] in ("mamba_ssm", "selective_scan_cuda"):
            monkeypatch.delitem(sys.modules, name)


def install(monkeypatch) -> None:
    """`import mamba_ssm` finds the stand-in."""
    forget(monkeypatch)
    for name, module in modules().items():
        monkeypatch.setitem(sys.modules, name, module)


def remove(monkeypatch) -> None:
    """`import mamba_ssm` finds nothing."""
    forget(monkeypatch)
    for name in ("mamba_ssm", "selective_scan_cuda"):
        monkeypatch.setitem(sys.modules, name, None)
