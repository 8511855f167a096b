"""Reads the frames around one face from a video on disk, cropped twice as in the SBI paper.

T frames, H, W pixels, C = 3 RGB channels, N = 81 landmarks, S = img_size.
Points are (x, y), windows (y0, y1, x0, x1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from stf.data.clips import FaceTrack, read_frame, read_geometry
from stf.data.faces import Points, Window, first_crop_window, flip_geometry
from stf.data.ffpp import Video
from stf.errors import DataError

PixelT = TypeVar("PixelT", np.uint8, np.float32)


@dataclass(frozen=True, eq=False)
class FaceClip:
    """T frames after the first crop, with the face's geometry in the crop's pixels."""

    frames_THWC: NDArray[np.uint8]
    landmarks_TN2: Points
    box_22: Points  # of the first frame: it defines the final crop


# (video, start, num_frames, flip) → clip: read_face_clip, or a face cache that returns the same clips faster
Reader = Callable[[Video, int, int, bool], FaceClip]


@dataclass(frozen=True, eq=False)
class FirstCrop:
    """The first crop of a clip, from its first frame: the window, and the face's geometry; mirrored if `flip`."""

    window: Window  # in pixels of the mirrored frame
    stored_window: Window  # the same pixels in the frame as it is stored
    landmarks_TN2: Points  # in the crop's pixels
    box_22: Points
    flip: bool

    @classmethod
    def plan(cls, track: FaceTrack, height: int, width: int, flip: bool) -> FirstCrop:
        """Computes the crop; raises DataError when the face lies outside the `width` x `height` frame."""
        landmarks_TN2, box_22 = track.landmarks_TN2, track.box_22
        if flip:
            landmarks_TN2, box_22 = flip_geometry(landmarks_TN2, box_22, width)
        y0, y1, x0, x1 = first_crop_window(landmarks_TN2[0], height, width)
        stored = (y0, y1, width - x1, width - x0) if flip else (y0, y1, x0, x1)
        return cls((y0, y1, x0, x1), stored, landmarks_TN2 - (x0, y0), box_22 - (x0, y0), flip)

    def empty_frames(self) -> NDArray[np.uint8]:
        """Allocates the clip's frames, (T, H, W, 3) of the crop."""
        y0, y1, x0, x1 = self.window
        return np.empty((len(self.landmarks_TN2), y1 - y0, x1 - x0, 3), np.uint8)

    def crop_frame(
        self, frame: NDArray[np.uint8], out_HWC: NDArray[np.uint8], left: int = 0, top: int = 0
    ) -> None:
        """Crops one frame into `out_HWC`; `frame` is the stored frame, or a part of it with corner (left, top)."""
        y0, y1, x0, x1 = self.stored_window
        part = frame[y0 - top : y1 - top, x0 - left : x1 - left]
        if self.flip:
            cv2.flip(part, 1, dst=out_HWC)  # 27 times as fast as copying [:, ::-1]
        else:
            out_HWC[:] = part


def read_face_clip(video: Video, start: int, num_frames: int, flip: bool = False) -> FaceClip:
    """Reads `num_frames` frames from list index `start`, mirrors them if `flip`, and applies the first crop.

    Each frame is cropped as soon as it is decoded, so only one full frame is in memory. Raises DataError with
    the file's name.
    """
    paths = video.frame_paths[start : start + num_frames]
    track = read_geometry(video, start, num_frames)
    frame = read_frame(paths[0])
    height, width = frame.shape[:2]
    try:
        crop = FirstCrop.plan(track, height, width, flip)
    except DataError as error:
        raise DataError(f"{paths[0]}: {error}; preprocess {video.name} again") from None
    frames_THWC = crop.empty_frames()
    for t, path in enumerate(paths):
        frame = frame if t == 0 else read_frame(path)
        if frame.shape[:2] != (height, width):
            sizes = f"{frame.shape[1]}x{frame.shape[0]}, but the clip's first frame is {width}x{height}"
            raise DataError(f"{path} is {sizes}; extract {video.name} again at one size")
        crop.crop_frame(frame, frames_THWC[t])
    return FaceClip(frames_THWC, crop.landmarks_TN2, crop.box_22)


def resize_window(clip_THWC: NDArray[PixelT], window: Window, size: int) -> NDArray[PixelT]:
    """Resizes the window of every frame bilinearly, as in SBI: (T, S, S, C), or (T, S, S) for masks."""
    y0, y1, x0, x1 = window
    out = np.empty((len(clip_THWC), size, size, *clip_THWC.shape[3:]), clip_THWC.dtype)
    for t, frame in enumerate(clip_THWC):
        cv2.resize(frame[y0:y1, x0:x1], (size, size), dst=out[t], interpolation=cv2.INTER_LINEAR)
    return out


def to_planes(clip_TSSC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(T, S, S, 3) uint8 → (3, T, S, S) uint8, C-contiguous; × float32(1/255) gives `to_model_input`."""
    video_CTSS = np.empty((clip_TSSC.shape[3], *clip_TSSC.shape[:3]), np.uint8)
    for t, frame in enumerate(clip_TSSC):
        cv2.split(frame, list(video_CTSS[:, t]))
    return video_CTSS


def to_model_input(clip_TSSC: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(T, S, S, 3) uint8 → (3, T, S, S) float32 in [0, 1], C-contiguous; the mean is not subtracted."""
    # planes first: six times as fast as transposing and multiplying in one step
    return np.multiply(to_planes(clip_TSSC), np.float32(1 / 255))
