"""The gate's weights are a mixture over state sizes; its statistics are finite and see compression."""

import numpy as np
import pytest
import torch

from stf.config import MIN_ADAPTIVE_STATES, STFV8Config
from stf.data.augment.codec import h264_round_trip
from stf.errors import ConfigError
from stf.models.adaptive_state import STATISTICS, AdaptiveStateGate, hll_statistics, state_sizes
from stf.models.dwt_3d import BANDS, STF3DDWTModule, dwt_3d
from tests.reference.models_clips import camera_clips

SHARE_OF_HIGH, SHARE_OF_ALL, ENERGY, SPREAD_IN_TIME, SPREAD_IN_SPACE = range(len(STATISTICS))


def random_bands(B=3, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    return {name: scale * torch.randn(B, 8, 6, 6, 4, generator=generator) for name in BANDS}


def random_gate(d_state=16):
    torch.manual_seed(0)
    gate = AdaptiveStateGate(d_state)
    with torch.no_grad():
        gate.choice.weight.normal_()
        gate.choice.bias.normal_()
    return gate


@pytest.mark.parametrize(
    ("n_states", "sizes"),
    [(16, (4, 8, 12, 16)), (8, (2, 4, 6, 8)), (4, (1, 2, 3, 4)), (5, (2, 3, 4, 5)), (3, (1, 2, 3))],
)
def test_state_sizes(n_states, sizes):
    assert state_sizes(n_states) == sizes


@pytest.mark.parametrize("d_state", [1, 2])
def test_too_few_states_to_choose_from(d_state):
    assert len(state_sizes(d_state)) < 3 == len(state_sizes(MIN_ADAPTIVE_STATES))
    STFV8Config(d_state=d_state)
    with pytest.raises(ConfigError, match=f"d_state is {d_state}.*at least 3 states"):
        STFV8Config(d_state=d_state, use_adaptive_sdim=True)


@pytest.mark.parametrize("d_state", [3, 4, 5, 16])
def test_the_weights_are_those_of_a_mixture_over_sizes(d_state):
    gate, bands = random_gate(d_state), random_bands()
    open_BN, p_BK = gate(bands), gate.choice(hll_statistics(bands)).softmax(-1)
    sizes = state_sizes(d_state)
    expected = [p_BK[:, [n < N for N in sizes]].sum(1) for n in range(d_state)]  # w_n = Σ_{k: N_k > n} p_k
    torch.testing.assert_close(open_BN, torch.stack(expected, 1))
    assert (open_BN.diff(dim=1) <= 1e-6).all()
    assert open_BN.amin() > 0
    assert open_BN.amax() <= 1 + 1e-6
    torch.testing.assert_close(gate.open_share(bands), open_BN.mean(1))


def test_starts_nearly_open_and_the_same_for_all_clips():
    open_BN = AdaptiveStateGate(16)(random_bands())
    assert open_BN.amin() > 0.94
    assert torch.equal(open_BN, open_BN[:1].expand_as(open_BN))


def test_differs_by_clip_once_trained_and_every_parameter_learns():
    gate, bands = random_gate(), {name: band.requires_grad_() for name, band in random_bands().items()}
    share_B = gate.open_share(bands)
    assert share_B.std() > 1e-3
    share_B.square().sum().backward()
    assert all(p.grad.abs().amin() > 0 for p in gate.parameters())
    assert bands["HLL"].grad.abs().amax() > 0


def test_at_its_start_the_gate_gets_a_gradient():
    gate = AdaptiveStateGate(16)
    gate.open_share(random_bands()).sum().backward()
    assert all(p.grad.abs().amin() > 1e-4 for p in gate.parameters())


@pytest.mark.parametrize("value", [0.0, 0.5, 1e6])
def test_finite_for_a_clip_without_change(value):
    bands = {
        name: band.requires_grad_() for name, band in dwt_3d(torch.full((2, 16, 8, 8, 3), value)).items()
    }
    statistics = hll_statistics(bands)
    assert statistics.isfinite().all()
    if value == 0:
        expected = torch.tensor([1 / 4, 1 / 8]).log().expand(2, 2)
        torch.testing.assert_close(statistics[:, [SHARE_OF_HIGH, SHARE_OF_ALL]], expected)
    statistics.sum().backward()
    assert all(band.grad.isfinite().all() for band in bands.values())


def test_shares_and_spreads_ignore_the_scale_and_the_energy_does_not():
    one, ten = hll_statistics(random_bands()), hll_statistics(random_bands(scale=10.0))
    same = [SHARE_OF_HIGH, SHARE_OF_ALL, SPREAD_IN_TIME, SPREAD_IN_SPACE]
    torch.testing.assert_close(one[:, same], ten[:, same], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ten[:, ENERGY] - one[:, ENERGY], torch.full((3,), 100.0).log())


def test_shares_and_spreads_measure_what_their_names_say():
    ones = {name: torch.ones(1, 8, 6, 6, 4) for name in BANDS}
    statistics = hll_statistics(ones)[0]
    torch.testing.assert_close(statistics, torch.tensor([1 / 4, 1 / 8, 1, 1, 1]).log(), rtol=0, atol=1e-5)
    in_time, in_space = (dict(ones, HLL=torch.zeros(1, 8, 6, 6, 4)) for _ in range(2))
    in_time["HLL"][:, 3] = 1
    in_space["HLL"][:, :, 3] = 1
    # one of 6 frames, one of 6 rows: mean 1/6, variance 5/36
    for bands, spread, even in (
        (in_time, SPREAD_IN_TIME, SPREAD_IN_SPACE),
        (in_space, SPREAD_IN_SPACE, SPREAD_IN_TIME),
    ):
        got = hll_statistics(bands)[0]
        assert got[spread].item() == pytest.approx(np.log(1 + 5), abs=1e-3)
        assert got[even].item() == pytest.approx(0, abs=1e-3)


def test_coefficients_that_wrap_are_left_out():
    bands = random_bands()
    ends = {name: band.clone() for name, band in bands.items()}
    for band in ends.values():
        band[:, [0, -1]] += 100
    assert torch.equal(hll_statistics(bands), hll_statistics(ends))


def test_float32_under_autocast():
    bands = {name: band.bfloat16() for name, band in random_bands().items()}
    gate = random_gate()
    with torch.autocast("cpu", torch.bfloat16):
        assert hll_statistics(bands).dtype == gate(bands).dtype == torch.float32


def compressed(video_BCTHW, qp):
    frames = (255 * video_BCTHW.permute(0, 2, 3, 4, 1)).round().byte().numpy()
    coded = [h264_round_trip(np.ascontiguousarray(clip), qp, "rgb24") for clip in frames]
    return torch.from_numpy(np.stack(coded)).float() / 255


def test_statistics_see_compression():
    """A moving scene by a noisy camera, standardised as the network's features are, through a random projection.

    The share of temporal-high energy rises with QP here, where the codec takes away fine noise; in clips that were
    compressed before and have none it may fall. Blocks make the energy uneven in space.
    """
    clips = camera_clips(4, 16, 128, seed=2, noise=4 / 255)
    torch.manual_seed(0)
    module, statistics = STF3DDWTModule(3, 8, gain=7.0), []
    for qp in (23, 30, 40):
        x_BTHWC = compressed(clips, qp)
        with torch.no_grad():
            statistics.append(hll_statistics(module((x_BTHWC - x_BTHWC.mean()) / x_BTHWC.std())))
    for statistic, rise in ((SHARE_OF_HIGH, 0.1), (SPREAD_IN_SPACE, 0.2)):
        at_qp = torch.stack(statistics)[..., statistic]
        assert (at_qp.diff(dim=0) > 0).all()
        assert (at_qp[-1] - at_qp[0] > rise).all()
