"""The built-in sample: synthetic people in the FF++ layout, a stand-in for data nobody has on a fresh machine.

Every video is rendered, recorded by a model camera (H.264), forged or left alone, then stored as `raw` (H.264 at the
uploader's quality) and `c23` (that clip again at CRF 23): real and forged videos take the same number of encodings.
Each video's draws come from (seed, identity, purpose) alone, so any number of workers writes the same bytes.
T frames, H, W pixels, C = RGB.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from stf.data.ffpp import SPLITS, frame_name, split_file, video_folder
from stf.data.synthetic.camera import Frames, h264
from stf.data.synthetic.canonical import stored_order
from stf.data.synthetic.identity import draw_identity
from stf.data.synthetic.performance import Acting, draw_acting
from stf.data.synthetic.reenactments import face2face, neural_textures
from stf.data.synthetic.skin import Head, paint_head
from stf.data.synthetic.swaps import deepfakes, faceswap
from stf.data.synthetic.take import Take, record
from stf.errors import DataError

SAMPLE_VERSION = 1
C23 = 23
_PERSON, _ACTING, _RECORDING, _FORGERY, _UPLOAD, _DETECTOR = range(6)  # the purposes of draws
_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 6, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]
_README = """SYNTHETIC SAMPLE, version {version}, seed {seed}.

Rendered faces in the layout of FaceForensics++. No real person is shown. It is a stand-in that lets the whole line
run on a machine without FaceForensics++; figures measured on it say nothing about real deepfakes.
"""


@dataclass(frozen=True)
class SampleSpec:
    """How much is generated; identities are counted per split, in pairs."""

    train: int = 20
    val: int = 6
    test: int = 16
    n_frames: int = 40
    height: int = 160
    width: int = 192

    def ids(self, split: str) -> list[str]:
        """'000', '001', …: splits follow one another, so that no identity is in two."""
        starts = {"train": 0, "val": self.train, "test": self.train + self.val}
        return [f"{starts[split] + i:03d}" for i in range(getattr(self, split))]

    def pairs(self, split: str) -> list[tuple[str, str]]:
        """Neighbours belong together: each is the other's source."""
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
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    spec: SampleSpec | None = None,
) -> None:
    """Writes the sample under `root`; `progress(done, total)` counts identities.

    Writes beside it and renames at the end, so a sample is whole or absent. Raises DataError when `root` exists and
    is not an empty folder.
    """
    spec = spec or SampleSpec()
    root = Path(root)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise DataError(f"{root} exists and is not empty; remove it to have the sample generated again")
    unfinished = root.with_name(f".{root.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    jobs = _jobs(unfinished, seed, spec)
    n_workers = min(workers or len(os.sched_getaffinity(0)), len(jobs))
    _run(jobs, n_workers, progress)
    _write_index(unfinished, seed, spec)
    if root.exists():
        root.rmdir()
    unfinished.rename(root)


def _jobs(root: Path, seed: int, spec: SampleSpec) -> list[_Job]:
    """Long jobs first, so that no worker waits at the end."""
    partner = {a: b for pair in spec.pairs("test") for a, b in (pair, pair[::-1])}
    ids = [identity for split in ("test", "train", "val") for identity in spec.ids(split)]
    return [_Job(str(root), seed, spec, identity, partner.get(identity)) for identity in ids]


def _run(jobs: list[_Job], n_workers: int, progress: Callable[[int, int], None] | None) -> None:
    report = progress or (lambda done, total: None)
    if n_workers == 1:
        for done, job in enumerate(jobs, start=1):
            _make(job)
            report(done, len(jobs))
        return
    context = multiprocessing.get_context(
        "spawn"
    )  # fork would copy locks of whatever the caller has imported
    with ProcessPoolExecutor(
        n_workers, mp_context=context, initializer=cv2.setNumThreads, initargs=(1,)
    ) as pool:
        futures = [pool.submit(_make, job) for job in jobs]
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


def _make(job: _Job) -> None:
    """Records one identity, forges it by every method if it has a source, and writes all qualities."""
    target_id = job.target_id
    size = (job.spec.height, job.spec.width)
    head, acting = _head(job.seed, target_id), _acting(job, target_id)
    take = record(head, acting, size, _rng(job.seed, target_id, _RECORDING))
    _store(job, None, take.frames_THWC, take.landmarks_T)
    if job.source_id is not None:
        for method, frames, landmarks in _fakes(job, job.source_id, take):
            _store(job, method, frames, landmarks)


def _fakes(job: _Job, source_id: str, take: Take):
    """Yields (method, frames, true landmarks) of the four manipulations."""
    source_head, source_acting = _head(job.seed, source_id), _acting(job, source_id)
    swaps = {"Deepfakes": deepfakes, "FaceSwap": faceswap}
    reenactments = {"Face2Face": face2face, "NeuralTextures": neural_textures}
    for number, (method, swap) in enumerate(swaps.items()):
        yield method, *swap(take, source_head, _rng(job.seed, job.target_id, _FORGERY, number))
    for number, (method, reenact) in enumerate(reenactments.items(), start=len(swaps)):
        yield method, *reenact(take, source_acting, _rng(job.seed, job.target_id, _FORGERY, number))


def _store(job: _Job, method: str | None, frames_THWC: Frames, landmarks_T: NDArray[np.float64]) -> None:
    """Uploads (raw), compresses again (c23) and writes frames, landmarks and boxes of both."""
    crf = int(
        _rng(job.seed, job.target_id, _UPLOAD).integers(15, 19)
    )  # one uploader for a target and its fakes
    raw = h264(frames_THWC, crf)
    video_id = job.target_id if method is None else f"{job.target_id}_{job.source_id}"
    number = 0 if method is None else sum(method.encode())
    for quality, clip in (("raw", raw), ("c23", h264(raw, C23))):
        rng = _rng(job.seed, job.target_id, _DETECTOR, number, len(quality), int(quality == "raw"))
        found = detect(landmarks_T, rng)
        folders = {
            k: video_folder(Path(job.root), method, quality, k, video_id)
            for k in ("frames", "landmarks", "retina")
        }
        for folder in folders.values():
            folder.mkdir(parents=True)
        for t, frame in enumerate(clip):
            path = folders["frames"] / frame_name(t, "frames")
            if not cv2.imwrite(str(path), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), _PNG):
                raise DataError(f"{path} cannot be written; is the disk full?")
            stored = np.round(stored_order(found[t])).astype(np.int64)
            np.save(folders["landmarks"] / frame_name(t, "landmarks"), stored[None])
            np.save(folders["retina"] / frame_name(t, "retina"), face_box(found[t])[None])


