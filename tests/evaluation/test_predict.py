"""One score per video: the mean over its clips, whatever the batch or the number of workers."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from stf.data.clips import video_clip_starts
from stf.data.ffpp import FFPPTree
from stf.errors import CheckpointError
from stf.evaluation.clips import EvaluationClips
from stf.evaluation.intervals import identity_clusters
from stf.evaluation.predict import score_videos
from tests.reference.evaluation_sets import NoNumber, Redness, scorer_for, write_three_pairs


def listed(root, method="FaceSwap"):
    tree = FFPPTree(root)
    videos = tree.real_videos("test", "c23") + tree.fake_videos("test", method, "c23")
    return videos, identity_clusters(tree.splits["test"])


def test_the_score_is_the_mean_p_fake_over_the_videos_clips(three_pairs):
    videos, clusters = listed(three_pairs)
    scorer = scorer_for(three_pairs)
    table = score_videos(scorer, videos, clusters, clips_per_video=2)
    clips = EvaluationClips(videos, scorer.config, 2)
    by_video = [[] for _ in videos]
    for i in range(len(clips)):
        item = clips[i]
        logit = 8 * (float(item["video"][0].double().mean()) / 255 - 0.5)
        by_video[item["video_index"]].append(1 / (1 + np.exp(-logit)))
    assert table["score"].tolist() == pytest.approx([np.mean(scores) for scores in by_video], abs=1e-5)
    assert table["n_clips"].tolist() == [2] * 12
    assert table["score"].nunique() == 12
    assert (table["error"] == "").all()


def test_the_table_identifies_each_video(three_pairs):
    videos, clusters = listed(three_pairs)
    table = score_videos(scorer_for(three_pairs), videos, clusters, clips_per_video=1)
    assert table["video_id"].tolist() == [video.video_id for video in videos]
    assert table["method"].tolist() == ["real"] * 6 + ["FaceSwap"] * 6
    assert table["label"].tolist() == [0] * 6 + [1] * 6
    fake = table.set_index("video_id").loc["011_010"]
    assert (fake["target_id"], fake["identity_pair"], fake["quality"]) == ("011", "010+011", "c23")
    assert table["identity_pair"].nunique() == 3


def test_neither_workers_nor_the_batch_size_change_a_score(three_pairs):
    videos, clusters = listed(three_pairs)
    one = score_videos(scorer_for(three_pairs), videos, clusters, clips_per_video=2)
    two = score_videos(scorer_for(three_pairs, num_workers=2), videos, clusters, clips_per_video=2)
    pd.testing.assert_frame_equal(one, two)
    scorer = scorer_for(three_pairs)
    single = dataclasses.replace(scorer, config=dataclasses.replace(scorer.config, batch_size=2))
    other = score_videos(single, videos, clusters, clips_per_video=2)
    assert other["score"].tolist() == pytest.approx(one["score"].tolist(), abs=1e-6)


def test_unreadable_videos_are_reported_and_have_no_score(tmp_path):
    root = write_three_pairs(tmp_path / "data", qualities=("c23",), methods=("FaceSwap",))
    videos, clusters = listed(root)
    torn, short, half = videos[1], videos[7], videos[9]
    torn.frame_paths[5].write_bytes(torn.frame_paths[5].read_bytes()[:200])
    for path in short.frame_paths[5:]:
        path.unlink()
    half.frame_paths[-1].write_bytes(b"no picture")  # only the later of the two clips holds it
    videos, clusters = listed(root)
    assert len(video_clip_starts(videos[9], 8, 2)) == 2
    table = score_videos(scorer_for(root), videos, clusters, clips_per_video=2)
    assert table["score"].isna().to_numpy().nonzero()[0].tolist() == [1, 7]
    assert table["n_clips"].tolist() == [2, 0, 2, 2, 2, 2, 2, 0, 2, 1, 2, 2]
    assert (table["error"] != "").to_numpy().nonzero()[0].tolist() == [1, 7, 9]
    assert torn.frame_paths[5].name in table["error"][1]
    assert "no 8 consecutive frames" in table["error"][7]


def test_a_network_that_returns_nan_is_an_error_not_a_score(three_pairs):
    videos, clusters = listed(three_pairs)
    with pytest.raises(CheckpointError, match="not finite"):
        score_videos(scorer_for(three_pairs, NoNumber()), videos[:1], clusters, clips_per_video=1)


def test_scoring_stores_no_gradient_and_switches_dropout_off(three_pairs):
    class Noisy(Redness):
        def __init__(self):
            super().__init__()
            self.dropout = torch.nn.Dropout(0.5)
            self.seen = []

        def forward(self, video_BCTSS):
            self.seen.append((self.training, torch.is_grad_enabled()))
            return super().forward(self.dropout(video_BCTSS))

    model = Noisy().train()
    scorer = scorer_for(three_pairs, model)
    video = torch.rand(2, 3, 8, 32, 32)
    assert scorer.p_fake(video).tolist() == scorer.p_fake(video).tolist()
    assert model.seen == [(False, False)] * 2
