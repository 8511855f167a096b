"""Score table → figures per method and overall, per quality; the gate of phase B."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from stf.config import Params
from stf.data.ffpp import FFPPTree, is_sample
from stf.evaluation.baselines import SCALARS, ScalarAuc, scalar_auc, video_scalars
from stf.evaluation.clips import REAL, SPLIT, TestVideos, VideoGroup, select_videos
from stf.evaluation.intervals import auc_interval, identity_clusters
from stf.evaluation.metrics import GroupMetrics, Threshold, group_metrics
from stf.evaluation.predict import ClipScorer, Watch, score_videos, unwatched
from stf.evaluation.self_blended import (
    OpenShare,
    SelfBlendedResult,
    open_shares,
    self_blended_test,
    validation_threshold,
)
from stf.io.outputs import write_text

OVERALL = "overall"
SYNTHETIC_NOTE = (
    "Synthetic stand-in: the data is the built-in sample; its figures mean nothing for real deepfakes."
)
TEST_DATA_USE = {
    "a": (
        "The threshold comes from validation alone. The gate of phase B (overall AUC above phase_b.min_phase_a_auc) is "
        "the one declared use of test data."
    ),
    "b": (
        "The threshold comes from validation alone. The gate was the one declared use of test data: phase B was "
        "trained because phase A's overall AUC was above phase_b.min_phase_a_auc. Test videos chose nothing else."
    ),
}


@dataclass(frozen=True)
class Gate:
    """Whether phase B may start, and the overall AUC that phase A had to exceed."""

    passed: bool
    threshold: float

    def write(self, path: Path) -> None:
        """Writes verdict and threshold alone: a further figure would retrain phase B for nothing."""
        write_text(path, json.dumps(asdict(self)) + "\n")


def gate_for(overall_auc: float, threshold: float) -> Gate:
    """Passed when `overall_auc` (0 to 1) is above `threshold`, not equal to it."""
    return Gate(passed=overall_auc > threshold, threshold=threshold)


@dataclass(frozen=True)
class QualityResult:
    """One quality's figures: the methods in order, then OVERALL (their fakes pooled against the reals)."""

    quality: str
    groups: dict[str, GroupMetrics]

    @property
    def overall(self) -> GroupMetrics:
        return self.groups[OVERALL]


@dataclass(frozen=True)
class Evaluation:
    """Everything that a report says about one checkpoint on one data set."""

    variant: str
    epoch: int
    clips_per_video: int
    num_frames: int
    img_size: int
    synthetic: bool
    threshold: Threshold
    videos: TestVideos
    table: pd.DataFrame  # one row per video, predict.score_videos' columns and the scalars
    qualities: tuple[QualityResult, ...]  # the headline first
    baselines: dict[str, dict[str, ScalarAuc]]  # scalar → group → AUC at the headline quality
    gate: Gate | None  # None for phase B, and when the overall AUC is not available
    self_blended: tuple[SelfBlendedResult, ...] = ()
    open_shares: tuple[OpenShare, ...] = ()  # of an adaptive state

    @property
    def headline(self) -> QualityResult:
        return self.qualities[0]

    @property
    def note(self) -> str | None:
        """SYNTHETIC_NOTE where the figures come from the built-in sample."""
        return SYNTHETIC_NOTE if self.synthetic else None

    def unreadable(self, group: VideoGroup) -> dict[str, str]:
        """{video id: error} of the group's videos that could not be scored, or not from every clip."""
        table = self.table
        is_mine = (table["quality"] == group.quality) & (table["method"] == group.name)
        rows = table[is_mine & (table["error"] != "")]
        return dict(zip(rows["video_id"], rows["error"], strict=True))

    def failed_groups(self) -> tuple[str, ...]:
        """'c23/Deepfakes' for every group with videos on disk of which none could be read."""
        scored = self.table[self.table["score"].notna()]
        read = set(zip(scored["quality"], scored["method"], strict=True))
        names = [(group.quality, group.name) for group in self.videos.groups]
        return tuple(f"{quality}/{method}" for quality, method in names if (quality, method) not in read)


