"""Checks a whole FF++ tree before training: counts, and every defect that training or evaluation would run into.

Training reads the real videos of train and val in one quality; evaluation reads the test split's real videos and
fakes in every quality on disk. The files of those are opened; all other videos are counted by name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stf.audit.stride import Motion, data_set_looks_strided
from stf.audit.video_check import Defect, VideoCheck, check_video
from stf.config import METHODS, DataParams
from stf.data.ffpp import SPLITS, FFPPTree, Video, split_fake_id
from stf.errors import DataError
from stf.io.workers import parallel_map

EVERY_BYTE_BELOW = (
    1_000_000_000  # bytes of frames up to which all checksums are computed, about 5 s on 2 cores
)
MAX_LISTED = 5


@dataclass(frozen=True)
class Count:
    """How many videos of one kind are on disk; `opened` tells whether their files were checked."""

    split: str
    method: str  # "real" or a manipulation
    quality: str
    videos: int
    frames: int
    opened: bool


@dataclass(frozen=True)
class Verification:
    """The result of checking a tree."""

    counts: tuple[Count, ...]
    defects: tuple[Defect, ...]
    every_byte: bool  # whether all checksums were computed, or only headers and a few frames per video
    motion: Motion | None  # medians over the videos that were opened

    @property
    def n_videos(self) -> int:
        """The number of videos listed in a split."""
        return sum(count.videos for count in self.counts)

    @property
    def n_frames(self) -> int:
        """The number of frames of those videos."""
        return sum(count.frames for count in self.counts)

    @property
    def errors(self) -> tuple[Defect, ...]:
        """The defects that would make training or evaluation fail."""
        return tuple(defect for defect in self.defects if defect.severity == "error")


Progress = Callable[[int, int], Any]  # (videos done, videos in total)


def verify_tree(
    tree: FFPPTree, data: DataParams, n_workers: int, progress: Progress | None = None
) -> Verification:
    """Checks the tree with `n_workers` processes.

    Raises DataError only when checking is impossible: a split file is missing or invalid, or there is no video in
    `data.quality`.
    """
    groups = list(_groups(tree, data.quality))
    opened = [video for videos, is_opened in groups if is_opened for video in videos]
    every_byte = _smaller_than(EVERY_BYTE_BELOW, opened)
    options = (data.num_frames, data.allow_strided, every_byte)
    checks: list[VideoCheck] = []
    for check in parallel_map(check_video, opened, n_workers, *options):
        checks.append(check)
        if progress is not None:
            progress(len(checks), len(opened))
    defects = [*_tree_defects(tree, data.quality), *(d for check in checks for d in check.defects)]
    motions = [check.motion for check in checks if check.motion is not None]
    defects += _stride_defects(motions, data.allow_strided)
    return Verification(
        tuple(_count(videos, is_opened) for videos, is_opened in groups if videos),
        tuple(sorted(defects, key=lambda d: (d.severity, d.what, d.where))),
        every_byte,
        _median(motions),
    )


def _groups(tree: FFPPTree, quality: str) -> Iterator[tuple[list[Video], bool]]:
    """Yields (videos of one split, method and quality; whether a stage reads them) for the whole tree."""
    tree.real_videos("train", quality)  # raises with the list of qualities on disk when this one is missing
    for split in SPLITS:
        for q in tree.qualities():
            yield tree.real_videos(split, q), split == "test" or q == quality
        for method in METHODS:
            for q in tree.qualities(method):
                yield tree.fake_videos(split, method, q), split == "test"


def _count(videos: list[Video], opened: bool) -> Count:
    first = videos[0]
    n_frames = sum(len(video.frame_paths) for video in videos)
    return Count(first.split, first.method or "real", first.quality, len(videos), n_frames, opened)


def _smaller_than(limit: int, videos: list[Video]) -> bool:
    """Tells whether all frames together have fewer than `limit` bytes; stops adding up at the limit."""
    total = 0
    for video in videos:
        total += sum(map(_size_of, video.frame_paths))
        if total >= limit:
            return False
    return True


def _size_of(path: Path) -> int:
    """Returns the size in bytes; 0 for a broken link, which is reported when it is opened."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _median(motions: list[Motion]) -> Motion | None:
    if not motions:
        return None
    landmarks_pct, grey = np.median([(motion.landmarks_pct, motion.grey) for motion in motions], axis=0)
    return Motion(float(landmarks_pct), float(grey))


