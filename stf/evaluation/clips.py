"""Real test videos as clips to be scored: validation's crop, evenly spread, no augmentation (SPEC section 8).

B clips, T frames, S = img_size, RGB.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from stf.config import STFV8Config
from stf.data.clips import video_clip_starts
from stf.data.face_clip import read_face_clip, resize_window, to_planes
from stf.data.faces import draw_side_factors, final_crop_window
from stf.data.ffpp import Video
from stf.errors import DataError


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
