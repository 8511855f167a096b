"""Activation checkpointing: a block keeps its input alone and computes the rest again when it is differentiated.

Chen et al. 2016, "Training deep nets with sublinear memory cost". Gradients are the same: the second run has the
first one's random numbers, so stochastic depth drops the same clips, and its autocast. What it costs is one more
forward pass of the blocks (benchmarks/step.py). What it saves, counted by tests/models/test_memory.py for 16 clips of
32×224×224 in bfloat16: 26.0 GiB become 4.7 in phase A, 18.7 become 4.9 in phase B.
"""

from __future__ import annotations

from torch import Tensor, is_grad_enabled, nn
from torch.utils.checkpoint import checkpoint


class CheckpointedBlock(nn.Module):
    """A residual block of stages 1 to 4 that can be checkpointed; use_checkpointing turns it on and off."""

    checkpointing = False

    def __call__(self, *inputs: Tensor | None) -> Tensor:
        """Overrides the call, not forward: parameters keep their names, and hooks are part of what is checkpointed."""
        block = super().__call__
        if self.checkpointing and is_grad_enabled():
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)


def use_checkpointing(model: nn.Module, on: bool = True) -> None:
    """Turns checkpointing on or off for every block of `model`. It is not saved with the weights.

    It does not apply to a timm network, which, where it can, always checkpoints while it is trained (timm_stages.py).
    """
    for module in model.modules():
        if isinstance(module, CheckpointedBlock):
            module.checkpointing = on
