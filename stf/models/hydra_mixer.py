"""Stage 3 of V8.0: Hydra's mixer along time, the convolution that can replace it, and the blocks around them.

Shapes: B clips, M sequences (clip × location), T frames, D model channels, E = expand·D inner channels, H heads of P
channels (E = H·P), N states, G = 2 directions (forward, backward in time), K taps; "x" between B and T stands for any
number of axes of locations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from timm.layers.attention import Attention
from timm.layers.drop import DropPath
from torch import Tensor, nn
from torch.nn import functional as F

from stf.models.checkpointing import CheckpointedBlock
from stf.models.mamba_blocks import DT_MAX, DT_MIN, SCAN_DIRECTIONS, MambaBlock, mix_sequences
from stf.models.scan_backends import KernelBackend
from stf.models.ssd import quasiseparable_mix

MixerFactory = Callable[[], nn.Module]
LARGEST_HEAD, FEWEST_HEADS = 64, 4
REACH_PER_D_CONV = 4  # how far Conv1DSequenceMixer sees, in frames on either side, over d_conv


def hydra_head_dim(d_inner: int) -> int:
    """Channels P of a head: the largest divisor of d_inner that is at most 64 and leaves 4 heads (1 if none is).

    A head has one decay, so a narrow network needs several; and the (T, T) matrices of all heads take T / P of
    the memory of x, so a wide network's heads are no narrower than a clip is long: 64 at the full 768 channels.
    """
    widest = max(1, min(LARGEST_HEAD, d_inner // FEWEST_HEADS))
    return max(p for p in range(1, widest + 1) if d_inner % p == 0)


def odd_kernel(d_conv: int) -> int:
    """Taps of Hydra's convolution: d_conv, one more if it is even, so that it reaches as far ahead as back."""
    return d_conv + 1 - d_conv % 2


