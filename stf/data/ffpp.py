"""The FaceForensics++ tree on disk: splits, qualities, methods, videos. Only this module knows its paths.

{root}/FaceForensics++/{train,val,test}.json                               pairs of ids
{root}/FaceForensics++/original_sequences/youtube/{quality}/{kind}/{id}/{NNN}.{png,npy}
{root}/FaceForensics++/manipulated_sequences/{method}/{quality}/{kind}/{target}_{source}/{NNN}.{png,npy}
kind: frames (png), landmarks (npy), retina (npy, face boxes)
"""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path

import numpy as np

from stf.config import METHODS, QUALITIES, SAMPLE_ROOT, TREE_FOLDER
from stf.data.fingerprint import Kind, fingerprint_of_folder
from stf.data.splits import ID_PATTERN, read_split
from stf.data.video import Video, folders_in, frame_fields, numbered_files
from stf.errors import DataError
from stf.io.files import read_json

SPLITS = ("train", "val", "test")
KINDS = ("frames", "landmarks", "retina")
SUFFIXES = {"frames": ".png", "landmarks": ".npy", "retina": ".npy"}
_VERIFY = "run `dvc repro verify_data`"


def tree_folder(root: str | Path) -> Path:
    """Returns {root}/FaceForensics++."""
    return Path(root) / TREE_FOLDER


def split_file(root: str | Path, split: str) -> Path:
    """Returns the JSON file that lists a split's identity pairs."""
    return tree_folder(root) / f"{split}.json"


def _group_folder(root: str | Path, method: str | None) -> Path:
    if method is None:
        return tree_folder(root) / "original_sequences" / "youtube"
    return tree_folder(root) / "manipulated_sequences" / method


def video_folder(root: str | Path, method: str | None, quality: str, kind: str, video_id: str) -> Path:
    """Returns the folder of one video's frames, landmarks or retina files; `method` is None for a real video."""
    return _group_folder(root, method) / quality / kind / video_id


def frame_name(number: int, kind: str) -> str:
    """Returns '007.png' or '007.npy'."""
    return f"{number:03d}{SUFFIXES[kind]}"


def split_fake_id(video_id: str) -> tuple[str, str] | None:
    """Returns ('000', '003') for '000_003'; None when the id is not "{target}_{source}"."""
    parts = video_id.split("_")
    if len(parts) != 2 or not all(ID_PATTERN.fullmatch(part) for part in parts):
        return None
    return parts[0], parts[1]


class FFPPTree:
    """An index of one FaceForensics++ tree, from file names alone: opens no frame and no landmark file."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if not os.path.isdir(tree_folder(root)):  # Path.is_dir raises for a name that is too long
            hint = "set data.root to the folder that contains FaceForensics++/"
            raise DataError(
                f"{tree_folder(root)} does not exist; {hint}, or {_VERIFY} to generate the sample"
            )

    @cached_property
    def splits(self) -> dict[str, list[tuple[str, str]]]:
        """Returns {'train': [('000', '003'), …], …}; raises DataError for a missing or invalid file."""
        return {split: read_split(split_file(self.root, split)) for split in SPLITS}

    def ids(self, split: str) -> list[str]:
        """Returns the identities of one split, sorted."""
        if split not in SPLITS:
            raise DataError(f"unknown split {split!r}; use one of {', '.join(SPLITS)}")
        return sorted({video_id for pair in self.splits[split] for video_id in pair})

    def split_of(self, identity: str) -> str | None:
        """Returns the first split that lists `identity`, or None."""
        return next((split for split in SPLITS if identity in self._id_sets[split]), None)

    @cached_property
    def _id_sets(self) -> dict[str, set[str]]:
        return {split: set(self.ids(split)) for split in SPLITS}

    def overlap(self) -> dict[str, tuple[str, ...]]:
        """Returns {identity: its splits} for every identity in more than one split; empty for disjoint splits."""
        shared = {}
        for identity in sorted(set().union(*self._id_sets.values())):
            splits = tuple(split for split in SPLITS if identity in self._id_sets[split])
            if len(splits) > 1:
                shared[identity] = splits
        return shared

    def expected_fake_ids(self, split: str) -> list[str]:
        """Returns both directions of every identity pair, as in the official release of each method."""
        pairs = self.splits[split]
        return sorted({f"{a}_{b}" for a, b in pairs if a != b} | {f"{b}_{a}" for a, b in pairs if a != b})

    def qualities(self, method: str | None = None) -> tuple[str, ...]:
        """Returns the qualities on disk for the real videos (or one method), in the order raw, c23, c40."""
        return tuple(q for q in QUALITIES if (_group_folder(self.root, method) / q / "frames").is_dir())

    def methods(self, quality: str) -> tuple[str, ...]:
        """Returns the manipulation methods on disk in one quality, in FF++'s order."""
        return tuple(m for m in METHODS if quality in self.qualities(m))

    def video_ids(self, method: str | None, quality: str) -> list[str]:
        """Returns the names of all video folders on disk, whether a split lists them or not."""
        return folders_in(_group_folder(self.root, method) / quality / "frames")

    def real_videos(self, split: str, quality: str) -> list[Video]:
        """Returns the split's real videos on disk, by id; raises DataError when the quality is not on disk."""
        self._require_quality(None, quality)
        split_ids = set(self.ids(split))
        return [self._real(i, split, quality) for i in self.video_ids(None, quality) if i in split_ids]

    def fake_videos(self, split: str, method: str, quality: str) -> list[Video]:
        """Returns one method's fakes whose target is in the split; raises DataError when the quality is not on disk."""
        self._require_quality(method, quality)
        split_ids, videos = set(self.ids(split)), []
        for video_id in self.video_ids(method, quality):
            parts = split_fake_id(video_id)
            if parts is not None and parts[0] in split_ids:
                videos.append(self._fake(video_id, split, method, quality))
        return videos

    def _require_quality(self, method: str | None, quality: str) -> None:
        if quality in self.qualities(method):
            return
        folder = _group_folder(self.root, method) / quality / "frames"
        on_disk = ", ".join(self.qualities(method)) or "none"
        raise DataError(
            f"{folder} does not exist; qualities on disk for {method or 'real videos'}: {on_disk}. "
            f"Set data.quality to one of them, or preprocess the videos in {quality}"
        )

    def _files(self, method: str | None, quality: str, video_id: str) -> list[dict[int, Path]]:
        return [
            numbered_files(video_folder(self.root, method, quality, kind, video_id), SUFFIXES[kind])
            for kind in KINDS
        ]

    def _real(self, video_id: str, split: str, quality: str) -> Video:
        frames, landmarks, boxes = self._files(None, quality, video_id)
        return Video(
            video_id,
            0,
            None,
            quality,
            split,
            video_id,
            None,
            **frame_fields(frames, landmarks, boxes),
            borrowed_geometry=False,
        )

    def _fake(self, video_id: str, split: str, method: str, quality: str) -> Video:
        frames, landmarks, boxes = self._files(method, quality, video_id)
        target_id, source_id = video_id.split("_")
        borrowed = not landmarks or not boxes
        if borrowed:
            _, target_landmarks, target_boxes = self._files(None, quality, target_id)
            landmarks, boxes = landmarks or target_landmarks, boxes or target_boxes
        paths = frame_fields(frames, landmarks, boxes)
        borrowed = borrowed and any(p is not None for p in paths["landmark_paths"] + paths["box_paths"])
        return Video(
            video_id, 1, method, quality, split, target_id, source_id, **paths, borrowed_geometry=borrowed
        )

    def fingerprint(self, kind: Kind) -> str:
        """Returns the SHA-256 (hex) over the tree's file names and sizes, and their mtimes or contents."""
        return fingerprint_of_folder(tree_folder(self.root), kind)


