"""Stage 3 of V8.0: blocks that mix along time at every location, the last one with attention in place of an MLP.

Shapes: B clips, T frames, D channels, N states; "x" between them stands for any number of axes of locations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from timm.layers.attention import Attention
from timm.layers.drop import DropPath
from torch import Tensor, nn

from stf.models.checkpointing import CheckpointedBlock
from stf.models.hydra_mixer import HydraQuasiseparableMixer
from stf.models.mamba_blocks import MambaBlock, mix_sequences

MixerFactory = Callable[[], nn.Module]


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
    blocks bear the same names. `drop_paths` has one rate per block, default 0. `mixer` makes each block's mixer; the
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