class HydraQuasiseparableMixer(nn.Module):
    """(M, T, D) → the same; every frame sees past and future (Hwang, Lahoti et al. 2024, "Hydra", section 3.2).

        z, x, B, C, dt = W_in·input                 B, C and dt for either direction
        x, B, C        = SiLU(conv(x, B, C))        depthwise, as far ahead as back, zeros outside the clip
        y              = shift(SS(x)) + flip(shift(SS(flip x))) + x·(W_D·x + D)
        output         = W_out·(RMSNorm(y)·SiLU(z))

    The directions share everything but the rows of W_in and of the convolution that make their B, C and dt, hence
    half of MambaVisionMixer's parameters. Decay A, D and the bias of dt are one number per head.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        backend: KernelBackend = "torch",
    ) -> None:
        super().__init__()
        self.backend: KernelBackend = backend
        G, E, N = SCAN_DIRECTIONS, expand * d_model, d_state
        P = hydra_head_dim(E)
        H, convolved, kernel = E // P, E + 2 * G * N, odd_kernel(d_conv)
        self.head_dim, self.d_state = P, N
        self.widths = [E, convolved, G * H]  # of z; x, B and C; dt
        self.in_proj = nn.Linear(d_model, sum(self.widths), bias=False)
        self.conv = nn.Conv2d(convolved, convolved, (1, kernel), padding=(0, kernel // 2), groups=convolved)
        self.skip_proj = nn.Linear(E, H, bias=False)
        self.A_log, self.D = nn.Parameter(torch.zeros(H)), nn.Parameter(torch.ones(H))
        self.dt_bias = nn.Parameter(torch.empty(H))
        self.norm = nn.RMSNorm(E, eps=1.0e-5)
        self.out_proj = nn.Linear(E, d_model, bias=False)
        with torch.no_grad():  # step sizes log-uniform, as in MambaVisionMixer
            dt = torch.exp(torch.empty(H).uniform_(math.log(DT_MIN), math.log(DT_MAX)))
            self.dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # inverse of softplus
        for parameter in (self.A_log, self.D, self.dt_bias):
            parameter._no_weight_decay = True  # pyright: ignore[reportAttributeAccessIssue]  # as mamba-ssm marks them

    def forward(self, x_MTD: Tensor, open_MN: Tensor | None = None) -> Tensor:
        """`open_MN` in [0, 1] weighs the read-out of every state, in both directions; None opens all of them."""
        z, xBC, dt = self.in_proj(x_MTD).split(self.widths, -1)
        y = self.mix(self.convolve(xBC), dt, open_MN)
        weight = self.norm.weight.to(y.dtype)  # torch has no fused kernel for two types
        return self.out_proj(F.rms_norm(y, y.shape[-1:], weight, self.norm.eps) * F.silu(z))

    def convolve(self, xBC_MTF: Tensor) -> Tensor:
        """SiLU of the convolution along time, as a channels-last picture of height 1: conv1d is 4 times slower."""
        picture_MF1T = xBC_MTF.contiguous().mT.unsqueeze(2)
        return F.silu(self.conv(picture_MF1T).squeeze(2).mT)

    def mix(self, xBC_MTF: Tensor, dt_MTF: Tensor, open_MN: Tensor | None = None) -> Tensor:
        """What comes between convolution and gate: (M, T, E) from x, B and C side by side, and dt before softplus.

        y - x·(W_D·x + D) is linear in C, so the weights w_n = Σ_{k: N_k > n} p_k, Σ_k p_k = 1, give the mixture
        Σ_k p_k·y^{(N_k)} of mixers that have their first N_k states only.
        """
        G, N = SCAN_DIRECTIONS, self.d_state
        x, B, C = xBC_MTF.split([self.widths[0], G * N, G * N], -1)
        B, C = B.unflatten(-1, (G, N)), C.unflatten(-1, (G, N))
        if open_MN is not None:
            C = C * open_MN[:, None, None]
        kind = torch.promote_types(x.dtype, torch.float32)
        dt = F.softplus(dt_MTF.to(kind).unflatten(-1, (G, -1)) + self.dt_bias)
        A, diagonal = -torch.exp(self.A_log.to(kind)), self.skip_proj(x).to(kind) + self.D
        heads = x.unflatten(-1, (-1, self.head_dim))
        return quasiseparable_mix(heads, dt, A, B, C, diagonal, self.backend).flatten(2)


class Conv1DSequenceMixer(nn.Module):
    """Gated depthwise convolution over past and future; (M, T, D) → the same. An *approximation*, chosen by name only.

    A state-space model whose step size, B and C did not depend on the data would be exactly a convolution with the
    kernel Σ_n C_n·exp(A_n·dt·lag)·B_n·dt per channel (Gu et al. 2022, eq. 5). This mixer learns such a kernel
    freely, in both directions at once, and gives up two things: selectivity (its taps are the same for
    every clip and frame) and memory beyond its reach of 4·d_conv - 1 frames (15 at d_conv 4: a frame sees the
    31 frames around it, two blocks see all of a 32-frame clip). It has other parameters than the mixers that it
    replaces, and no state, so it does not go with `use_adaptive_sdim`.
    """

    def __init__(self, d_model: int, d_conv: int = 4, expand: int = 2) -> None:
        super().__init__()
        self.d_inner, self.reach = expand * d_model, REACH_PER_D_CONV * d_conv - 1
        n_taps = 2 * self.reach + 1
        self.in_proj = nn.Linear(d_model, 2 * self.d_inner, bias=False)
        self.conv_weight = nn.Parameter(torch.empty(self.d_inner, n_taps))
        self.conv_bias = nn.Parameter(torch.zeros(self.d_inner))
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=False)
        nn.init.uniform_(self.conv_weight, -(n_taps**-0.5), n_taps**-0.5)

    def forward(self, x_MTD: Tensor) -> Tensor:
        x, gate = self.in_proj(x_MTD.transpose(0, 1)).chunk(2, -1)
        y = F.silu(symmetric_depthwise(x, self.conv_weight) + self.conv_bias)
        return self.out_proj(y * F.silu(gate)).transpose(0, 1)


def symmetric_depthwise(x_TME: Tensor, weight_EK: Tensor) -> Tensor:
    """y_t = Σ_k w_k·x_{t+r-k} per channel, r = (K-1)/2, zeros outside the clip.

    As one T × T Toeplitz matrix per channel: at T = 16 … 32 and K = 31 a batched product is several times as fast as
    K shifted additions or conv1d (forward and backward, one core).
    """
    T, reach = len(x_TME), weight_EK.shape[1] // 2
    lags = F.pad(weight_EK, (T - 1 - reach, T - 1 - reach))  # of -(T-1) … T-1; negative widths crop
    toeplitz_ETT = lags.unfold(1, T, 1)  # row t: lags t-(T-1) … t, so it reads the clip backwards
    return torch.einsum("etu,ume->tme", toeplitz_ETT, x_TME.flip(0))


def _hydra_factory(d_model: int, d_state: int) -> MixerFactory:
    return lambda: HydraQuasiseparableMixer(d_model, d_state)


class MamerBlock(CheckpointedBlock):
    """h = x + SSM(Norm x); out = h + MHA(Norm h), both along time at every location; (B, …, T, D) → the same.

    MamBo's order, state-space model before attention, without its MLPs. `mixer` makes the SSM; the default is
    Hydra with `d_state` states. Stochastic depth drops whole clips.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        n_heads: int = 8,
        drop_path: float = 0.0,
        mixer: MixerFactory | None = None,
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.mixer = (mixer or _hydra_factory(d_model, d_state))()
        self.attention = Attention(d_model, n_heads, qkv_bias=True)
        self.drop_path = DropPath(drop_path)

    def forward(self, x_BxTD: Tensor, open_BN: Tensor | None = None) -> Tensor:
        """`open_BN` are the clips' weights of the mixer's states; a mixer without states takes none."""
        h = x_BxTD + self.drop_path(mix_sequences(self.mixer, self.norm1(x_BxTD), open_BN))
        return h + self.drop_path(mix_sequences(self.attention, self.norm2(h)))


