"""Stem, patch merging and the gates: shapes, borders, and that a gate only ever raises."""

import pytest
import torch

from stf.models.early_stages import QUIET, HLLGate, PatchMerging, Stem, apply_gate, residual_energies


def test_stem_keeps_time_and_divides_space_by_four():
    assert Stem(3, 8)(torch.rand(2, 3, 8, 32, 48)).shape == (2, 8, 8, 12, 8)


def test_a_still_clip_has_constant_features_up_to_the_ends():
    """Zero padding in time would make the first and last frame differ from the rest."""
    still = torch.rand(1, 3, 1, 32, 32).expand(1, 3, 8, 32, 32)
    features = Stem(3, 8)(still)
    torch.testing.assert_close(features, features[:, :1].expand_as(features), rtol=1e-4, atol=1e-5)


def test_a_frame_reaches_its_neighbours_only():
    stem = Stem(3, 8)
    video = torch.rand(1, 3, 8, 32, 32)
    other = video.clone()
    other[:, :, 4] = torch.rand(1, 3, 32, 32)
    changed = (stem(video) - stem(other)).abs().amax((0, 2, 3, 4)) > 0
    assert changed.tolist() == [False, False, False, True, True, True, False, False]


def energies_of(video: torch.Tensor) -> torch.Tensor:
    """(3 residuals, B, T, H/4, W/4, 3 colours) back from their logarithms."""
    maps = torch.exp(2 * residual_energies(video) - 7) - QUIET
    return maps.unflatten(-1, (3, 3)).movedim(-2, 0)


def test_residual_energies_are_those_of_the_definition():
    video = torch.rand(2, 3, 6, 16, 24, generator=torch.Generator().manual_seed(0))
    pixels = 4 * video.double()
    padded = torch.nn.functional.pad(pixels, (1, 1, 1, 1, 0, 0), mode="replicate")
    shifted = [padded[..., y : y + 16, x : x + 24] for y in range(3) for x in range(3)]
    fine = pixels - torch.stack(shifted).mean(0)
    expected = []
    for residual in (fine, pixels.diff(dim=2), fine.diff(dim=2)):
        whole = torch.cat((residual, residual[:, :, -1:]), 2)[:, :, :6]
        blocks = whole.square().unflatten(4, (6, 4)).unflatten(3, (4, 4))
        expected.append(blocks.mean((4, 6)).movedim(1, -1))
    torch.testing.assert_close(energies_of(video).double(), torch.stack(expected), rtol=1e-3, atol=1e-5)


def test_a_still_clip_has_fine_detail_but_no_change():
    still = torch.rand(1, 3, 1, 16, 16).expand(1, 3, 8, 16, 16)
    fine, change, fine_change = energies_of(still)
    assert fine.min() > 0.01
    assert change.abs().max() < 1e-6
    assert fine_change.abs().max() < 1e-6
    assert residual_energies(torch.zeros(1, 3, 8, 16, 16)).isfinite().all()


def test_the_stem_sees_the_strength_of_a_texture_that_its_norms_remove():
    torch.manual_seed(0)
    stem = Stem(3, 8)
    texture = torch.rand(1, 3, 8, 32, 32) - 0.5
    with torch.no_grad():
        weak, strong = (stem(0.5 + a * texture) for a in (0.1, 0.4))
        stem.residual.weight.zero_()
        blind_weak, blind_strong = (stem(0.5 + a * texture) for a in (0.1, 0.4))
    assert (strong - weak).abs().mean() > 3 * (blind_strong - blind_weak).mean().abs()
    assert (strong - weak).mean((1, 2, 3)).abs().max() > 2 * (blind_strong - blind_weak).mean(
        (1, 2, 3)
    ).abs().max()


@pytest.mark.parametrize(("side", "merged"), [(4, 2), (5, 3), (1, 1)])
def test_patch_merging_rounds_up(side, merged):
    assert PatchMerging(6, 10)(torch.rand(2, 3, side, side, 6)).shape == (2, 3, merged, merged, 10)


def test_a_merged_location_sees_its_own_patch_only():
    merge = PatchMerging(3, 4)
    x = torch.rand(1, 2, 6, 6, 3)
    y = x.clone()
    y[0, 1, 2, 5, 0] += 1
    changed = (merge(x) - merge(y)).abs().amax(-1) > 0
    assert changed.nonzero().tolist() == [[0, 1, 1, 2]]


def test_gates_are_between_one_and_two_and_rise_with_flicker():
    torch.manual_seed(0)
    gate = HLLGate(6, 8, 8, (10, 12))
    still = torch.rand(1, 1, 8, 8, 6).expand(1, 8, 8, 8, 6)
    flicker = still + torch.tensor([1.0, -1.0]).repeat(4).view(1, 8, 1, 1, 1)
    quiet, loud = gate(still), gate(flicker)
    assert [tuple(g.shape) for g in quiet] == [(1, 4, 4, 4, 10), (1, 4, 4, 4, 12)]
    assert all((g > 1).all() and (g < 2).all() for g in (*quiet, *loud))
    torch.testing.assert_close(quiet[0], quiet[0][:, :1, :1, :1].expand_as(quiet[0]), rtol=1e-4, atol=1e-5)
    assert (loud[0] - quiet[0]).abs().mean() > 0.01


def test_a_gate_is_repeated_to_its_stage():
    x, gate = torch.rand(2, 8, 8, 4, 3), torch.rand(2, 4, 4, 4, 3)
    repeated = gate.repeat_interleave(2, 1).repeat_interleave(2, 2)
    torch.testing.assert_close(apply_gate(x, gate), x * repeated)