def detect(landmarks_T: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """(T, 81, 2) landmarks as a detector would give them: within a pixel, with errors that fade over frames."""
    error = np.zeros_like(landmarks_T)
    drawn = rng.normal(size=landmarks_T.shape) * 0.28 + rng.normal(size=(len(landmarks_T), 1, 2)) * 0.12
    error[0] = drawn[0]
    for t in range(1, len(error)):
        error[t] = 0.6 * error[t - 1] + 0.8 * drawn[t]
    return landmarks_T + np.clip(error, -0.9, 0.9)


def face_box(landmarks_81: NDArray[np.float64]) -> NDArray[np.float64]:
    """(7, 2) as a RetinaFace file holds: [x0 y0], [x1 y1], eyes, nose tip, corners of the mouth."""
    jaw, brows, forehead = landmarks_81[:17], landmarks_81[17:27], landmarks_81[68:]
    x0, x1, y1 = jaw[:, 0].min(), jaw[:, 0].max(), jaw[:, 1].max()
    y0 = 0.45 * brows[:, 1].min() + 0.55 * forehead[:, 1].min()
    eyes = [landmarks_81[36:42].mean(0), landmarks_81[42:48].mean(0)]
    return np.array([[x0, y0], [x1, y1], *eyes, landmarks_81[30], landmarks_81[48], landmarks_81[54]])
