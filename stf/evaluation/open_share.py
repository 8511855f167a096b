"""How much of its state an adaptive network reads, at a light and at a strong compression (SPEC section 5).

Shapes: T frames, S = img_size, N clips.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from stf.config import Params
from stf.data.augment.codec import h264_round_trip
from stf.data.video_sbi_dataset import VideoSBIDataset
from stf.evaluation.predict import ClipScorer, Watch, unwatched
from stf.models.backbone_v8 import STFMambaV8

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
    found: list[list[float]] = []
    mine = scorer.world.dealt(range(dataset.n_pairs))
    for i in watch(mine, "Reading the open share of the state", len(mine)):
        frames_TSSC = np.rint(255 * dataset.pair(0, i).real.transpose(1, 2, 3, 0)).astype(np.uint8)
        shares = []
        for qp in QPS:
            coded = torch.from_numpy(h264_round_trip(np.ascontiguousarray(frames_TSSC), qp, "rgb24"))
            video = coded.permute(3, 0, 1, 2)[None].to(scorer.device) / 255
            shares.append(model.eval().open_share(video).item())
        found.append(shares)
    by_qp = zip(QPS, zip(*scorer.world.in_order(found), strict=True), strict=True)
    return tuple(OpenShare(qp, float(np.mean(s)), float(np.std(s)), len(s)) for qp, s in by_qp)
