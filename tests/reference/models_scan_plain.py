"""Mamba-1 written out: one step of time, one formula, autograd does the rest."""

import torch
from torch import Tensor
from torch.nn import functional as F


def selective_scan(u_TMGD: Tensor, dt_TMGD: Tensor, A_GDN: Tensor, B_TMGN: Tensor, C_TMGN: Tensor) -> Tensor:
    """y_t = C_t·h_t, h_t = exp(dt_t·A)·h_{t-1} + dt_t·B_t·u_t, every state of every step kept."""
    h = u_TMGD.new_zeros(*u_TMGD.shape[1:], A_GDN.shape[2])
    ys = []
    for u, dt, B, C in zip(u_TMGD, dt_TMGD, B_TMGN, C_TMGN, strict=True):
        h = torch.exp(dt[..., None] * A_GDN) * h + (dt * u)[..., None] * B[:, :, None, :]
        ys.append((h * C[:, :, None, :]).sum(-1))
    return torch.stack(ys)


def one_direction(x_MTE: Tensor, p: dict[str, Tensor], rank: int, n_states: int) -> Tensor:
    """Convolution, SiLU, projections, scan and skip of one direction of MambaVisionMixer; (M, T, E)."""
    weight = p["conv_weight"].T.flip(1).unsqueeze(1)  # conv1d's last tap is the present
    padded = F.pad(x_MTE.mT, (weight.shape[2] - 1, 0))
    u = F.silu(F.conv1d(padded, weight, p["conv_bias"], groups=x_MTE.shape[2])).mT
    low, B, C = (u @ p["x_proj"]).split([rank, n_states, n_states], -1)
    dt = F.softplus(low @ p["dt_proj"] + p["dt_bias"])
    first = [z.transpose(0, 1)[:, :, None] for z in (u, dt, B, C)]
    y = selective_scan(first[0], first[1], -torch.exp(p["A_log"])[None], first[2], first[3])
    return y[:, :, 0].transpose(0, 1) + u * p["D"]


def mixer(x_MTD: Tensor, module: torch.nn.Module) -> Tensor:
    """MambaVisionMixer's formula: each direction by itself, the second on the reversed sequence."""
    E = module.d_inner
    x_0, x_1, gate_0, gate_1 = (x_MTD @ module.in_proj.weight.T).split(E, -1)
    names = ("conv_bias", "x_proj", "dt_proj", "dt_bias", "A_log", "D")
    outputs = []
    for g, x in enumerate((x_0, x_1.flip(1))):
        p = {name: getattr(module, name)[g] for name in names} | {"conv_weight": module.conv_weight[:, g]}
        outputs.append(one_direction(x, p, module.rank, module.d_state))
    y = torch.cat((outputs[0], outputs[1].flip(1)), -1)
    return (y * F.silu(torch.cat((gate_0, gate_1), -1))) @ module.out_proj.weight.T
