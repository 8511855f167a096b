"""Generates the built-in sample: synthetic people in the FF++ layout, for machines without FF++.

Every video is rendered, recorded by a simulated camera (H.264), forged or left unchanged, then stored as `raw` (H.264
at the uploader's quality) and `c23` (that clip encoded again at CRF 23), so real and forged videos are encoded equally
often. Each video's draws depend on (seed, identity, purpose) alone, so any number of workers writes the same bytes.
T frames, H, W pixels, C = RGB.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stf.config import METHODS
from stf.data.faces import face_box, stored_order
from stf.data.ffpp import KINDS, SPLITS, frame_name, split_file, video_folder
from stf.errors import DataError
from stf.io.cores import usable_cores
from stf.sample.camera import Frames, h264
from stf.sample.detector import detect
from stf.sample.identity import draw_identity
from stf.sample.performance import Acting, draw_acting
from stf.sample.reenactments import face2face, neural_textures
from stf.sample.skin import Head, paint_head
from stf.sample.swaps import deepfakes, faceswap
from stf.sample.take import Take, record

SAMPLE_VERSION = 4
SAMPLE_SEED = 0  # independent of the run's seed: all runs train and test on the same people
C23 = 23
_PERSON, _ACTING, _RECORDING, _FORGERY, _UPLOAD, _DETECTOR = range(6)  # the purposes of draws
_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 4, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]
_SWAPS = {"Deepfakes": deepfakes, "FaceSwap": faceswap}
_REENACTMENTS = {"Face2Face": face2face, "NeuralTextures": neural_textures}
_README = """SYNTHETIC SAMPLE, version {version}, seed {seed}.

Rendered faces in the layout of FaceForensics++. No real person is shown. It is a stand-in that lets the whole line
run on a machine without FaceForensics++; figures measured on it say nothing about real deepfakes.
"""


@dataclass(frozen=True)
class SampleSpec:
    """The size of the sample: identities per split (even numbers), frames per video, frame size."""

    train: int = 20
    val: int = 6
    test: int = 16
    n_frames: int = 36
    height: int = 152
    width: int = 184

    def ids(self, split: str) -> list[str]:
        """Returns '000', '001', …, numbered through all splits, so that no identity is in two."""
        starts = {"train": 0, "val": self.train, "test": self.train + self.val}
        return [f"{starts[split] + i:03d}" for i in range(getattr(self, split))]

    def pairs(self, split: str) -> list[tuple[str, str]]:
        """Pairs neighbouring identities: each is the other's source."""
        ids = self.ids(split)
        return list(zip(ids[::2], ids[1::2], strict=True))


@dataclass(frozen=True)
class _Job:
    """One target video and, in the test split, its four fakes."""

    root: str
    seed: int
    spec: SampleSpec
    target_id: str
    source_id: str | None  # None: no fakes


