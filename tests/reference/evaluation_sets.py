"""A tree with three test pairs, and networks whose scores are known."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import Tensor, nn

from stf.config import DataParams, EvaluationParams, Params, STFV8Config
from stf.evaluation.predict import ClipScorer
from tests.conftest import write_tree

SPLITS = {
    "train": [["000", "001"]],
    "val": [["004", "005"]],
    "test": [["006", "007"], ["008", "009"], ["010", "011"]],
}
METHODS_ON_DISK = ("Deepfakes", "FaceSwap")
QUALITIES = ("raw", "c23")


def write_three_pairs(root: Path, **changes) -> Path:
    """Six real test videos and the fakes of two methods, raw and c23."""
    options = {"qualities": QUALITIES, "methods": METHODS_ON_DISK, "n_frames": 10, "size": (96, 112)}
    return write_tree(root, splits=SPLITS, **(options | changes))


class Redness(nn.Module):
    """p(fake) grows with the mean of the red channel and nothing else."""

    def forward(self, video_BCTSS: Tensor) -> dict[str, Tensor]:
        red_B = video_BCTSS[:, 0].mean(dim=(1, 2, 3))
        return {"logits": torch.stack([torch.zeros_like(red_B), 8 * (red_B - 0.5)], dim=1)}


class NoNumber(Redness):
    """A network whose weights have gone."""

    def forward(self, video_BCTSS: Tensor) -> dict[str, Tensor]:
        return {"logits": super().forward(video_BCTSS)["logits"] * float("nan")}


def params_for(root: Path, **evaluation) -> Params:
    return Params(
        data=DataParams(root=str(root), num_frames=8, img_size=32, val_pairs_per_video=2),
        evaluation=EvaluationParams(**({"clips_per_video": 2, "bootstrap_samples": 200} | evaluation)),
    )


def scorer_for(root: Path, model: nn.Module | None = None, num_workers: int = 0) -> ClipScorer:
    config = dataclasses.replace(STFV8Config.debug(), data_root=str(root))
    return ClipScorer(model or Redness(), config, num_workers=num_workers)
