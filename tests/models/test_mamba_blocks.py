"""MambaVisionMixer equals its formula, sees past and future, mixes along time only, and can be read in part."""

import pytest
import torch

from stf.models import mamba_blocks
from stf.models.mamba_blocks import MambaBlock, MambaVisionMixer, dt_rank, mix_sequences
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
    x = torch.randn(3, 8, 12, dtype=torch.float64, requires_grad=True)
    names, leaves = zip(("x", x), *mixer.named_parameters(), strict=True)
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


def test_inference_in_parts_equals_all_at_once(mixer, monkeypatch):
    x, open_BN = torch.randn(2, 3, 5, 4, 12, dtype=torch.float64), torch.rand(2, 3, dtype=torch.float64)
    whole = [mix_sequences(mixer, x), mix_sequences(mixer, x, open_BN)]
    lengths = []
    mixer.register_forward_hook(lambda _, inputs, output: lengths.append(len(output)))
    monkeypatch.setattr(mamba_blocks, "NUMBERS_AT_ONCE", 4 * 4 * 12)
    with torch.no_grad():
        parts = [mix_sequences(mixer, x), mix_sequences(mixer, x, open_BN)]
    assert lengths == 2 * ([4] * 7 + [2])  # of 30 sequences
    torch.testing.assert_close(parts, whole)


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


def first_states(mixer, n):
    """The mixer whose state has only the first n of the given one's."""
    small = MambaVisionMixer(12, d_state=n, d_conv=4, expand=2).double()
    weights = dict(mixer.state_dict())
    rank, N = mixer.rank, mixer.d_state
    weights["A_log"] = weights["A_log"][..., :n]
    columns = [*range(rank + n), *range(rank + N, rank + N + n)]  # rank, then n of B, then n of C
    weights["x_proj"] = weights["x_proj"][..., columns]
    small.load_state_dict(weights)
    return small


def test_all_states_open_is_the_mixer_itself(mixer):
    x = torch.randn(5, 8, 12)
    for m in (mixer, mixer.float()):
        like = x.to(m.D)
        torch.testing.assert_close(m(like, like.new_ones(5, 3)), m(like), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("n", [1, 2])
def test_the_first_states_open_are_the_smaller_mixer(mixer, n):
    x = torch.randn(5, 8, 12, dtype=torch.float64)
    open_MN = (torch.arange(3) < n).double().expand(5, 3)
    torch.testing.assert_close(mixer(x, open_MN), first_states(mixer, n)(x), rtol=1e-10, atol=1e-12)
    assert (mixer(x, open_MN) - mixer(x)).abs().amax() > 1e-6


def test_soft_weights_are_the_mixture_of_smaller_mixers(mixer):
    """y is linear in C: w_n = sum of p_k over the sizes N_k > n; each sequence with a mixture of its own."""
    x = torch.randn(5, 8, 12, dtype=torch.float64)
    p = torch.rand(5, 3, dtype=torch.float64).softmax(1)  # of the sizes 1, 2, 3
    open_MN = p.flip(1).cumsum(1).flip(1)
    mixture = sum(p[:, k, None, None] * first_states(mixer, k + 1)(x) for k in range(3))
    torch.testing.assert_close(mixer(x, open_MN), mixture, rtol=1e-10, atol=1e-12)


def test_a_closed_state_leaves_the_skip(mixer):
    """With nothing read, a frame sees no further than the convolutions: 3 frames to either side."""
    x = torch.randn(1, 12, 12, dtype=torch.float64)
    y = x.clone()
    y[:, 6] += 1
    closed = x.new_zeros(1, 3)
    changed = (mixer(x, closed) - mixer(y, closed)).abs().amax((0, 2)) > 0
    assert changed.nonzero().flatten().tolist() == list(range(3, 10))


def test_gradients_reach_every_weight_of_the_states(mixer):
    x = torch.randn(5, 8, 12, dtype=torch.float64)
    states = torch.rand(5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: mixer(x[:2, :3], s), states[:2].detach().requires_grad_())
    mixer(x, states).square().sum().backward()
    assert (states.grad != 0).all()


def test_a_clips_open_states_serve_all_its_locations_and_no_other_clips(mixer):
    block = MambaBlock(12, mixer, mlp_ratio=2.0).double().eval()
    x = torch.randn(3, 2, 2, 5, 12, dtype=torch.float64)
    open_BN = torch.rand(3, 3, dtype=torch.float64)
    together = block(x, open_BN)
    alone = torch.cat([block(x[i : i + 1], open_BN[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(block(x, torch.ones_like(open_BN)), block(x), rtol=1e-6, atol=1e-6)
