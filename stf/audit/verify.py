"""Checks a whole FF++ tree before anything is spent on it: counts, and every defect training would meet.

Training reads the real videos of train and val in one quality; evaluation the test split's real videos and
fakes in every quality on disk. Those are opened; everything else is counted by name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stf.audit.stride import Motion, suspected_data_set
from stf.audit.video_check import Defect, VideoCheck, check_video
from stf.config import METHODS, DataParams
from stf.data.ffpp import SPLITS, FFPPTree, Video, split_fake_id
from stf.errors import DataError
from stf.io.workers import parallel_map

EVERY_BYTE_BELOW = (
    1_000_000_000  # bytes of frames up to which every checksum is computed, about 5 s on 2 cores
)
MAX_NAMED = 5


@dataclass(frozen=True)
class Count:
    """How much of one kind of video is on disk; `opened` tells whether its files were checked."""

    split: str
    method: str  # "real" or a manipulation
    quality: str
    videos: int
    frames: int
    opened: bool


@dataclass(frozen=True)
class Verification:
    """What checking a tree found."""

    counts: tuple[Count, ...]
    defects: tuple[Defect, ...]
    every_byte: bool  # every frame's checksums, or only its header and a few decoded frames per video
    motion: Motion | None  # medians over the videos that were opened

    @property
    def n_videos(self) -> int:
        """Videos that a split lists."""
        return sum(count.videos for count in self.counts)

    @property
    def n_frames(self) -> int:
        """Frames of those videos."""
        return sum(count.frames for count in self.counts)

    @property
    def errors(self) -> tuple[Defect, ...]:
        """The defects that training or evaluation would meet."""
        return tuple(defect for defect in self.defects if defect.severity == "error")


Progress = Callable[[int, int], Any]  # (videos done, videos in all)


def verify_tree(
    tree: FFPPTree, data: DataParams, n_workers: int, progress: Progress | None = None
) -> Verification:
    """Checks the tree with `n_workers` processes.

    Raises DataError only for what makes checking impossible: a missing or hostile split file, or no video at
    all in `data.quality`.
    """
    groups = list(_groups(tree, data.quality))
    opened = [video for videos, is_opened in groups if is_opened for video in videos]
    every_byte = _smaller_than(EVERY_BYTE_BELOW, opened)
    fixed = (data.num_frames, data.allow_strided, every_byte)
    checks: list[VideoCheck] = []
    for check in parallel_map(check_video, opened, n_workers, *fixed):
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
    """(videos of one split, method and quality; whether a stage reads them), over the whole tree."""
    tree.real_videos("train", quality)  # names the qualities on disk when this one is missing
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
    """Whether all frames together take less than `limit` bytes; stops counting where they do not."""
    total = 0
    for video in videos:
        total += sum(map(_size_of, video.frame_paths))
        if total >= limit:
            return False
    return True


def _size_of(path: Path) -> int:
    """In bytes; 0 for a broken link, which is found when it is opened."""
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
    if not suspected_data_set(motions):
        return []
    hint = "preprocess with consecutive frames, or set data.allow_strided if this is how people move here"
    detail = f"half of {len(motions)} videos jump between neighbours as strided video does; {hint}"
    return [Defect("warning" if allow_strided else "error", "suspected stride", "the whole data set", detail)]


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    rest = f" and {len(listed) - MAX_NAMED} more" if len(listed) > MAX_NAMED else ""
    return ", ".join(listed[:MAX_NAMED]) + rest


def _tree_defects(tree: FFPPTree, quality: str) -> Iterator[Defect]:
    """Defects of the splits and of what is listed against what is on disk."""
    for identity, splits in tree.overlap().items():
        yield Defect(
            "error", "identity in two splits", identity, f"listed in {' and '.join(splits)}; keep one"
        )
    for split in SPLITS:
        yield from _pair_defects(split, tree.splits[split])
        missing = set(tree.ids(split)) - set(tree.video_ids(None, quality))
        if len(missing) == len(tree.ids(split)):
            yield Defect(
                "error", "empty split", f"{split}/real/{quality}", "none of its real videos is on disk"
            )
        elif missing:
            detail = (
                f"{len(missing)} of {len(tree.ids(split))} listed videos are not on disk: {_some(missing)}"
            )
            yield Defect("warning", "missing videos", f"{split}/real/{quality}", detail, len(missing))
    if not tree.methods(quality):
        detail = "no manipulated videos on disk, so there is nothing to evaluate on"
        yield Defect("error", "no fakes", f"test/*/{quality}", detail)
    for method in tree.methods(quality):
        yield from _fake_defects(tree, method, quality)
    unknown = {i for i in tree.video_ids(None, quality) if tree.split_of(i) is None}
    if unknown:
        detail = f"{len(unknown)} videos belong to no split and are not used: {_some(unknown)}"
        yield Defect("warning", "unknown ids", f"real/{quality}", detail, len(unknown))


def _pair_defects(split: str, pairs: list[tuple[str, str]]) -> Iterator[Defect]:
    """What is odd in a split's list and changes nothing: a video is used once, and no fake is its own source."""
    alone = {a for a, b in pairs if a == b}
    if alone:
        detail = f"{len(alone)} ids are paired with themselves, so no fake is expected: {_some(alone)}"
        yield Defect("warning", "id paired with itself", f"{split}.json", detail, len(alone))
    counts = Counter(frozenset(pair) for pair in pairs)
    twice = ["/".join(sorted(pair)) for pair, n in counts.items() if n > 1]
    if twice:
        detail = f"{len(twice)} pairs are listed more than once: {_some(twice)}"
        yield Defect("warning", "pair listed twice", f"{split}.json", detail, len(twice))


def _fake_defects(tree: FFPPTree, method: str, quality: str) -> Iterator[Defect]:
    on_disk = set(tree.video_ids(method, quality))
    missing = set(tree.expected_fake_ids("test")) - on_disk
    if missing:
        detail = f"{len(missing)} fakes of the split file's pairs are not on disk: {_some(missing)}"
        yield Defect("warning", "missing videos", f"test/{method}/{quality}", detail, len(missing))
    unknown, astray = set(), set()
    for video_id in on_disk:
        parts = split_fake_id(video_id)
        target_split = tree.split_of(parts[0]) if parts else None
        if parts is None or target_split is None:
            unknown.add(video_id)
        elif tree.split_of(parts[1]) not in (target_split, None):
            astray.add(video_id)
    if unknown:
        detail = f"{len(unknown)} videos whose target no split lists are not used: {_some(unknown)}"
        yield Defect("warning", "unknown ids", f"{method}/{quality}", detail, len(unknown))
    if astray:
        detail = f"{len(astray)} fakes take their source from another split: {_some(astray)}"
        yield Defect("warning", "source of another split", f"{method}/{quality}", detail, len(astray))


def require_ready(verification: Verification) -> None:
    """Raises DataError, counting the defects by kind, when training or evaluation would meet one."""
    if verification.errors:
        kinds = sorted({defect.what for defect in verification.errors})
        n = len(verification.errors)
        raise DataError(
            f"the data are not ready to train on: {n} defects ({', '.join(kinds)}); see the table above"
        )
