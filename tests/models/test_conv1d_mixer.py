"""Conv1DSequenceMixer: a depthwise convolution over past and future, gated, of known reach and size."""

import pytest
import torch
from torch.nn import functional as F

from stf.models.hydra_mixer import Conv1DSequenceMixer, symmetric_depthwise
from stf.models.mamba_blocks import MambaBlock, MambaVisionMixer


@pytest.fixture
def mixer():
    torch.manual_seed(0)
    return Conv1DSequenceMixer(d_model=6, d_conv=1, expand=2).double()  # reach 3, 7 taps


def formula(x_MTD, mixer):
    """The mixer with torch's own convolution; conv1d correlates, so its taps are turned round."""
    x, gate = F.linear(x_MTD, mixer.in_proj.weight).chunk(2, -1)
    taps = mixer.conv_weight.flip(1).unsqueeze(1)
    y = F.conv1d(x.mT, taps, mixer.conv_bias, padding=mixer.reach, groups=mixer.d_inner).mT
    return F.linear(F.silu(y) * F.silu(gate), mixer.out_proj.weight)


@pytest.mark.parametrize("T", [1, 2, 3, 4, 5, 8, 20])
def test_equals_its_formula_on_clips_shorter_and_longer_than_its_kernel(mixer, T):
    x = torch.randn(5, T, 6, dtype=torch.float64)
    assert mixer(x).shape == x.shape
    torch.testing.assert_close(mixer(x), formula(x, mixer), rtol=1e-10, atol=1e-12)


def test_every_parameter_learns_what_the_formula_learns(mixer):
    x = torch.randn(3, 9, 6, dtype=torch.float64)
    names, leaves = zip(*mixer.named_parameters(), strict=True)
    grads = torch.autograd.grad(mixer(x).square().sum(), leaves)
    expected = torch.autograd.grad(formula(x, mixer).square().sum(), leaves)
    for name, grad, want in zip(names, grads, expected, strict=True):
        torch.testing.assert_close(grad, want, rtol=1e-8, atol=1e-10, msg=name)
        assert grad.abs().amax() > 0, name


def test_gradients_by_finite_differences():
    x = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(symmetric_depthwise, (x, weight))


def test_a_frame_sees_its_reach_in_past_and_future_and_no_more(mixer):
    x = torch.randn(1, 15, 6, dtype=torch.float64)
    y = x.clone()
    y[:, 7] += 1
    changed = (mixer(x) - mixer(y)).abs().amax((0, 2)) > 0
    assert changed.nonzero().flatten().tolist() == list(range(4, 11))


def test_at_the_default_size_a_frame_sees_31_frames_and_two_see_a_whole_clip():
    torch.manual_seed(0)
    first, second = Conv1DSequenceMixer(4).double(), Conv1DSequenceMixer(4).double()
    x = torch.randn(1, 32, 4, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(first(x)[0, 16].sum(), x)
    assert (grad[0].abs().amax(1) > 0).nonzero().flatten().tolist() == list(range(1, 32))
    (grad,) = torch.autograd.grad(second(first(x))[0, 2].sum(), x)
    assert (grad[0].abs().amax(1) > 0).all()


def test_sequences_do_not_mix(mixer):
    x = torch.randn(4, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(mixer(x)[2:3], mixer(x[2:3]))


@pytest.mark.parametrize(("dim", "d_conv", "expand"), [(6, 1, 2), (16, 4, 2), (8, 3, 1)])
def test_its_number_of_parameters(dim, d_conv, expand):
    inner, taps = expand * dim, 8 * d_conv - 1
    count = sum(p.numel() for p in Conv1DSequenceMixer(dim, d_conv, expand).parameters())
    assert count == 3 * dim * inner + (taps + 1) * inner


def test_it_is_smaller_than_the_mixer_it_replaces():
    conv, mamba = Conv1DSequenceMixer(384), MambaVisionMixer(384)
    counts = [sum(p.numel() for p in m.parameters()) for m in (conv, mamba)]
    assert counts[0] < 0.6 * counts[1]


def test_works_in_a_block():
    torch.manual_seed(0)
    block = MambaBlock(6, Conv1DSequenceMixer(6), mlp_ratio=2.0)
    assert block(torch.randn(2, 3, 2, 8, 6)).shape == (2, 3, 2, 8, 6)


def test_runs_under_bfloat16_autocast(mixer):
    x = torch.randn(3, 8, 6)
    mixer = mixer.float()
    with torch.autocast("cpu", torch.bfloat16):
        y = mixer(x)
    torch.testing.assert_close(y.float(), mixer(x), rtol=0.1, atol=0.02)
