"""Creates the intact files that the fuzzer damages copies of; takes about ten seconds, once."""

from __future__ import annotations

import dataclasses
import io
import json
import os
from pathlib import Path

import av
import numpy as np
import torch
import yaml

from stf.config import DataParams, Params, STFV8Config
from stf.data.cache.build import build_video
from stf.data.cache.face_cache import FaceCache
from stf.data.ffpp import FFPPTree
from stf.models.backbone_v73 import STFMambaV73
from stf.models.checkpoint import save_checkpoint
from tests.conftest import write_tree
from tests.reference.comparison_sets import score_table, write_files

_SPLITS = {"train": [["000", "001"]], "val": [["002", "003"]], "test": [["004", "005"]]}


def prepare_good(folder: Path, with_store: bool) -> None:
    """Creates all intact files below `folder`; for commands also an MLflow store without runs."""
    folder.mkdir(parents=True)
    write_tree(folder / "tree", splits=_SPLITS, methods=("FaceSwap",), n_frames=8, size=(96, 112))
    _write_cache(folder)
    _write_checkpoints(folder)
    write_files(folder / "e.json", score_table(1.0))
    values = json.loads(json.dumps(dataclasses.asdict(Params())))
    (folder / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    for suffix in ("mp4", "mkv", "avi"):
        _write_video(folder / f"video.{suffix}")
    if with_store:
        _write_store(folder / "store")


def _write_store(folder: Path) -> None:
    from stf.tracking.store import open_store  # imports mlflow, which takes seconds

    os.environ["DVC_ROOT"] = str(folder)
    folder.mkdir()
    open_store()


def _write_cache(folder: Path) -> None:
    video = FFPPTree(folder / "tree").real_videos("train", "c23")[0]
    cache = FaceCache.for_data(folder / "cache", DataParams(root=str(folder / "tree"), num_frames=8), "fuzz")
    cache.folder.mkdir(parents=True)
    build_video(cache, video)
    cache.path(video).rename(folder / "video.faces")


def _write_checkpoints(folder: Path) -> None:
    torch.manual_seed(0)
    config = STFV8Config.debug()
    model = STFMambaV73(config)
    optimizer = torch.optim.AdamW(model.parameters())
    save_checkpoint(folder / "best.safetensors", model, config=config, epoch=3)
    save_checkpoint(folder / "best.pt", model, config=config, epoch=3, optimizer=optimizer)
    buffer = io.BytesIO()
    torch.save({"model": model.state_dict()}, buffer, _use_new_zipfile_serialization=False)
    (folder / "old.pt").write_bytes(buffer.getvalue())


def _write_video(path: Path) -> None:
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(12):
            picture = rng.integers(0, 256, (48, 64, 3)).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
