"""The FaceForensics++ tree on disk: splits, qualities, methods, videos. Nothing else knows a path.

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
    """{root}/FaceForensics++."""
    return Path(root) / TREE_FOLDER


def split_file(root: str | Path, split: str) -> Path:
    """The JSON file that lists a split's identity pairs."""
    return tree_folder(root) / f"{split}.json"


def _group_folder(root: str | Path, method: str | None) -> Path:
    if method is None:
        return tree_folder(root) / "original_sequences" / "youtube"
    return tree_folder(root) / "manipulated_sequences" / method


def video_folder(root: str | Path, method: str | None, quality: str, kind: str, video_id: str) -> Path:
    """Where one video keeps its frames, landmarks or retina files; `method` None is a real video."""
    return _group_folder(root, method) / quality / kind / video_id


def frame_name(number: int, kind: str) -> str:
    """'007.png', '007.npy'."""
    return f"{number:03d}{SUFFIXES[kind]}"


def split_fake_id(video_id: str) -> tuple[str, str] | None:
    """('000', '003') of '000_003'; None when it is not "{target}_{source}"."""
    parts = video_id.split("_")
    if len(parts) != 2 or not all(ID_PATTERN.fullmatch(part) for part in parts):
        return None
    return parts[0], parts[1]


class FFPPTree:
    """An index of one FaceForensics++ tree. Looks at names only; opens no frame and no landmark file."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if not os.path.isdir(tree_folder(root)):  # Path's would raise for a name that is too long
            hint = "set data.root to the folder that holds FaceForensics++/"
            raise DataError(
                f"{tree_folder(root)} does not exist; {hint}, or run `dvc repro verify_data` for the sample"
            )

    @cached_property
    def splits(self) -> dict[str, list[tuple[str, str]]]:
        """{'train': [('000', '003'), …], …}; raises DataError for a missing or hostile file."""
        return {split: read_split(split_file(self.root, split)) for split in SPLITS}

    def ids(self, split: str) -> list[str]:
        """The identities of one split, sorted."""
        if split not in SPLITS:
            raise DataError(f"{split!r} is no split; FF++ has {', '.join(SPLITS)}")
        return sorted({video_id for pair in self.splits[split] for video_id in pair})

    def split_of(self, identity: str) -> str | None:
        """The first split that lists `identity`, or None."""
        return next((split for split in SPLITS if identity in self._id_sets[split]), None)

    @cached_property
    def _id_sets(self) -> dict[str, set[str]]:
        return {split: set(self.ids(split)) for split in SPLITS}

    def overlap(self) -> dict[str, tuple[str, ...]]:
        """{identity: its splits} for every identity in more than one split; empty when all is well."""
        found = {}
        for identity in sorted(set().union(*self._id_sets.values())):
            splits = tuple(split for split in SPLITS if identity in self._id_sets[split])
            if len(splits) > 1:
                found[identity] = splits
        return found

    def expected_fake_ids(self, split: str) -> list[str]:
        """Both directions of every identity pair: what the official release holds for each method."""
        pairs = self.splits[split]
        return sorted({f"{a}_{b}" for a, b in pairs if a != b} | {f"{b}_{a}" for a, b in pairs if a != b})

    def qualities(self, method: str | None = None) -> tuple[str, ...]:
        """The qualities on disk for the real videos (or one method), in the order raw, c23, c40."""
        return tuple(q for q in QUALITIES if (_group_folder(self.root, method) / q / "frames").is_dir())

    def methods(self, quality: str) -> tuple[str, ...]:
        """The manipulation methods on disk in one quality, in FF++'s order."""
        return tuple(m for m in METHODS if quality in self.qualities(m))

    def video_ids(self, method: str | None, quality: str) -> list[str]:
        """Every video folder on disk, whether a split lists it or not."""
        return folders_in(_group_folder(self.root, method) / quality / "frames")

    def real_videos(self, split: str, quality: str) -> list[Video]:
        """The split's real videos on disk, by id; raises DataError when the quality is not there at all."""
        self._require_quality(None, quality)
        wanted = set(self.ids(split))
        return [self._real(i, split, quality) for i in self.video_ids(None, quality) if i in wanted]

    def fake_videos(self, split: str, method: str, quality: str) -> list[Video]:
        """The fakes of one method whose target is in the split; raises DataError without the quality."""
        self._require_quality(method, quality)
        wanted, videos = set(self.ids(split)), []
        for video_id in self.video_ids(method, quality):
            parts = split_fake_id(video_id)
            if parts is not None and parts[0] in wanted:
                videos.append(self._fake(video_id, split, method, quality))
        return videos

    def _require_quality(self, method: str | None, quality: str) -> None:
        if quality in self.qualities(method):
            return
        folder = _group_folder(self.root, method) / quality / "frames"
        there = ", ".join(self.qualities(method)) or "none"
        raise DataError(
            f"{folder} does not exist; qualities on disk for {method or 'real videos'}: {there}. "
            "Set data.quality to one of them, or preprocess that quality"
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
        """SHA-256 (hex) over the tree's file names and sizes, and their mtimes or their contents."""
        return fingerprint_of_folder(tree_folder(self.root), kind)


def is_sample(root: str | Path) -> bool:
    """Whether `root` is the built-in sample, which DVC tracks by content."""
    return os.path.normpath(root) == os.path.normpath(SAMPLE_ROOT)


def fingerprint_of(root: str | Path) -> str:
    """What verify_data writes: by the sample's contents (equal in every clone), by mtimes elsewhere.

    The sample's 200 MB take a second; DVC, which keeps a hash per file, takes eight for each stage that names them.
    """
    return FFPPTree(root).fingerprint("contents" if is_sample(root) else "mtimes")


def recorded_fingerprint(data_json: str | Path) -> str:
    """The fingerprint that verify_data wrote; raises DataError, with the command that mends it, when there is none."""
    try:
        recorded = read_json(data_json)["fingerprint"]
    except FileNotFoundError:
        raise DataError(f"{data_json} does not exist, so the data was never verified; {_VERIFY}") from None
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(f"{data_json} holds no fingerprint of the data; {_VERIFY} --force") from None
    if recorded is None:
        raise DataError(
            f"verify_data found the data unfit to train on ({data_json}); {_VERIFY} and mend what it lists"
        )
    if not isinstance(recorded, str):
        raise DataError(f"{data_json} holds no fingerprint of the data; {_VERIFY} --force")
    return recorded


def require_fingerprint(root: str | Path, data_json: str | Path) -> str:
    """The fingerprint of the data under `root`, if it is the one verify_data wrote to `data_json`.

    Raises DataError, with the command that mends it, when the data changed since or was never verified.
    """
    recorded = recorded_fingerprint(data_json)
    found = fingerprint_of(root)
    if found != recorded:
        raise DataError(
            f"the data under {root} changed since it was verified ({data_json}); {_VERIFY} --force"
        )
    return found


def init_ff(
    data_root: str | Path, phase: str, level: str = "frame", n_frames: int = 8
) -> tuple[list[str], list[int]]:
    """SBI's index of real training material: (paths, labels), every label 0.

    level 'video' gives the frame folders, 'frame' at most `n_frames` frames spread over each video. Takes raw
    where it is on disk, as SBI does, else the best quality there is. Raises DataError for an unknown level.
    """
    tree = FFPPTree(data_root)
    if level not in ("frame", "video"):
        raise DataError(f"level is {level!r}; init_ff knows 'frame' and 'video'")
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