def _stride_defects(motions: list[Motion], allow_strided: bool) -> list[Defect]:
    if not data_set_looks_strided(motions):
        return []
    hint = "preprocess with consecutive frames, or set data.allow_strided if the people really move that fast"
    detail = f"half of {len(motions)} videos jump between neighbouring frames like strided video; {hint}"
    return [Defect("warning" if allow_strided else "error", "suspected stride", "the whole data set", detail)]


def _abbreviated(names: Iterable[str]) -> str:
    listed = sorted(names)
    rest = f" and {len(listed) - MAX_LISTED} more" if len(listed) > MAX_LISTED else ""
    return ", ".join(listed[:MAX_LISTED]) + rest


def _tree_defects(tree: FFPPTree, quality: str) -> Iterator[Defect]:
    """Yields defects of the split files, and differences between them and the videos on disk."""
    for identity, splits in tree.overlap().items():
        yield Defect(
            "error",
            "identity in two splits",
            identity,
            f"listed in {' and '.join(splits)}; remove it from one",
        )
    for split in SPLITS:
        yield from _pair_defects(split, tree.splits[split])
        missing = set(tree.ids(split)) - set(tree.video_ids(None, quality))
        if len(missing) == len(tree.ids(split)):
            yield Defect(
                "error", "empty split", f"{split}/real/{quality}", "none of its real videos are on disk"
            )
        elif missing:
            detail = f"{len(missing)} of {len(tree.ids(split))} listed videos are not on disk: {_abbreviated(missing)}"
            yield Defect("warning", "missing videos", f"{split}/real/{quality}", detail, len(missing))
    if not tree.methods(quality):
        detail = "no manipulated videos on disk, so evaluation is impossible"
        yield Defect("error", "no fakes", f"test/*/{quality}", detail)
    for method in tree.methods(quality):
        yield from _fake_defects(tree, method, quality)
    unknown = {i for i in tree.video_ids(None, quality) if tree.split_of(i) is None}
    if unknown:
        detail = f"{len(unknown)} videos are not used because no split lists them: {_abbreviated(unknown)}"
        yield Defect("warning", "unknown ids", f"real/{quality}", detail, len(unknown))


def _pair_defects(split: str, pairs: list[tuple[str, str]]) -> Iterator[Defect]:
    """Yields odd entries of a split file that have no effect: every video is used once, and no fake is expected."""
    self_paired = {a for a, b in pairs if a == b}
    if self_paired:
        detail = (
            f"{len(self_paired)} ids are paired with themselves and have no fake: {_abbreviated(self_paired)}"
        )
        yield Defect("warning", "id paired with itself", f"{split}.json", detail, len(self_paired))
    counts = Counter(frozenset(pair) for pair in pairs)
    repeated = ["/".join(sorted(pair)) for pair, n in counts.items() if n > 1]
    if repeated:
        detail = f"{len(repeated)} pairs are listed more than once: {_abbreviated(repeated)}"
        yield Defect("warning", "pair listed twice", f"{split}.json", detail, len(repeated))


def _fake_defects(tree: FFPPTree, method: str, quality: str) -> Iterator[Defect]:
    on_disk = set(tree.video_ids(method, quality))
    missing = set(tree.expected_fake_ids("test")) - on_disk
    if missing:
        detail = f"{len(missing)} fakes of the split file's pairs are not on disk: {_abbreviated(missing)}"
        yield Defect("warning", "missing videos", f"test/{method}/{quality}", detail, len(missing))
    unknown, cross_split = set(), set()
    for video_id in on_disk:
        parts = split_fake_id(video_id)
        target_split = tree.split_of(parts[0]) if parts else None
        if parts is None or target_split is None:
            unknown.add(video_id)
        elif tree.split_of(parts[1]) not in (target_split, None):
            cross_split.add(video_id)
    if unknown:
        detail = (
            f"{len(unknown)} videos are not used because no split lists their target: {_abbreviated(unknown)}"
        )
        yield Defect("warning", "unknown ids", f"{method}/{quality}", detail, len(unknown))
    if cross_split:
        detail = f"{len(cross_split)} fakes have a source from another split: {_abbreviated(cross_split)}"
        yield Defect("warning", "source of another split", f"{method}/{quality}", detail, len(cross_split))


def require_ready(verification: Verification) -> None:
    """Raises DataError with the kinds of defects when there is one that makes training or evaluation fail."""
    if verification.errors:
        kinds = sorted({defect.what for defect in verification.errors})
        n = len(verification.errors)
        raise DataError(
            f"the data are not ready for training: {n} defects ({', '.join(kinds)}); fix those in the table above"
        )
