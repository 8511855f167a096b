"""MambaVisionMixer equals its formula, sees past and future, and mixes along time only."""

import pytest
import torch

from stf.model_size import dt_rank
from stf.models.mamba_blocks import MambaBlock, MambaVisionMixer
from tests.reference import models_scan_plain as plain


@pytest.fixture
def mixer():
    torch.manual_seed(0)
    return MambaVisionMixer(d_model=12, d_state=3, d_conv=4, expand=2).double()


@pytest.mark.parametrize("T", [1, 2, 3, 10])
def test_equals_its_formula(mixer, T):
    x = torch.randn(5, T, 12, dtype=torch.float64)
    torch.testing.assert_close(mixer(x), plain.mixer(x, mixer), rtol=1e-10, atol=1e-10)


def test_gradients_equal_those_of_the_formula(mixer):
    x = torch.randn(3, 8, 12, dtype=torch.float64)
    names, leaves = zip(*mixer.named_parameters(), strict=True)
    grads = torch.autograd.grad(mixer(x).square().sum(), leaves)
    expected = torch.autograd.grad(plain.mixer(x, mixer).square().sum(), leaves)
    for name, grad, want in zip(names, grads, expected, strict=True):
        torch.testing.assert_close(grad, want, rtol=1e-8, atol=1e-10, msg=name)
        assert grad.abs().amax() > 0, name


def test_each_frame_sees_past_and_future(mixer):
    x = torch.randn(1, 8, 12, dtype=torch.float64)
    y = x.clone()
    y[:, 4] += 1
    changed = (mixer(x) - mixer(y)).abs().amax((0, 2))
    assert (changed > 0).all()


def test_sequences_do_not_mix(mixer):
    x = torch.randn(4, 6, 12, dtype=torch.float64)
    torch.testing.assert_close(mixer(x)[2:3], mixer(x[2:3]))


def test_a_block_mixes_along_time_at_each_location_only(mixer):
    block = MambaBlock(12, mixer, mlp_ratio=2.0).double().eval()
    x = torch.randn(2, 3, 5, 4, 12, dtype=torch.float64)
    y = x.clone()
    y[1, 1, 3, 2, 0] += 1  # one channel: the norm takes off what is common to all
    changed = (block(x) - block(y)).abs().amax(-1) > 1e-12
    expected = torch.zeros_like(changed)
    expected[1, 1, 3] = True
    assert torch.equal(changed, expected)


def test_step_sizes_start_in_mambas_range(mixer):
    dt = torch.nn.functional.softplus(mixer.dt_bias)
    assert dt.min() >= 0.99e-3
    assert dt.max() <= 1.01e-1
    assert mixer.rank == dt_rank(12) == 1


def test_state_space_parameters_are_marked_against_weight_decay(mixer):
    marked = {n for n, p in mixer.named_parameters() if getattr(p, "_no_weight_decay", False)}
    assert marked == {"A_log", "D", "dt_bias"}
