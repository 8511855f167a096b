"""Stem, patch merging and the gates: shapes, borders, and that a gate only ever raises."""

import pytest
import torch

from stf.models.spatial import HLLGate, PatchMerging, Stem, apply_gate


def test_stem_keeps_time_and_divides_space_by_four():
    assert Stem(3, 8)(torch.rand(2, 3, 8, 32, 48)).shape == (2, 8, 8, 12, 8)


def test_a_still_clip_has_still_features_up_to_the_ends():
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


def test_gates_lie_between_one_and_two_and_follow_flicker():
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
