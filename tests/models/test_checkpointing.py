"""Checkpointed blocks give the same losses and gradients, drop the same clips, and leave the weights' names alone."""

from dataclasses import replace

import pytest
import torch

from stf.config import PHASE_B_FLAGS, STFV8Config
from stf.models.checkpointing import CheckpointedBlock, use_checkpointing
from stf.models.losses import STFV8Loss
from stf.models.network import build_network
from tests.reference.models_clips import pairs

# Stochastic depth and dropout high enough that a different draw would show.
V73 = replace(STFV8Config.debug(), stage3_blocks=2, stage4_blocks=2, drop_path=0.5, dropout=0.5)
CONFIGS = {"V7.3": V73, "V8.0": replace(V73, **dict.fromkeys(PHASE_B_FLAGS, True))}


def step(model, loss, clips, bfloat16=False):
    """Loss and gradients of one training step with fixed random numbers, and what the next number is."""
    torch.manual_seed(1)
    video, labels = clips
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
        total = loss(model(video), labels)["total"]
    grads = torch.autograd.grad(total, list(model.parameters()), allow_unused=True)
    return total, grads, torch.rand(())


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_loss_and_gradients_are_the_same(name, bfloat16):
    config = CONFIGS[name]
    torch.manual_seed(0)
    model, loss = build_network(config).train(), STFV8Loss(config)
    clips = pairs(2, config.num_frames, config.img_size)
    total, grads, following = step(model, loss, clips, bfloat16)
    use_checkpointing(model)
    again, grads_again, following_again = step(model, loss, clips, bfloat16)
    assert torch.equal(total, again)
    assert torch.equal(following, following_again)  # the second run leaves the stream of random numbers alone
    for (parameter, _), grad, grad_again in zip(model.named_parameters(), grads, grads_again, strict=True):
        torch.testing.assert_close(grad_again, grad, rtol=0, atol=0, msg=parameter)


def test_every_block_of_the_four_stages_is_checkpointed():
    model = build_network(CONFIGS["V8.0"])
    blocks = [name for name, module in model.named_modules() if isinstance(module, CheckpointedBlock)]
    c = CONFIGS["V8.0"]
    assert len(blocks) == c.stage1_blocks + c.stage2_blocks + c.stage3_blocks + c.stage4_blocks


def test_a_block_is_computed_twice_and_only_where_it_is_differentiated():
    config = CONFIGS["V7.3"]
    model = build_network(config).train()
    use_checkpointing(model)
    calls = []
    model.get_submodule("stage4.0.norm1").register_forward_hook(lambda *_: calls.append(1))
    clips = pairs(1, config.num_frames, config.img_size)
    with torch.no_grad():
        model(clips[0])
    assert len(calls) == 1
    step(model, STFV8Loss(config), clips)
    assert len(calls) == 3
    use_checkpointing(model, on=False)
    step(model, STFV8Loss(config), clips)
    assert len(calls) == 4


def test_names_of_weights_do_not_change():
    model = build_network(CONFIGS["V8.0"])
    names = list(model.state_dict())
    use_checkpointing(model)
    assert list(model.state_dict()) == names