def is_sample(root: str | Path) -> bool:
    """Tells whether `root` is the built-in sample, which DVC tracks by content."""
    return os.path.normpath(root) == os.path.normpath(SAMPLE_ROOT)


def fingerprint_of(root: str | Path) -> str:
    """Computes the fingerprint that verify_data records: by content for the sample, by mtime for any other root.

    The sample's contents are equal in every clone. Its 200 MB take a second here; DVC hashes file by file and would
    take eight seconds for each stage that depends on them.
    """
    return FFPPTree(root).fingerprint("contents" if is_sample(root) else "mtimes")


def recorded_fingerprint(data_json: str | Path) -> str:
    """Reads the fingerprint that verify_data wrote; raises DataError, with the command to run, when there is none."""
    try:
        recorded = read_json(data_json)["fingerprint"]
    except FileNotFoundError:
        raise DataError(f"{data_json} does not exist: the data has not been verified; {_VERIFY}") from None
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(f"{data_json} contains no fingerprint of the data; {_VERIFY} --force") from None
    if recorded is None:
        raise DataError(f"the data failed verification ({data_json}); {_VERIFY} and fix the defects it lists")
    if not isinstance(recorded, str):
        raise DataError(f"{data_json} contains no fingerprint of the data; {_VERIFY} --force")
    return recorded


def require_fingerprint(root: str | Path, data_json: str | Path) -> str:
    """Returns the fingerprint of the data under `root`, which must equal the one verify_data wrote to `data_json`.

    Raises DataError, with the command to run, when the data has changed since or was never verified.
    """
    recorded = recorded_fingerprint(data_json)
    current = fingerprint_of(root)
    if current != recorded:
        raise DataError(
            f"the data under {root} has changed since it was verified ({data_json}); {_VERIFY} --force"
        )
    return current


def init_ff(
    data_root: str | Path, phase: str, level: str = "frame", n_frames: int = 8
) -> tuple[list[str], list[int]]:
    """SBI's index of the real videos: (paths, labels), every label 0.

    With level 'video' the paths are frame folders, with 'frame' at most `n_frames` frames spread over each video.
    Uses raw where it is on disk, as SBI does, else the best quality on disk. Raises DataError for an unknown level.
    """
    tree = FFPPTree(data_root)
    if level not in ("frame", "video"):
        raise DataError(f"init_ff: level is {level!r}; use 'frame' or 'video'")
    videos = tree.real_videos(phase, (tree.qualities() or ("raw",))[0])
    paths: list[str] = []
    for video in videos:
        frames = [str(path) for path in video.frame_paths]
        spread = (
            [round(x) for x in np.linspace(0, len(frames) - 1, n_frames)] if n_frames < len(frames) else None
        )
        picked = frames if spread is None else [frames[i] for i in spread]
        paths += [str(video.frame_paths[0].parent)] if level == "video" and frames else picked
    return paths, [0] * len(paths)
