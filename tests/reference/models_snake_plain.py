"""The snake convolution as its definition: every tap's position, eight corners by hand, all taps kept."""

import itertools

import torch
from torch import Tensor


def sample(x_BTHWS: Tensor, place_BTHW3: Tensor) -> Tensor:
    """Trilinear interpolation at places (t, y, x) in pixels, clamped at the borders; (B, T, H, W, S)."""
    sizes = x_BTHWS.shape[1:4]
    position = torch.stack([place_BTHW3[..., i].clamp(0, n - 1) for i, n in enumerate(sizes)], -1)
    low = torch.stack([position[..., i].detach().floor().clamp(0, n - 2) for i, n in enumerate(sizes)], -1)
    share = position - low
    b = torch.arange(len(x_BTHWS)).view(-1, 1, 1, 1)
    out = torch.zeros_like(x_BTHWS)
    for corner in itertools.product((0, 1), repeat=3):
        t, y, x = (low[..., i].long() + c for i, c in enumerate(corner))
        weight = torch.ones_like(share[..., 0])
        for i, c in enumerate(corner):
            weight = weight * (share[..., i] if c else 1 - share[..., i])
        out = out + x_BTHWS[b, t, y, x] * weight[..., None]
    return out


def snake(x_BTHWS: Tensor, context_BTHWC: Tensor, module: torch.nn.Module) -> Tensor:
    """DCConv3D's formula: sample first, multiply by the tap's matrix after."""
    N = module.arm_length
    raw = context_BTHWC @ module.steps.weight.T + module.steps.bias
    steps_xyt = torch.tanh(raw).unflatten(-1, (3, 2, N, 3))
    steps = steps_xyt.flip(-1)  # (Δt, Δy, Δx)
    here = torch.stack(torch.meshgrid(*(torch.arange(n) for n in x_BTHWS.shape[1:4]), indexing="ij"), -1)
    outputs = []
    for axis in range(3):
        y = x_BTHWS @ module.weight[axis, N].T
        for arm, n in itertools.product((0, 1), range(1, N + 1)):
            position = here + steps[..., axis, arm, :n, :].sum(-2)
            ahead = torch.zeros(3, dtype=position.dtype)
            ahead[axis] = n if arm else -n
            y = y + sample(x_BTHWS, position + ahead) @ module.weight[axis, N + (n if arm else -n)].T
        outputs.append(y)
    return torch.cat(outputs, -1) + module.bias
