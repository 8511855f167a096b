"""Network + videos → one score per video. B clips, T frames, S = img_size; a score is softmax p(fake)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader

from stf.config import STFV8Config
from stf.data.pairs import as_floats, start_loader_worker
from stf.data.video import Video
from stf.errors import CheckpointError
from stf.evaluation.clips import REAL, EvaluationClips, collate_evaluation
from stf.io.distributed import ALONE, World

Watch = Callable[[Iterable[Any], str, int], Iterable[Any]]  # (batches, what they are, how many) → the batches


def unwatched(batches: Iterable[Any], description: str, total: int) -> Iterable[Any]:
    """The batches without a progress display."""
    return batches


@dataclass(frozen=True)
class ClipScorer:
    """A network with the configuration it was trained with, and where it runs.

    The processes of `world` score together: each takes whole batches of what there is to score, dealt out one by one,
    so that the batches, and with them the scores to the last bit, are those of a single process (at equal threads).
    """

    model: nn.Module
    config: STFV8Config
    device: str = "cpu"
    num_workers: int = 0
    world: World = ALONE

    def p_fake(self, video_BCTSS: Tensor) -> np.ndarray:
        """(B,) float64 probabilities of label 1; raises CheckpointError when the network gives no number."""
        self.model.eval()
        with torch.inference_mode():
            logits_B2 = self.model(as_floats(video_BCTSS.to(self.device, non_blocking=True)))["logits"]
        scores_B = torch.softmax(logits_B2.double(), dim=1)[:, 1].cpu().numpy()
        if not np.isfinite(scores_B).all():
            raise CheckpointError(
                "the network's output is not finite; its weights are damaged, train it again"
            )
        return scores_B


def score_videos(
    scorer: ClipScorer,
    videos: Sequence[Video],
    clusters: Mapping[str, str],
    *,
    clips_per_video: int,
    allow_strided: bool = False,
    watch: Watch = unwatched,
) -> pd.DataFrame:
    """One row per video, in the order given: its score is the mean over its readable clips.

    Columns: video_id, method ("real" for reals), quality, label, target_id, identity_pair (the target's
    cluster), score (NaN when no clip could be read), n_clips (scored), error (what could not be read, or "").
    Every process of scorer.world gets the whole table.
    """
    dataset = EvaluationClips(videos, scorer.config, clips_per_video, allow_strided=allow_strided)
    batches = list(BatchSampler(range(len(dataset)), scorer.config.batch_size, drop_last=False))
    loader = DataLoader(
        dataset,
        batch_sampler=scorer.world.shard(batches),
        num_workers=scorer.num_workers,
        collate_fn=collate_evaluation,
        worker_init_fn=start_loader_worker,
        pin_memory=scorer.device != "cpu",
        generator=torch.Generator(),
    )
    scored = []
    for batch in watch(loader, "Scoring test clips", len(loader)):
        p_fake = [] if batch["video"] is None else scorer.p_fake(batch["video"]).tolist()
        scored.append((batch["errors"], list(zip(batch["video_index"], p_fake, strict=True))))
    scores: list[list[float]] = [[] for _ in videos]
    errors: list[list[str]] = [[] for _ in videos]
    for batch_errors, batch_scores in scorer.world.unshard(scored):
        for video_index, text in batch_errors:
            errors[video_index].append(text)
        for video_index, score in batch_scores:
            scores[video_index].append(score)
    rows = [
        {
            "video_id": video.video_id,
            "method": video.method or REAL,
            "quality": video.quality,
            "label": video.label,
            "target_id": video.target_id,
            "identity_pair": clusters[video.target_id],
            "score": float(np.mean(clip_scores)) if clip_scores else float("nan"),
            "n_clips": len(clip_scores),
            "error": "; ".join(texts),
        }
        for video, clip_scores, texts in zip(videos, scores, errors, strict=True)
    ]
    return pd.DataFrame(rows)
