"""Which videos of the test split are scored, and their clips: validation's crop, evenly spread, no augmentation.

B clips, T frames, S = img_size, RGB.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from stf.config import METHODS, STFV8Config, nearest_name
from stf.data.clips import video_clip_starts
from stf.data.face_clip import read_face_clip, resize_window, to_planes
from stf.data.faces import draw_side_factors, final_crop_window
from stf.data.ffpp import FFPPTree, split_fake_id
from stf.data.video import Video
from stf.errors import DataError, UsageError

SPLIT = "test"
REAL = "real"  # stands for the method of a real video


@dataclass(frozen=True)
class VideoGroup:
    """The test videos of one quality that are real (`method` None) or faked by one method."""

    quality: str
    method: str | None
    videos: tuple[Video, ...]
    missing: tuple[str, ...]  # ids of the split without a video (a fake: without one that has this target)
    outside_splits: tuple[str, ...]  # fakes ignored because no split file lists their target

    @property
    def name(self) -> str:
        """The method, or REAL: what a score table has as its method."""
        return self.method or REAL


@dataclass(frozen=True)
class TestVideos:
    """All groups to score; the headline quality comes first, then the others on disk as raw, c23, c40."""

    __test__ = False  # pytest would take the name for a test class

    groups: tuple[VideoGroup, ...]
    not_on_disk: dict[str, tuple[str, ...]]  # quality → the requested methods that are not there

    @property
    def qualities(self) -> tuple[str, ...]:
        return tuple(self.not_on_disk)

    def methods(self, quality: str) -> tuple[str, ...]:
        """The methods on disk in that quality, in the order they were asked for."""
        return tuple(g.method for g in self.groups if g.quality == quality and g.method is not None)


def parse_methods(texts: Sequence[str]) -> tuple[str, ...]:
    """The methods given by --methods, each text one name or several with commas; raises UsageError."""
    names = [name.strip() for text in texts for name in text.split(",") if name.strip()]
    for name in names:
        if name not in METHODS:
            known = f"known: {', '.join(METHODS)}"
            hint = nearest_name(name, list(METHODS))
            raise UsageError(f'--methods: "{name}" is no manipulation method{hint}; {known}')
    if texts and not names:
        raise UsageError(f"--methods names no method; known: {', '.join(METHODS)}")
    return tuple(dict.fromkeys(names))


def select_videos(tree: FFPPTree, methods: Sequence[str], headline: str) -> TestVideos:
    """The test videos of every quality on disk that holds reals and at least one requested method.

    Raises DataError when the headline quality holds no real test video or no test fake of any requested method.
    """
    groups: list[VideoGroup] = []
    not_on_disk: dict[str, tuple[str, ...]] = {}
    for quality in [headline] + [q for q in tree.qualities() if q != headline]:
        reals = _group(tree, None, quality)
        there = [m for m in methods if m in tree.methods(quality)]
        fakes = [group for m in there if (group := _group(tree, m, quality)).videos]
        if quality == headline:
            _require_both(tree, reals, fakes, methods)
        if reals.videos and fakes:
            groups += [reals, *fakes]
            not_on_disk[quality] = tuple(m for m in methods if m not in {group.method for group in fakes})
    return TestVideos(tuple(groups), not_on_disk)


def _require_both(
    tree: FFPPTree, reals: VideoGroup, fakes: Sequence[VideoGroup], methods: Sequence[str]
) -> None:
    quality = reals.quality
    if not reals.videos:
        hint = "`dvc repro verify_data` shows what is there"
        raise DataError(f"{tree.root} has no real test video in {quality}; {hint}")
    if not fakes:
        on_disk = ", ".join(m for m in tree.methods(quality) if tree.fake_videos(SPLIT, m, quality)) or "none"
        raise DataError(
            f"{tree.root} holds no test video of {', '.join(methods)} in {quality}; methods on disk there: "
            f"{on_disk}. Set evaluation.methods (or --methods) and data.quality to what is there"
        )


def _group(tree: FFPPTree, method: str | None, quality: str) -> VideoGroup:
    videos = tree.real_videos(SPLIT, quality) if method is None else tree.fake_videos(SPLIT, method, quality)
    targets = {video.target_id for video in videos}
    missing = tuple(identity for identity in tree.ids(SPLIT) if identity not in targets)
    outside: list[str] = []
    for video_id in tree.video_ids(method, quality) if method is not None else ():
        parts = split_fake_id(video_id)
        if parts is None or tree.split_of(parts[0]) is None:
            outside.append(video_id)
    return VideoGroup(quality, method, tuple(videos), missing, tuple(outside))


class EvaluationClips(Dataset[dict[str, Any]]):
    """Item: {'video': uint8 (3, T, S, S), 'video_index', 'clip_index'}, or 'error': text for 'video'.

    `video_index` counts in `videos`, `clip_index` within the video. A video gives at most `clips_per_video`
    clips; one without T consecutive frames with a face gives one error item, an unreadable clip another.
    """

    def __init__(
        self,
        videos: Sequence[Video],
        config: STFV8Config,
        clips_per_video: int,
        *,
        allow_strided: bool = False,
    ) -> None:
        config.validate()
        self.videos = list(videos)
        self.num_frames, self.img_size = config.num_frames, config.img_size
        self._items: list[tuple[int, int, int | None]] = []  # video, clip, start
        for v, video in enumerate(self.videos):
            starts = video_clip_starts(video, self.num_frames, clips_per_video, allow_strided)
            self._items += [(v, c, start) for c, start in enumerate(starts)] or [(v, 0, None)]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        video_index, clip_index, start = self._items[index]
        item: dict[str, Any] = {"video_index": video_index, "clip_index": clip_index}
        try:
            return item | {"video": self._read(self.videos[video_index], start)}
        except DataError as error:
            return item | {"error": str(error)}

    def _read(self, video: Video, start: int | None) -> torch.Tensor:
        if start is None:
            frames = f"{len(video.frame_paths)} frames on disk"
            raise DataError(
                f"{video.name} has no {self.num_frames} consecutive frames with a face ({frames})"
            )
        clip = read_face_clip(video, start, self.num_frames)
        factors = draw_side_factors(
            np.random.default_rng(0), train=False
        )  # validation's constants: nothing is drawn
        height, width = clip.frames_THWC.shape[1:3]
        window = final_crop_window(clip.box_22, height, width, factors)
        return torch.from_numpy(to_planes(resize_window(clip.frames_THWC, window, self.img_size)))


def collate_evaluation(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """{'video': uint8 (B, 3, T, S, S), 'video_index': list of B, 'errors': [(video_index, text), …]} of one batch.

    B counts the readable clips; 'video' is None when there are none.
    """
    good = [item for item in items if "video" in item]
    video = torch.utils.data.default_collate([item["video"] for item in good]) if good else None
    errors = [(item["video_index"], item["error"]) for item in items if "error" in item]
    return {"video": video, "video_index": [item["video_index"] for item in good], "errors": errors}