def group_rows(table: pd.DataFrame, quality: str, method: str) -> pd.DataFrame:
    """The scored videos of one quality: all reals and the fakes of `method`, or of every method for OVERALL."""
    scored = (table["quality"] == quality) & table["score"].notna()
    selected = scored if method == OVERALL else scored & table["method"].isin([REAL, method])
    return pd.DataFrame(table.loc[selected])


def quality_result(
    table: pd.DataFrame, quality: str, methods: tuple[str, ...], threshold: float, params: Params
) -> QualityResult:
    """The figures of one quality; videos without a score count in nothing."""
    figures = {}
    for name in (*methods, OVERALL):
        rows = group_rows(table, quality, name)
        labels_N, scores_N = rows["label"].to_numpy(int), rows["score"].to_numpy(float)
        clusters_N, n_resamples = rows["identity_pair"].to_numpy(str), params.evaluation.bootstrap_samples
        interval = auc_interval(labels_N, scores_N, clusters_N, n_resamples, params.seed)
        figures[name] = group_metrics(labels_N, scores_N, threshold, interval)
    return QualityResult(quality, figures)


def baseline_results(
    table: pd.DataFrame, methods: tuple[str, ...], params: Params
) -> dict[str, dict[str, ScalarAuc]]:
    """AUC of each untrained scalar over the videos that the network scored at the headline quality."""
    groups = {name: group_rows(table, params.data.quality, name) for name in (*methods, OVERALL)}
    n_resamples = params.evaluation.bootstrap_samples
    return {
        scalar: {name: scalar_auc(rows, scalar, n_resamples, params.seed) for name, rows in groups.items()}
        for scalar in SCALARS
    }


def evaluate(
    scorer: ClipScorer,
    epoch: int,
    params: Params,
    methods: tuple[str, ...],
    *,
    gate_threshold: float | None = None,
    sbi_test: bool = False,
    watch: Watch = unwatched,
) -> Evaluation:
    """Scores a checkpoint on the test split's real and manipulated videos in every quality on disk.

    With `gate_threshold` the overall AUC must exceed it: the gate of phase B, which only phase A has.
    Raises DataError when there is nothing to score, CheckpointError when the network returns no numbers.
    """
    data, config, n_clips = params.data, scorer.config, params.evaluation.clips_per_video
    tree = FFPPTree(data.root)
    videos = select_videos(tree, methods, data.quality)
    threshold = validation_threshold(scorer, params, watch)
    listed = [video for group in videos.groups for video in group.videos]
    clusters = identity_clusters(tree.splits[SPLIT])
    strided = data.allow_strided
    table = score_videos(
        scorer, listed, clusters, clips_per_video=n_clips, allow_strided=strided, watch=watch
    )
    headline = [video for video in listed if video.quality == data.quality]
    scalars = video_scalars(
        headline,
        config.num_frames,
        allow_strided=strided,
        num_workers=scorer.num_workers,
        watch=watch,
        world=scorer.world,
    )
    table = pd.concat([table, scalars], axis=1)  # the headline's videos come first in both
    results = tuple(
        quality_result(table, quality, videos.methods(quality), threshold.value, params)
        for quality in videos.qualities
    )
    auc = results[0].overall.auc
    gate = None if auc is None or gate_threshold is None else gate_for(auc, gate_threshold)
    return Evaluation(
        variant=config.variant(),
        epoch=epoch,
        clips_per_video=n_clips,
        num_frames=config.num_frames,
        img_size=config.img_size,
        synthetic=is_sample(data.root),
        threshold=threshold,
        videos=videos,
        table=table,
        qualities=results,
        baselines=baseline_results(table, videos.methods(data.quality), params),
        gate=gate,
        self_blended=self_blended_test(scorer, params, watch) if sbi_test else (),
        open_shares=open_shares(scorer, params, watch),
    )
