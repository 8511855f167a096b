"""Linear interpolation by a matrix equals torch's, keeps constants and ramps, and aligns samples as documented."""

import pytest
import torch
from torch.nn import functional as F

from stf.models.resample import resize_axis


@pytest.mark.parametrize(("n_in", "n_out"), [(4, 8), (7, 14), (8, 4), (5, 12), (14, 13), (1, 6)])
def test_equals_torch_interpolate(n_in, n_out):
    x = torch.randn(3, n_in, 5, dtype=torch.float64)
    expected = F.interpolate(x.transpose(1, 2), n_out, mode="linear", align_corners=False).transpose(1, 2)
    torch.testing.assert_close(resize_axis(x, n_out, 1), expected)


def test_every_axis_alike_and_equal_length_is_the_same_tensor():
    x = torch.randn(2, 3, 4, 5)
    for axis in (1, 2, 3):
        moved = resize_axis(x.movedim(axis, 1).contiguous(), 9, 1).movedim(1, axis)
        torch.testing.assert_close(resize_axis(x, 9, axis), moved)
    assert resize_axis(x, 4, 2) is x


@pytest.mark.parametrize("skipped", [0, 1, 2])
def test_half_band_coefficient_i_is_at_sample_2i_and_a_half(skipped):
    """A ramp sampled there returns as the ramp between the outermost kept coefficients, as their values beyond."""
    n = 10
    centres = 2 * torch.arange(n, dtype=torch.float64) + 0.5
    kept = centres[skipped : n - skipped]
    frames = torch.arange(2.0 * n, dtype=torch.float64)
    resized = resize_axis(kept[None, :, None], 2 * n, 1, skipped)
    torch.testing.assert_close(resized[0, :, 0], frames.clamp(kept[0], kept[-1]))


def test_precision_is_kept_under_autocast_and_rows_made_without_gradients_work_in_training():
    x = torch.randn(1, 11, 3)
    with torch.inference_mode():
        expected = resize_axis(x, 23, 1)
    x.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        resized = resize_axis(x, 23, 1)
    torch.testing.assert_close(resized, expected, rtol=0, atol=0)
    resized.sum().backward()
    assert x.grad is not None
    assert x.grad.sum().item() == pytest.approx(3 * 23, rel=1e-5)
