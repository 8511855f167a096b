"""Fixtures for several test folders: tiny trees in the FF++ layout, an evaluation, folders to run commands in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from stf.config import METHODS
from stf.data.faces import FOREHEAD_ORDER
from stf.data.ffpp import fingerprint_of, frame_name, split_file, video_folder

if TYPE_CHECKING:
    from stf.evaluation.results import Evaluation

TINY_SPLITS = {"train": [["000", "001"], ["002", "003"]], "val": [["004", "005"]], "test": [["006", "007"]]}


def unit_face() -> np.ndarray:
    """Returns (81, 2) landmarks of a face that fills [-1, 1]², with the forehead in the order of the stored files."""
    jaw = np.linspace(np.pi * 1.05, -np.pi * 0.05, 17)
    parts = [np.stack([np.cos(jaw), np.sin(jaw)], 1) * (1, 1)]
    for sign in (-1, 1):  # brows
        parts.append(np.stack([sign * 0.45 + np.linspace(-0.25, 0.25, 5), np.full(5, -0.4)], 1))
    parts.append(np.stack([np.zeros(4), np.linspace(-0.3, 0.1, 4)], 1))  # nose bridge
    parts.append(np.stack([np.linspace(-0.15, 0.15, 5), np.full(5, 0.18)], 1))  # nostrils
    for sign in (-1, 1):  # eyes, clockwise from the left corner
        eye = np.array([np.pi, 1.3 * np.pi, 1.7 * np.pi, 0, 0.3 * np.pi, 0.7 * np.pi])
        parts.append(np.stack([sign * 0.45 + 0.15 * np.cos(eye), -0.2 + 0.06 * np.sin(eye)], 1))
    for width, n_top, n_low in ((0.3, 7, 5), (0.2, 5, 3)):  # lips, outer and inner
        top = np.linspace(np.pi, 2 * np.pi, n_top)
        low = np.linspace(0, np.pi, n_low + 2)[1:-1]
        lips = np.concatenate([top, low])
        parts.append(np.stack([width * np.cos(lips), 0.5 + 0.4 * width * np.sin(lips)], 1))
    hairline = np.linspace(np.pi * 0.95, np.pi * 0.05, 13)
    forehead = np.empty((13, 2))
    forehead[np.array(FOREHEAD_ORDER) - 68] = np.stack([np.cos(hairline), -np.sin(hairline)], 1)
    return np.concatenate([*parts, forehead])


def _texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    coarse = rng.uniform(40, 215, (max(2, height // 12), max(2, width // 12), 3)).astype(np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def write_video(
    root: Path,
    video_id: str,
    *,
    method: str | None = None,
    quality: str = "c23",
    n_frames: int = 12,
    size: tuple[int, int] = (120, 144),
    seed: int = 0,
) -> None:
    """Writes one video: a textured ellipse of 52x64 px that moves smoothly over a textured, noisy background."""
    height, width = size
    rng = np.random.default_rng([seed, *video_id.encode(), *(method or "").encode()])
    background, skin = _texture(rng, height, width), _texture(rng, height, width)
    folders = {
        kind: video_folder(root, method, quality, kind, video_id)
        for kind in ("frames", "landmarks", "retina")
    }
    for folder in folders.values():
        folder.mkdir(parents=True)
    phase = rng.uniform(0, 2 * np.pi, 2)
    for t in range(n_frames):
        centre = np.array([width / 2, height * 0.55]) + (4, 2) * np.sin(0.25 * t + phase)
        shift = np.float32([[1, 0, 4 * np.sin(0.25 * t + phase[0])], [0, 1, 2 * np.sin(0.25 * t + phase[1])]])
        moved = cv2.warpAffine(skin, shift, (width, height), borderMode=cv2.BORDER_REFLECT_101)
        mask = np.zeros((height, width), np.float32)
        fixed = tuple(round(16 * v) for v in centre)
        cv2.ellipse(mask, fixed, (26 * 16, 32 * 16), 0, 0, 360, 1.0, -1, cv2.LINE_AA, 4)
        frame = background + mask[..., None] * (moved - background) + rng.normal(0, 2, background.shape)
        cv2.imwrite(str(folders["frames"] / frame_name(t, "frames")), np.clip(frame, 0, 255).astype(np.uint8))
        landmarks = centre + unit_face() * (26, 32)
        corners = centre + np.array([[-26, -32], [26, 32]])
        np.save(folders["landmarks"] / frame_name(t, "landmarks"), np.round(landmarks)[None].astype(np.int64))
        np.save(folders["retina"] / frame_name(t, "retina"), np.concatenate([corners, landmarks[:5]])[None])


def write_tree(
    root: Path,
    *,
    splits: dict[str, list[list[str]]] | None = None,
    qualities: tuple[str, ...] = ("c23",),
    methods: tuple[str, ...] = METHODS,
    fake_splits: tuple[str, ...] = ("test",),
    n_frames: int = 12,
    size: tuple[int, int] = (120, 144),
) -> Path:
    """Writes a small tree under `root`: reals in every split, both directions of each pair in `fake_splits`."""
    splits = splits or TINY_SPLITS
    for split, pairs in splits.items():
        split_file(root, split).parent.mkdir(parents=True, exist_ok=True)
        split_file(root, split).write_text(json.dumps(pairs))
        for quality in qualities:
            for video_id in sorted({i for pair in pairs for i in pair}):
                write_video(root, video_id, quality=quality, n_frames=n_frames, size=size)
            for method in methods if split in fake_splits else ():
                for a, b in pairs:
                    for video_id in (f"{a}_{b}", f"{b}_{a}"):
                        write_video(
                            root, video_id, method=method, quality=quality, n_frames=n_frames, size=size
                        )
    return root


@pytest.fixture
def make_tree(tmp_path: Path) -> Callable[..., Path]:
    """`make_tree(n_frames=…, size=(h, w), …)` writes a tree under tmp_path/data and returns its root."""
    return lambda **options: write_tree(tmp_path / "data", **options)


@pytest.fixture
def tiny_tree(shared_tree: Path, tmp_path: Path) -> Path:
    """A fresh small tree that a test may damage: 8 real videos, 8 fakes, 12 frames of 144x120, c23."""
    return Path(shutil.copytree(shared_tree, tmp_path / "tiny"))


@pytest.fixture(scope="session")
def tree_writer() -> Callable[..., Path]:
    """`tree_writer(root, size=…, …)` writes a tree; for module and session fixtures."""
    return write_tree


@pytest.fixture
def write_one_video() -> Callable[..., None]:
    """`write_one_video(root, id, method=…, quality=…, n_frames=…)` adds one video to a tree."""
    return write_video


@pytest.fixture(scope="session")
def shared_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One tree like `tiny_tree` for the whole session; read-only."""
    return write_tree(tmp_path_factory.mktemp("shared") / "data")