def generate_sample(
    root: Path,
    *,
    seed: int = SAMPLE_SEED,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    spec: SampleSpec | None = None,
) -> None:
    """Writes the sample under `root`; `progress(done, total)` counts identities.

    Writes to a folder beside `root` and renames it at the end, so a sample is complete or absent. Raises DataError when
    `root` exists and is not an empty folder.
    """
    spec = spec or SampleSpec()
    root = Path(root)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise DataError(f"{root} exists and is not empty; delete it to generate the sample again")
    unfinished = root.with_name(f".{root.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    jobs = _jobs(unfinished, seed, spec)
    n_workers = min(workers or usable_cores(), len(jobs))
    _run(jobs, n_workers, progress)
    _write_index(unfinished, seed, spec)
    if root.exists():
        root.rmdir()
    unfinished.rename(root)


def _jobs(root: Path, seed: int, spec: SampleSpec) -> list[_Job]:
    """Returns the jobs, long ones first, so that no worker idles at the end."""
    partner = {a: b for pair in spec.pairs("test") for a, b in (pair, pair[::-1])}
    ids = [identity for split in ("test", "train", "val") for identity in spec.ids(split)]
    return [_Job(str(root), seed, spec, identity, partner.get(identity)) for identity in ids]


def _run(jobs: list[_Job], n_workers: int, progress: Callable[[int, int], None] | None) -> None:
    report = progress or (lambda done, total: None)
    if n_workers == 1:
        for done, job in enumerate(jobs, start=1):
            _generate(job)
            report(done, len(jobs))
        return
    # Not fork, which would copy the locks of every library that the caller has imported.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(n_workers, spawn, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        futures = [pool.submit(_generate, job) for job in jobs]
        for done, future in enumerate(as_completed(futures), start=1):
            future.result()
            report(done, len(jobs))


def _write_index(root: Path, seed: int, spec: SampleSpec) -> None:
    for split in SPLITS:
        text = json.dumps([list(pair) for pair in spec.pairs(split)], indent=1) + "\n"
        split_file(root, split).write_text(text, encoding="utf-8")
    (root / "README.txt").write_text(_README.format(version=SAMPLE_VERSION, seed=seed), encoding="utf-8")


def _rng(seed: int, identity: str, purpose: int, *more: int) -> np.random.Generator:
    return np.random.default_rng([seed, int(identity), purpose, *more])


def _head(seed: int, identity: str) -> Head:
    return paint_head(draw_identity(_rng(seed, identity, _PERSON)))


def _acting(job: _Job, identity: str) -> Acting:
    return draw_acting(_rng(job.seed, identity, _ACTING), job.spec.n_frames)


def _generate(job: _Job) -> None:
    """Records one identity, forges it with every method if it has a source, and writes all qualities."""
    target_id = job.target_id
    size = (job.spec.height, job.spec.width)
    head, acting = _head(job.seed, target_id), _acting(job, target_id)
    take = record(head, acting, size, _rng(job.seed, target_id, _RECORDING))
    _store(job, None, take.frames_THWC, take.landmarks_T)
    if job.source_id is not None:
        for method, frames, landmarks in _fakes(job, job.source_id, take):
            _store(job, method, frames, landmarks)


def _fakes(job: _Job, source_id: str, take: Take) -> Iterator[tuple[str, Frames, NDArray[Any]]]:
    """Yields (method, frames, true landmarks) of the four manipulations."""
    source_head, source_acting = _head(job.seed, source_id), _acting(job, source_id)
    for number, method in enumerate(METHODS):
        rng = _rng(job.seed, job.target_id, _FORGERY, number)
        if method in _SWAPS:
            yield method, *_SWAPS[method](take, source_head, rng)
        else:
            yield method, *_REENACTMENTS[method](take, source_acting, rng)


def _store(job: _Job, method: str | None, frames_THWC: Frames, landmarks_T: NDArray[Any]) -> None:
    """Compresses as an uploader does (raw), again at c23, and writes both; a target and its fakes share the CRF."""
    raw = h264(frames_THWC, int(_rng(job.seed, job.target_id, _UPLOAD).integers(18, 22)))
    number = 0 if method is None else 1 + METHODS.index(method)
    for q, (quality, clip) in enumerate((("raw", raw), ("c23", h264(raw, C23)))):
        detected = detect(landmarks_T, _rng(job.seed, job.target_id, _DETECTOR, number, q))
        _write_video(job, method, quality, clip, detected)


def _write_video(
    job: _Job, method: str | None, quality: str, frames_THWC: Frames, landmarks_T: NDArray[Any]
) -> None:
    video_id = job.target_id if method is None else f"{job.target_id}_{job.source_id}"
    folders = {kind: video_folder(job.root, method, quality, kind, video_id) for kind in KINDS}
    for folder in folders.values():
        folder.mkdir(parents=True)
    for t, frame in enumerate(frames_THWC):
        frames, landmarks, retina = (folders[kind] / frame_name(t, kind) for kind in KINDS)
        if not cv2.imwrite(str(frames), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), _PNG):
            raise DataError(f"{frames} cannot be written; is the disk full?")
        np.save(landmarks, np.round(stored_order(landmarks_T[t])).astype(np.int64)[None])
        np.save(retina, face_box(landmarks_T[t])[None])
