"""Wavelet-selective scan, one clip, one time and one frame at a time: what stf.models.wss_module must equal."""

import math

import torch
from torch import Tensor

from stf.models.dwt_3d import BANDS
from stf.models.wss_module import WaveletSelectiveScan


def log_energy(values: Tensor) -> Tensor:
    """½·ln(1e-4 + mean square) - ¼·ln 1e-4 over all but the channels."""
    mean = (values.reshape(-1, values.shape[-1]) ** 2).mean(0)
    return 0.5 * torch.log(mean + 1e-4) - 0.25 * math.log(1e-4)


def gru(steps: list[Tensor], module: torch.nn.GRU, suffix: str) -> list[Tensor]:
    """The states of one direction (Cho et al. 2014, in torch's form of the candidate)."""
    w_in, w_state = getattr(module, f"weight_ih_l0{suffix}"), getattr(module, f"weight_hh_l0{suffix}")
    b_in, b_state = getattr(module, f"bias_ih_l0{suffix}"), getattr(module, f"bias_hh_l0{suffix}")
    state, states = torch.zeros(w_state.shape[1], dtype=w_state.dtype), []
    for x in steps:
        (r_x, z_x, n_x), (r_h, z_h, n_h) = (w_in @ x + b_in).chunk(3), (w_state @ state + b_state).chunk(3)
        reset, keep = torch.sigmoid(r_x + r_h), torch.sigmoid(z_x + z_h)
        state = (1 - keep) * torch.tanh(n_x + reset * n_h) + keep * state
        states.append(state)
    return states


def lerp(samples: list[Tensor], position: float) -> Tensor:
    """The value at `position` between samples 0, 1, …; the outermost beyond them."""
    position = min(max(position, 0.0), len(samples) - 1.0)
    low = min(int(position), len(samples) - 2)
    return samples[low] + (position - low) * (samples[low + 1] - samples[low])


def forward(module: WaveletSelectiveScan, x_THWD: Tensor, bands: dict[str, Tensor]) -> Tensor:
    """One clip; bands (T/2, H/2, W/2, C)."""
    T, H, W, _ = x_THWD.shape
    kept = {name: band[1:-1] for name, band in bands.items()}
    steps = [log_energy(hll) for hll in kept["HLL"]]
    flow = module.temporal.gru
    ahead, back = gru(steps, flow, ""), gru(steps[::-1], flow, "_reverse")[::-1]
    channel_gate = torch.sigmoid(
        module.spatial.channel_gate(torch.cat([log_energy(kept[name]) for name in BANDS]))
    )
    changes = []
    for t in range(T // 2 - 2):
        flicker_gate = torch.sigmoid(module.temporal.gate(torch.cat((ahead[t], back[t]))))
        texture = module.spatial.texture(torch.cat((kept["HHH"][t].abs(), kept["HLH"][t].abs()), -1))
        changes.append(module.project(texture * channel_gate * flicker_gate))
    frames = []
    for t in range(T):  # band coefficient i is changes[i - 1] and stands at frame 2i + 0.5
        coarse = lerp(changes, (t - 0.5) / 2 - 1)
        rows = torch.stack([lerp(list(coarse), (y - 0.5) / 2) for y in range(H)])
        frames.append(torch.stack([lerp(list(rows.transpose(0, 1)), (x - 0.5) / 2) for x in range(W)], 1))
    return x_THWD + torch.stack(frames)
