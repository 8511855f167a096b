"""Scores on clips that no manipulation method made: the validation clips (they give the threshold), the two fixed
self-blended sets of --sbi-test, and how much of its state an adaptive network reads of real validation clips.

Shapes: N clips, T frames, S = img_size.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from stf.config import Params
from stf.data.augment.codec import h264_round_trip
from stf.data.ffpp import FFPPTree
from stf.data.video_sbi_dataset import PairBatchSampler, Phase, VideoSBIDataset, make_loader
from stf.evaluation.intervals import Interval, auc_interval, identity_clusters
from stf.evaluation.metrics import Threshold, choose_threshold
from stf.evaluation.predict import ClipScorer, Watch, unwatched
from stf.models.backbone_v8 import STFMambaV8

SBI_TEST_SEED = 8  # fixed: every checkpoint, whatever its run's seed, meets the same clips
SBI_TEST_FLAGS = {  # recipe → (H.264 augmentation, multi-scale drift)
    "V7.3 recipe": (False, False),
    "V8.0 recipe": (True, True),
}
RECIPE_MEANING = {
    "V7.3 recipe": "fixed 2-px drift, no H.264",
    "V8.0 recipe": "multi-scale drift, H.264 on half of the pairs",
}


@dataclass(frozen=True)
class SelfBlendedScores:
    """Scores of the real and fake clips of a self-blended set; N clips, the two of a pair are neighbours."""

    labels_N: np.ndarray
    scores_N: np.ndarray
    video_ids: tuple[str, ...]


@dataclass(frozen=True)
class SelfBlendedResult:
    """AUC over the clips of one fixed self-blended set, with an interval over the identity pairs."""

    recipe: str
    meaning: str
    auc: float
    interval: Interval | None
    n_real: int
    n_fake: int


def score_self_blended(
    scorer: ClipScorer, dataset: VideoSBIDataset, what: str, watch: Watch = unwatched
) -> SelfBlendedScores:
    """Every clip of `dataset`, in its own order."""
    sampler = PairBatchSampler(dataset.n_pairs, scorer.config.batch_size, seed=0, shuffle=False)
    loader = make_loader(dataset, scorer.world.shard(list(sampler)), scorer.num_workers)
    batches = [
        (
            batch["label"].numpy(),
            scorer.p_fake(batch["video"]),
            [provenance.video_id for provenance in batch["provenance"]],
        )
        for batch in watch(loader, f"Scoring {what}", len(loader))
    ]
    labels, scores, video_ids = zip(*scorer.world.unshard(batches), strict=True)
    return SelfBlendedScores(
        np.concatenate(labels), np.concatenate(scores), tuple(itertools.chain.from_iterable(video_ids))
    )


def validation_threshold(scorer: ClipScorer, params: Params, watch: Watch = unwatched) -> Threshold:
    """The threshold of the highest balanced accuracy on the val split's self-blended clips.

    No manipulated and no test video is read. The clips follow the recipe that the checkpoint was trained with
    (its own flags), in the training quality.
    """
    dataset = _dataset("val", scorer, params, params.seed)
    scores = score_self_blended(scorer, dataset, "validation clips", watch)
    return choose_threshold(scores.labels_N, scores.scores_N)


def self_blended_test(
    scorer: ClipScorer, params: Params, watch: Watch = unwatched
) -> tuple[SelfBlendedResult, ...]:
    """AUC on the test split's reals, self-blended by V7.3's and by V8.0's recipe (seed SBI_TEST_SEED)."""
    results = []
    for recipe, (compression, drift) in SBI_TEST_FLAGS.items():
        config = replace(scorer.config, use_compression_aug=compression, use_multiscale_drift=drift)
        dataset = _dataset("test", replace(scorer, config=config), params, SBI_TEST_SEED)
        scores = score_self_blended(scorer, dataset, f"self-blended test clips, {recipe}", watch)
        clusters = identity_clusters(FFPPTree(params.data.root).splits["test"])
        clusters_N = np.array([clusters[video_id] for video_id in scores.video_ids])
        n_resamples = params.evaluation.bootstrap_samples
        interval = auc_interval(scores.labels_N, scores.scores_N, clusters_N, n_resamples, params.seed)
        n_fake = int(scores.labels_N.sum())
        auc = float(roc_auc_score(scores.labels_N, scores.scores_N))
        n_real = len(scores.labels_N) - n_fake
        results.append(SelfBlendedResult(recipe, RECIPE_MEANING[recipe], auc, interval, n_real, n_fake))
    return tuple(results)


def _dataset(phase: Phase, scorer: ClipScorer, params: Params, seed: int) -> VideoSBIDataset:
    """The split's self-blended clips in the checkpoint's clip shape, from the data of `params`."""
    config = replace(scorer.config, data_root=params.data.root)
    data = replace(params.data, num_frames=config.num_frames, img_size=config.img_size)
    return VideoSBIDataset(phase, config, data=data, sbi=params.sbi, seed=seed, as_uint8=True)


QPS = (23, 40)


@dataclass(frozen=True)
class OpenShare:
    """Mean and standard deviation over `n_clips` real validation clips at one QP; 1 is the whole state."""

    qp: int
    mean: float
    std: float
    n_clips: int


def open_shares(scorer: ClipScorer, params: Params, watch: Watch = unwatched) -> tuple[OpenShare, ...]:
    """The open share of the val split's real clips, the same ones at every QP; () without an adaptive state.

    No manipulated and no test video is read.
    """
    model = scorer.model
    if not isinstance(model, STFMambaV8) or not scorer.config.use_adaptive_sdim:
        return ()
    config = replace(scorer.config, data_root=params.data.root, use_compression_aug=False)
    data = replace(params.data, num_frames=config.num_frames, img_size=config.img_size)
    dataset = VideoSBIDataset("val", config, data=replace(data, val_pairs_per_video=1), sbi=params.sbi)
    shares_by_clip: list[list[float]] = []
    mine = scorer.world.shard(range(dataset.n_pairs))
    for i in watch(mine, "Reading the open share of the state", len(mine)):
        frames_TSSC = np.rint(255 * dataset.pair(0, i).real.transpose(1, 2, 3, 0)).astype(np.uint8)
        shares = []
        for qp in QPS:
            coded = torch.from_numpy(h264_round_trip(np.ascontiguousarray(frames_TSSC), qp, "rgb24"))
            video = coded.permute(3, 0, 1, 2)[None].to(scorer.device) / 255
            shares.append(model.eval().open_share(video).item())
        shares_by_clip.append(shares)
    by_qp = zip(QPS, zip(*scorer.world.unshard(shares_by_clip), strict=True), strict=True)
    return tuple(OpenShare(qp, float(np.mean(s)), float(np.std(s)), len(s)) for qp, s in by_qp)
