"""Mamer blocks equal their formula, mix along time at one location only, and stage 3 keeps V7.3's names."""

import pytest
import torch
from torch import nn

from stf.models.hydra_mixer import Conv1DSequenceMixer, HydraQuasiseparableMixer, MamerBlock, PNMamerStage
from stf.models.mamba_blocks import MambaBlock, MambaVisionMixer
from tests.reference import models_hydra_plain as plain

D, N = 8, 4
MIXERS = {
    "hydra": lambda: HydraQuasiseparableMixer(D, N),
    "mamba": lambda: MambaVisionMixer(D, N),
    "conv1d": lambda: Conv1DSequenceMixer(D),
}


def stage(use_mamer=True, n_hydra=2, **settings):
    torch.manual_seed(0)
    return PNMamerStage(D, N, n_hydra, n_heads=2, use_mamer=use_mamer, **settings).double()


def clips(B=3):
    return torch.randn(B, 2, 3, 6, D, dtype=torch.float64)


def layer_norm(x, module):
    centred = x - x.mean(-1, keepdim=True)
    return (
        centred / (centred.square().mean(-1, keepdim=True) + module.eps).sqrt() * module.weight + module.bias
    )


def test_a_mamer_block_is_its_formula():
    torch.manual_seed(0)
    block = MamerBlock(D, N, n_heads=2).double()
    x_MTD = clips().flatten(0, 2)
    h = x_MTD + plain.mixer(layer_norm(x_MTD, block.norm1), block.mixer)
    expected = h + plain.attention(layer_norm(h, block.norm2), block.attention)
    torch.testing.assert_close(block(x_MTD), expected, rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(block(x_MTD.view(3, 2, 3, 6, D)).flatten(0, 2), expected)


@pytest.mark.parametrize("mixer", MIXERS.values(), ids=MIXERS)
def test_a_frame_reaches_every_frame_of_its_location_and_nothing_else(mixer):
    whole = stage(mixer=mixer)
    x = clips()
    y = x.clone()
    y[1, 1, 2, 4, 0] += 1  # one channel: the norm takes off what is common to all
    changed = (whole(x) - whole(y)).abs().amax(-1) > 1e-12
    expected = torch.zeros_like(changed)
    expected[1, 1, 2] = True
    assert torch.equal(changed, expected)


@pytest.mark.parametrize("use_mamer", [False, True])
def test_the_blocks_and_their_names(use_mamer):
    blocks = [type(block) for block in stage(use_mamer)]
    assert blocks == [MambaBlock] * 2 + [MamerBlock] * use_mamer
    v73 = nn.Sequential(*(MambaBlock(D, MambaVisionMixer(D, N), 2.0) for _ in range(2)))
    ours, theirs = (dict(module.named_parameters()) for module in (stage(use_mamer), v73))
    shared = {name for name in theirs if ".mixer." not in name}
    assert len(shared) == 2 * 8
    assert all(ours[name].shape == theirs[name].shape for name in shared)
    assert ("2.attention.qkv.weight" in ours) == use_mamer


def test_a_stage_of_one_mamer_block():
    alone = stage(n_hydra=0)
    assert [type(block) for block in alone] == [MamerBlock]
    x = clips()
    assert torch.equal(alone(x), alone[0](x))


def test_hydra_unless_another_mixer_is_given():
    assert all(isinstance(block.mixer, HydraQuasiseparableMixer) for block in stage())
    given = [block.mixer for block in stage(mixer=MIXERS["mamba"])]
    assert all(isinstance(mixer, MambaVisionMixer) for mixer in given)
    assert len(set(given)) == 3  # each block has one of its own


def test_without_locations_a_sequence_is_a_clip():
    whole, x = stage(), clips()
    torch.testing.assert_close(whole(x[:, 0, 0]), whole(x)[:, 0, 0])


@pytest.mark.parametrize("kind", ["hydra", "mamba"])
def test_each_clip_reads_the_states_that_are_open_to_it(kind):
    whole, x = stage(mixer=MIXERS[kind]), clips()
    open_BN = torch.tensor([[1, 1, 1, 1], [1, 0.5, 0.2, 0], [1, 0, 0, 0]], dtype=torch.float64)
    together = whole(x, open_BN.requires_grad_())
    for b in range(3):
        torch.testing.assert_close(together[b : b + 1], whole(x[b : b + 1], open_BN[b : b + 1]))
    torch.testing.assert_close(together[0], whole(x)[0], rtol=1e-6, atol=1e-6)
    assert (together[1:] - whole(x)[1:]).abs().amax((1, 2, 3, 4)).amin() > 1e-6
    (grad,) = torch.autograd.grad(together.square().sum(), open_BN)
    assert (grad.abs() > 0).all()


def test_stochastic_depth_drops_whole_clips():
    torch.manual_seed(0)
    block = MamerBlock(D, N, n_heads=2, drop_path=0.5).double().train()
    nn.init.zeros_(block.attention.proj.weight)
    nn.init.zeros_(block.attention.proj.bias)
    x = clips(B=16)
    residual = block(x) - x
    kept = residual / (block.eval()(x) - x)
    share_B = kept.flatten(1).mean(1)
    torch.testing.assert_close(kept, share_B.view(-1, 1, 1, 1, 1).expand_as(kept))
    torch.testing.assert_close(share_B, 2 * (share_B > 1).double())
    assert 0 < share_B.sum() < 32


def test_rates_belong_to_blocks():
    rates = [block.drop_path.drop_prob for block in stage(drop_paths=[0.0, 0.1, 0.2])]
    assert rates == [0.0, 0.1, 0.2]
    with pytest.raises(ValueError, match="2 drop_paths for 3 blocks"):
        stage(drop_paths=[0.0, 0.1])


@pytest.mark.parametrize("mixer", MIXERS.values(), ids=MIXERS)
def test_every_parameter_gets_a_gradient(mixer):
    whole = stage(mixer=mixer)
    whole(clips()).square().sum().backward()
    for name, parameter in whole.named_parameters():
        if not name.endswith("attention.qkv.bias"):  # a key's bias changes no softmax
            assert parameter.grad is not None, name
            assert parameter.grad.abs().amax() > 0, name
