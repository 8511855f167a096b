"""The loaders of a run: which clips come in which epoch, and how a bad video is reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from stf.config import DataParams, Params, SbiParams, STFV8Config
from stf.data.face_clip import FaceClip, read_face_clip
from stf.data.pairs import as_floats
from stf.data.video_sbi_dataset import VideoSBIDataset
from stf.errors import DataError
from stf.training.loaders import build_loaders
from stf.training.step import to_device


def settings(root: Path, num_workers: int = 0) -> tuple[STFV8Config, Params]:
    config = STFV8Config.debug()
    config.data_root, config.num_workers = str(root), num_workers
    data = DataParams(root=str(root), num_frames=8, img_size=32, val_pairs_per_video=2)
    return config, Params(data=data, sbi=SbiParams(tps_probability=0.0), seed=3)


def test_training_clips_are_new_in_every_epoch_and_validation_clips_never(shared_tree: Path) -> None:
    train, val, dataset = build_loaders(*settings(shared_tree))
    seen = {"train": [], "val": []}
    for epoch in (0, 1):
        train.set_epoch(epoch)
        for split, batches in (("train", train), ("val", val)):
            seen[split].append({p.seed: b.video for b in batches for p in b.provenance})
    assert {seed[1] for seed in seen["train"][0]} == {0}
    assert {seed[1] for seed in seen["train"][1]} == {1}
    assert len(seen["train"][0]) == dataset.n_pairs == 4
    assert len(seen["val"][0]) == 4  # 2 videos × 2 pairs
    assert list(seen["val"][0]) == list(seen["val"][1])
    for a, b in zip(seen["val"][0].values(), seen["val"][1].values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_uint8_batches_become_the_data_sets_floats(shared_tree: Path, num_workers: int) -> None:
    config, params = settings(shared_tree, num_workers)
    train, val, _ = build_loaders(config, params)
    train.set_epoch(1)
    for phase, batches in (("train", train), ("val", val)):
        plain = VideoSBIDataset(phase, config, data=params.data, sbi=params.sbi, seed=params.seed)
        for batch in batches:
            assert batch.video.dtype == torch.uint8
            video, labels = to_device(batch, torch.device("cpu"))
            items = [plain[p.seed[1], 2 * p.seed[2] + i % 2] for i, p in enumerate(batch.provenance)]
            assert torch.equal(video, torch.stack([item["video"] for item in items]))
            assert torch.equal(video, as_floats(batch.video))
            assert labels.tolist() == [item["label"] for item in items]


def test_training_reads_through_the_reader_and_validation_does_not(shared_tree: Path) -> None:
    splits = []

    def reader(*arguments: Any) -> FaceClip:
        splits.append(arguments[0].split)
        return read_face_clip(*arguments)

    train, val, _ = build_loaders(*settings(shared_tree), reader=reader)
    assert len([*train, *val]) == 4
    assert splits == ["train"] * 4  # once per pair: both members come of one computation


def test_a_dry_run_takes_a_few_pairs_of_each_split(shared_tree: Path) -> None:
    train, val, dataset = build_loaders(*settings(shared_tree), max_pairs=2)
    assert dataset.n_pairs == 4
    assert len(train) == 1
    for batches in (train, val):
        assert [len(batch.label) for batch in batches] == [4]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_split_that_cannot_be_read_is_reported_in_one_line(tiny_tree: Path, num_workers: int) -> None:
    train, _, _ = build_loaders(*settings(tiny_tree, num_workers))
    for frame in tiny_tree.rglob("*.png"):
        frame.write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"^train pair \d .*all 11 attempts failed") as caught:
        list(train)
    assert "\n" not in str(caught.value)