@pytest.fixture(scope="session")
def three_pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six real test videos and the fakes of two methods, raw and c23; read-only."""
    from tests.reference.evaluation_sets import write_three_pairs

    return write_three_pairs(tmp_path_factory.mktemp("three_pairs"))


@pytest.fixture(scope="session")
def evaluated(three_pairs: Path) -> Evaluation:
    """The evaluation of `three_pairs` by a network that scores redness, with the self-blended sets."""
    from stf.evaluation.results import evaluate
    from tests.reference.evaluation_sets import params_for, scorer_for

    params = params_for(three_pairs)
    methods = params.evaluation.methods
    return evaluate(scorer_for(three_pairs), 7, params, methods, gate_threshold=0.7, sbi_test=True)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository root whose mlruns/ contains an MLflow store without runs; creating one takes seconds, so copy it."""
    from stf.tracking.store import open_store  # imports mlflow, which takes seconds

    root = tmp_path_factory.mktemp("empty_store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(root))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        open_store()
    return root


@pytest.fixture
def repository_root(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository root with its own store, set as the working folder, to run commands in."""
    root = Path(shutil.copytree(empty_store, tmp_path / "repository_root"))
    monkeypatch.chdir(root)
    monkeypatch.setenv("DVC_ROOT", str(root))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return root


@pytest.fixture
def training_root(repository_root: Path, tiny_tree: Path) -> Path:
    """`repository_root` with verified data in data/, to run training commands in."""
    tiny_tree.rename(repository_root / "data")
    (repository_root / "metrics").mkdir()
    verified = {"fingerprint": fingerprint_of("data")}
    (repository_root / "metrics/data.json").write_text(json.dumps(verified), encoding="utf-8")
    return repository_root


@pytest.fixture
def plain_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training commands skip the estimate and write blank figures, which would take a third of their time here."""
    from matplotlib.figure import Figure

    monkeypatch.setattr("stf.forecast.report.estimated_line", lambda *_: "no estimate")
    for name in ("pairs_figure", "hll_figure"):
        monkeypatch.setattr(f"stf.training.outputs.{name}", lambda *_: Figure(figsize=(1, 1)))
