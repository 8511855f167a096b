"""One video as lists of numbered files, and the functions that list such files in a folder."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from stf.errors import DataError

NUMBER_PATTERN = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True)
class Video:
    """One video of the tree; the path tuples have one entry per frame, sorted by frame number."""

    video_id: str
    label: int  # 0 real, 1 fake
    method: str | None  # None for a real video
    quality: str
    split: str
    target_id: str  # a real video is its own target
    source_id: str | None
    frame_paths: tuple[Path, ...] = field(repr=False)
    frame_numbers: tuple[int, ...] = field(repr=False)
    landmark_paths: tuple[Path | None, ...] = field(repr=False)
    box_paths: tuple[Path | None, ...] = field(repr=False)
    borrowed_geometry: bool = False  # a fake that uses its target's landmarks or boxes

    @property
    def name(self) -> str:
        """The video's name in messages and tables: 'test/Deepfakes/c23/000_003'."""
        return f"{self.split}/{self.method or 'real'}/{self.quality}/{self.video_id}"


def numbered_files(folder: Path, suffix: str) -> dict[int, Path]:
    """Returns {frame number: path} of a video's files of one kind, in order; a missing folder counts as empty.

    Of two names with one number ("7.png" beside "007.png") the last one counts; verify_data refuses such a folder.
    """
    stems = (name.removesuffix(suffix) for name in names_in(folder) if name.endswith(suffix))
    numbered = {int(stem): folder / f"{stem}{suffix}" for stem in stems if NUMBER_PATTERN.fullmatch(stem)}
    return dict(sorted(numbered.items()))


def names_in(folder: Path) -> list[str]:
    """Lists the names in `folder`, sorted; empty when it does not exist. Raises DataError when it cannot be read."""
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise DataError(f"{folder} cannot be listed: {error.strerror}; fix its permissions") from None


def folders_in(folder: Path) -> list[str]:
    """Returns the names of the folders in `folder`, sorted; empty when it does not exist."""
    return [name for name in names_in(folder) if (folder / name).is_dir()]


def frame_fields(
    frames: dict[int, Path], landmarks: dict[int, Path], boxes: dict[int, Path]
) -> dict[str, tuple]:
    """Returns the four per-frame fields of Video, from {frame number: path} per kind of file."""
    return {
        "frame_paths": tuple(frames.values()),
        "frame_numbers": tuple(frames),
        "landmark_paths": tuple(landmarks.get(number) for number in frames),
        "box_paths": tuple(boxes.get(number) for number in frames),
    }