class PNMamerStage(nn.ModuleList):
    """n_hydra blocks of mixer and MLP, then one MamerBlock; without `use_mamer` the former alone.

    Its blocks are its children "0", "1", …, as in V7.3's nn.Sequential, so that the norms and MLPs of the first
    blocks have the same names. `drop_paths` has one rate per block, default 0. `mixer` makes each block's mixer; the
    default is Hydra with `d_state` states.
    """

    def __init__(  # noqa: PLR0913  # the stage's five and what a network sets
        self,
        d_model: int,
        d_state: int = 16,
        n_hydra: int = 3,
        n_heads: int = 8,
        use_mamer: bool = True,
        *,
        mlp_ratio: float = 2.0,
        drop_paths: Sequence[float] | None = None,
        mixer: MixerFactory | None = None,
    ) -> None:
        make = mixer or _hydra_factory(d_model, d_state)
        rates = [0.0] * (n_hydra + use_mamer) if drop_paths is None else list(drop_paths)
        if len(rates) != n_hydra + use_mamer:
            raise ValueError(f"{len(rates)} drop_paths for {n_hydra + use_mamer} blocks")
        blocks: list[nn.Module] = [MambaBlock(d_model, make(), mlp_ratio, r) for r in rates[:n_hydra]]
        blocks += [MamerBlock(d_model, d_state, n_heads, r, make) for r in rates[n_hydra:]]
        super().__init__(blocks)

    def forward(self, x_BxTD: Tensor, open_BN: Tensor | None = None) -> Tensor:
        """(B, …, T, D) → the same. `open_BN`, in [0, 1], weighs each clip's states in every block; None: all open."""
        for block in self:
            x_BxTD = block(x_BxTD, open_BN)
        return x_BxTD
