"""Clips that look like a camera's: a smooth texture that drifts, uneven light, sensor noise. And ones that flicker."""

import torch
from torch import Tensor
from torch.nn import functional as F


def camera_clips(n: int, n_frames: int, size_px: int, seed: int = 0, noise: float = 2 / 255) -> Tensor:
    """(n, 3, T, S, S) in [0, 1]: 1/f-like texture on a random walk, 1 % light flicker, `noise` per pixel."""
    draw = torch.Generator().manual_seed(seed)
    texture = torch.full((n, 3, size_px, size_px), 0.5)
    for cells in (4, 8, 16, 32):
        coarse = torch.randn(n, 3, cells, cells, generator=draw)
        texture += 0.72 / cells * F.interpolate(coarse, (size_px, size_px), mode="bicubic")
    speed, pose, frames = torch.zeros(n, 2), torch.eye(2, 3).repeat(n, 1, 1), []
    for _ in range(n_frames):
        speed = 0.9 * speed + 0.004 * torch.randn(n, 2, generator=draw)
        pose[:, :, 2] += speed
        grid = F.affine_grid(pose, [n, 3, size_px, size_px], align_corners=False)
        frame = F.grid_sample(texture, grid, padding_mode="reflection", align_corners=False)
        frame = frame * (1 + 0.01 * torch.randn(n, 1, 1, 1, generator=draw))
        frames.append(frame + noise * torch.randn(frame.shape, generator=draw))
    return torch.stack(frames, 2).clamp(0, 1)


def with_flicker(video_BCTHW: Tensor, strength: float = 0.1) -> Tensor:
    """The middle of every second frame darkened: the flicker of a badly blended face."""
    n = video_BCTHW.shape[-1]
    fake = video_BCTHW.clone()
    fake[:, :, ::2, n // 4 : -n // 4, n // 4 : -n // 4] -= strength
    return fake.clamp(0, 1)


def pairs(
    n_pairs: int, n_frames: int, size_px: int, seed: int = 0, strength: float = 0.1
) -> tuple[Tensor, Tensor]:
    """(2n, 3, T, S, S) and labels 0, 1, 0, 1, …: each real followed by its flickering copy."""
    real = camera_clips(n_pairs, n_frames, size_px, seed)
    video = torch.stack((real, with_flicker(real, strength)), 1).flatten(0, 1)
    return video, torch.arange(2 * n_pairs) % 2
