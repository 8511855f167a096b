"""The open share of an adaptive state at two compressions: from real validation clips alone, and read by the report."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from stf.config import FLAGS, DataParams, Params, STFV8Config
from stf.evaluation.open_share import QPS, open_shares
from stf.evaluation.predict import ClipScorer
from stf.models.network import build_network


@pytest.fixture
def adaptive(shared_tree) -> tuple[ClipScorer, Params]:
    torch.manual_seed(0)
    config = replace(STFV8Config.debug(), data_root=str(shared_tree), **dict.fromkeys(FLAGS, True))
    model = build_network(config).eval()
    with torch.no_grad():  # as if trained: the share of HLL decides
        model.state_gate.choice.weight.normal_(std=1.0)
    data = DataParams(root=str(shared_tree), num_frames=config.num_frames, img_size=config.img_size)
    return ClipScorer(model, config), Params(data=data)


def test_shares_are_those_of_the_compressed_clips(adaptive):
    shares = open_shares(*adaptive)
    assert tuple(share.qp for share in shares) == QPS
    assert all(share.n_clips == 2 for share in shares)  # one of each validation video
    assert all(0 < share.mean <= 1 for share in shares)
    assert shares[0].mean != shares[1].mean
    assert shares == open_shares(*adaptive)


def test_only_real_validation_videos_are_read(adaptive, monkeypatch):
    from stf.evaluation import open_share

    asked = []

    class Watched(open_share.VideoSBIDataset):
        def __init__(self, phase, *arguments, **options):
            asked.append(phase)
            super().__init__(phase, *arguments, **options)

    monkeypatch.setattr(open_share, "VideoSBIDataset", Watched)
    open_shares(*adaptive)
    assert asked == ["val"]


def test_a_network_without_adaptive_state_has_none(adaptive):
    _, params = adaptive
    for flags in ((), ("use_hydra",)):
        config = replace(STFV8Config.debug(), **dict.fromkeys(flags, True))
        assert open_shares(ClipScorer(build_network(config), config), params) == ()
