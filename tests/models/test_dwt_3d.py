"""The wavelet transform equals PyWavelets', keeps energy, inverts; energies ignore what wraps at the clip's ends."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stf.errors import ConfigError
from stf.models.dwt_3d import BANDS, STF3DDWTModule, dwt_3d, hll_band, inner
from tests.reference import models_dwt_plain as plain

even = st.integers(2, 6).map(lambda n: 2 * n)


def clip(shape: tuple[int, ...], dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_every_band_equals_pywavelets(dtype, tolerance):
    x = clip((2, 8, 12, 6, 3), dtype)
    ours, theirs = dwt_3d(x), plain.bands(x.double().numpy())
    assert set(ours) == set(BANDS) == set(theirs)
    for name in BANDS:
        np.testing.assert_allclose(ours[name].double().numpy(), theirs[name], atol=tolerance, rtol=0)


@settings(max_examples=20, deadline=None)
@given(even, even, even, st.integers(1, 3))
def test_energy_is_kept_and_the_transform_inverts(T, H, W, C):
    """To 1e-10: PyWavelets stores its taps to about twelve digits."""
    x = clip((1, T, H, W, C))
    bands = dwt_3d(x)
    energy = sum(band.square().sum() for band in bands.values())
    torch.testing.assert_close(energy, x.square().sum(), rtol=1e-10, atol=0)
    inverted = plain.inverse({name: band.numpy() for name, band in bands.items()})
    np.testing.assert_allclose(inverted, x.numpy(), atol=1e-10)


def test_hll_alone_is_the_same_band():
    x = clip((2, 8, 6, 10, 3))
    torch.testing.assert_close(hll_band(x), dwt_3d(x)["HLL"])


def test_names_read_time_height_width():
    """A clip that alternates along one axis only has all its energy in that axis's high band."""
    alternating = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(4)
    for axis, name in enumerate(("HLL", "LHL", "LLH"), start=1):
        shape = [1, 1, 1, 1, 1]
        shape[axis] = 8
        bands = dwt_3d(alternating.view(shape).expand(1, 8, 8, 8, 1))
        assert max(bands, key=lambda band: bands[band].square().sum()) == name


@pytest.mark.parametrize("shape", [(1, 7, 8, 8, 1), (1, 8, 9, 8, 1), (1, 8, 8, 2, 1)])
def test_odd_or_too_short_axes_are_refused(shape):
    with pytest.raises(ConfigError, match="even length of at least 4"):
        dwt_3d(torch.zeros(shape))


def test_energies_equal_those_of_all_eight_bands():
    module = STF3DDWTModule(5, 3).double()
    x = clip((3, 8, 6, 10, 5))
    hll, total = module.energies(x)
    hll_plain, total_plain = plain.energies(module.projection(x).detach().numpy())
    np.testing.assert_allclose(hll.detach().numpy(), hll_plain, rtol=1e-10)
    np.testing.assert_allclose(total.detach().numpy(), total_plain, rtol=1e-10)
    torch.testing.assert_close(module(x)["HLL"], module.hll(x))


def test_only_the_end_coefficients_in_time_wrap():
    """Changing the last frame changes the first temporal coefficient (it wraps) and no other inner one, and so on."""
    x = clip((1, 16, 4, 4, 1))
    for frame, reached in ((15, {0, 7}), (0, {0, 7}), (14, {6, 7}), (1, {0, 1})):
        y = x.clone()
        y[:, frame] += 1
        moved = {i for i in range(8) if not torch.allclose(hll_band(x)[:, i], hll_band(y)[:, i])}
        assert moved <= reached, frame
    ramp = torch.arange(16.0, dtype=torch.float64).view(1, 16, 1, 1, 1).expand(1, 16, 4, 4, 1)
    high = hll_band(ramp)
    assert high.abs().amax() > 1
    assert inner(high).abs().amax() < 1e-9


@pytest.mark.parametrize("T", [8, 16, 32])
def test_a_brightness_ramp_and_a_still_clip_have_no_hll_energy(T):
    module = STF3DDWTModule(4, 6)
    ramp = torch.linspace(0, 1, T).view(1, T, 1, 1, 1).expand(1, T, 8, 8, 4)
    still = clip((1, 1, 8, 8, 4), torch.float32).expand(1, T, 8, 8, 4)
    flicker = clip((1, T, 8, 8, 4), torch.float32)
    (ramp_hll, _), (still_hll, still_all), (flicker_hll, _) = (
        module.energies(x) for x in (ramp, still, flicker)
    )
    assert ramp_hll < 1e-5
    assert still_hll < 1e-5 < still_all
    assert flicker_hll > 0.1


def test_white_noise_has_unit_energy_per_coefficient():
    """n counts HLL coefficients: eight bands of unit variance sum to about 8 per HLL coefficient."""
    module = STF3DDWTModule(16, 16)
    torch.nn.init.eye_(module.projection.weight)
    hll, total = module.energies(clip((1, 16, 16, 16, 16), torch.float32))
    assert hll.item() == pytest.approx(1, abs=0.05)
    assert total.item() == pytest.approx(8, rel=0.05)


def test_energies_stay_float32_under_autocast():
    module = STF3DDWTModule(4, 4)
    x = clip((2, 8, 8, 8, 4), torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hll, total = module.energies(x)
    expected = module.energies(x)
    assert hll.dtype == total.dtype == torch.float32
    torch.testing.assert_close((hll, total), expected, rtol=0, atol=0)


def test_rows_first_made_under_inference_mode_work_in_training():
    module = STF3DDWTModule(2, 2)
    x = clip((1, 22, 26, 30, 2), torch.float32)  # sizes no other test has cached
    with torch.inference_mode():
        module.energies(x)
    module.energies(x.requires_grad_())[0].sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bands_and_energies_in_one_pass_are_those_of_two(dtype):
    module = STF3DDWTModule(5, 3).to(dtype)
    x = clip((2, 16, 6, 10, 5), dtype)
    bands, hll, total = module.bands_and_energies(x)
    torch.testing.assert_close(bands, module(x))
    torch.testing.assert_close((hll, total), module.energies(x), rtol=1e-6, atol=0)


def test_bands_and_energies_stay_float32_under_autocast():
    module = STF3DDWTModule(4, 4)
    x = clip((2, 8, 8, 8, 4), torch.float32)
    expected = module.bands_and_energies(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        bands, hll, total = module.bands_and_energies(x)
    torch.testing.assert_close((bands, hll, total), expected, rtol=0, atol=0)
    assert all(band.dtype == torch.float32 for band in bands.values())
