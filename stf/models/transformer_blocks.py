"""Stage 4: global self-attention over all tokens of a clip. Shapes: B clips, L tokens (T·H·W), D channels."""

from __future__ import annotations

import math

import torch
from timm.layers.drop import DropPath
from timm.layers.mlp import Mlp
from torch import Tensor, nn
from torch.nn import functional as F

from stf.models.checkpointing import CheckpointedBlock


def position_code(n_THW: tuple[int, int, int], dim: int) -> Tensor:
    """(T, H, W, dim) sines and cosines (Vaswani et al. 2017, section 3.5), a third of the channels per axis.

    Fixed rather than learned, so a checkpoint serves any clip length and image size.
    """
    n_frequencies = max(1, dim // 6)
    frequencies = torch.exp(torch.arange(n_frequencies) * (-math.log(100.0) / n_frequencies))
    code = torch.zeros(*n_THW, dim)
    for axis, n in enumerate(n_THW):
        angle = torch.arange(n)[:, None] * frequencies
        line = torch.cat((angle.sin(), angle.cos()), dim=1)
        width = min(line.shape[1], dim - axis * line.shape[1])
        if width > 0:
            shape = [1, 1, 1, width]
            shape[axis] = n
            code[..., axis * line.shape[1] :][..., :width] = line[:, :width].view(shape)
    return code


class TransformerBlock(CheckpointedBlock):
    """h = x + MHA(Norm x); out = h + MLP(Norm h); (B, L, D) → the same (pre-norm, Xiong et al. 2020)."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, drop_path: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def attend(self, x_BLD: Tensor) -> Tensor:
        """Multi-head attention of every token to every token, by torch's fused kernel."""
        q, k, v = self.qkv(x_BLD).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def forward(self, x_BLD: Tensor) -> Tensor:
        h = x_BLD + self.drop_path(self.attend(self.norm1(x_BLD)))
        return h + self.drop_path(self.mlp(self.norm2(h)))
