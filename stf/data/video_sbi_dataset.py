"""Video-SBI as a data set: item 2i is the real and 2i + 1 the fake member of pair i.

T frames, H, W pixels of the first crop, S = img_size, C = 3 channels. Both members are computed together.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from stf.config import DataParams, SbiParams, STFV8Config
from stf.data.augment.codec import encoder_works
from stf.data.augment.region import relative_to
from stf.data.clips import possible_starts
from stf.data.face_clip import Reader, read_face_clip, resize_window, to_model_input, to_planes
from stf.data.faces import Window, draw_side_factors, final_crop_window
from stf.data.ffpp import FFPPTree, Video
from stf.data.pairs import PairBatchSampler, collate_clips, make_loader
from stf.data.video_sbi import (
    Members,
    Recipe,
    Rejected,
    blend_members,
    degrade,
    draw_sbi,
    random_streams,
    region_for,
    require_visible,
)
from stf.errors import ConfigError, DataError

__all__ = [
    "Pair",
    "PairBatchSampler",
    "Provenance",
    "VideoSBIDataset",
    "collate_clips",
    "collate_fn",
    "make_loader",
    "replay",
]

Phase = Literal["train", "val", "test"]
Stage = Literal["native", "final"]
Seed = tuple[int, int, int, int]
MAX_REPLACEMENTS = 10
# The first attempts use the pair's own video (another start may avoid a broken frame, another draw may be visible);
# later ones use any video of the split. The attempt's number alone decides, so a seed replays without its history.
ATTEMPTS_AT_OWN_VIDEO = 3
collate_fn = collate_clips  # the author's name for it
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Provenance:
    """Everything needed to reproduce a pair, and its failed attempts; the same for both members."""

    video_id: str
    start_frame: int  # the frame's number on disk
    seed: Seed  # (run seed, epoch, pair, attempt)
    qp: int | None  # of H.264; None for an uncompressed pair
    failures: tuple[str, ...] = ()  # why the earlier attempts failed
    codec: Literal["none", "h264", "jpeg"] = "none"  # jpeg per frame when no H.264 encoder works


@dataclass(frozen=True, eq=False)
class Pair:
    """Both members and the blend mask.

    native: uint8 (T, H, W, 3) members in the first crop's pixels, after H.264 and before the final crop; mask
    float32 (T, H, W). final: float32 (3, T, S, S) members in [0, 1], the network's input; mask (T, S, S).
    The mask is the soft mask times the blend ratio: above 0 where the fake may differ.
    Both stages have the same draws, rejections and pixels, except for H.264: final encodes only the region around the
    final crop, so single pixels have other coding errors, of the same size on average (video_sbi.MARGIN_PX).
    """

    real: NDArray[Any]
    fake: NDArray[Any]
    mask: NDArray[np.float32]
    provenance: Provenance


class _ComputedPair(NamedTuple):
    members: Members  # of the first crop ("native") or of the region around the final crop
    final: Window  # the final crop in the members' pixels
    provenance: Provenance


class _CachedPair(NamedTuple):
    key: tuple[int, int]
    clips: tuple[NDArray[np.uint8], NDArray[np.uint8]]  # real, fake, (T, S, S, C)
    provenance: Provenance


class VideoSBIDataset(Dataset[dict[str, Any]]):
    """`dataset[i]` or `dataset[(epoch, i)]` → {'video': float32 (3, T, S, S), 'label': 0 or 1, 'provenance'}.

    With `as_uint8` 'video' is uint8 of the same shape, a quarter of the bytes; converted to float32 × (1/255) on any
    device, it equals the float video bit for bit.
    Uses the real videos of one split and quality, `pairs_per_video` pairs each; val and test always use epoch 0.
    Raises ConfigError for an unknown phase; DataError for a split without videos, for a video without T consecutive
    frames with a face and, on reading, for a pair whose 10 replacements failed too.
    """

    def __init__(
        self,
        phase: Phase,
        config: STFV8Config,
        *,
        data: DataParams | None = None,
        sbi: SbiParams | None = None,
        seed: int = 0,
        as_uint8: bool = False,
        reader: Reader = read_face_clip,
    ) -> None:
        if phase not in get_args(Phase):
            raise ConfigError(f"unknown phase {phase!r}; use one of {', '.join(get_args(Phase))}")
        if seed < 0:
            raise ConfigError(f"seed is {seed}; it must not be negative")
        config.validate()
        data = data or DataParams(root=config.data_root)
        self.phase, self.seed, self.as_uint8, self._read = phase, seed, as_uint8, reader
        self.recipe = Recipe.for_phase(phase, config, sbi or SbiParams())
        self.pairs_per_video = data.train_pairs_per_video if phase == "train" else data.val_pairs_per_video
        self.videos = FFPPTree(config.data_root).real_videos(phase, data.quality)
        if not self.videos:
            raise DataError(
                f"{config.data_root} contains no real {phase} video in {data.quality}; run verify_data"
            )
        self._starts = [_starts_of(video, config.num_frames, data.allow_strided) for video in self.videos]
        self._last: _CachedPair | None = None

    @property
    def n_pairs(self) -> int:
        """The number of pairs per epoch: videos × pairs per video."""
        return len(self.videos) * self.pairs_per_video

    def __len__(self) -> int:
        return 2 * self.n_pairs

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_last": None}  # a worker computes its own pairs

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Any]:
        epoch, item = index if isinstance(index, tuple) else (0, index)
        if not -len(self) <= item < len(self):
            raise IndexError(f"item {item} is out of range: the data set has {len(self)} items")
        pair, label = divmod(item % len(self), 2)
        members = self._members(self._epoch(epoch), pair)
        clip_TSSC = members.clips[label]
        video = torch.from_numpy(to_planes(clip_TSSC) if self.as_uint8 else to_model_input(clip_TSSC))
        return {"video": video, "label": label, "provenance": members.provenance}

    def pair(self, epoch: int, pair: int, *, stage: Stage = "final") -> Pair:
        """Returns both members of one pair and their mask, before ("native") or after ("final") the final crop."""
        if not 0 <= pair < self.n_pairs:
            raise IndexError(f"pair {pair} is out of range: the data set has {self.n_pairs} pairs")
        return self._as_pair(self._compute(self._epoch(epoch), pair, stage), stage)

    def replay(self, provenance: Provenance, *, stage: Stage = "final") -> Pair:
        """Recomputes the pair that `provenance` describes; raises DataError when this data set gives another one."""
        if not 0 <= provenance.seed[2] < self.n_pairs:
            raise DataError(
                f"pair {provenance.seed[2]} of video {provenance.video_id} does not exist, this data set has "
                f"{self.n_pairs} pairs; use the data, split and parameters it was drawn with"
            )
        computed = self._attempt(provenance.seed, stage)
        replayed = dataclasses.replace(computed.provenance, failures=provenance.failures)
        if replayed != provenance:
            got = f"{replayed.video_id} from frame {replayed.start_frame}, QP {replayed.qp}"
            expected = f"{provenance.video_id} from frame {provenance.start_frame}, QP {provenance.qp}"
            raise DataError(
                f"the seed {provenance.seed} gives {got} instead of {expected}; "
                "use the data, split and parameters it was drawn with"
            )
        return self._as_pair(computed._replace(provenance=replayed), stage)

    def _epoch(self, epoch: int) -> int:
        return epoch if self.phase == "train" else 0

    def _members(self, epoch: int, pair: int) -> _CachedPair:
        if self._last is None or self._last.key != (epoch, pair):
            computed, size = self._compute(epoch, pair, "final"), self.recipe.img_size
            clips = computed.members.real_ThwC, computed.members.fake_ThwC
            real, fake = (resize_window(clip, computed.final, size) for clip in clips)
            self._last = _CachedPair((epoch, pair), (real, fake), computed.provenance)
        return self._last

    def _as_pair(self, computed: _ComputedPair, stage: Stage) -> Pair:
        members, size = computed.members, self.recipe.img_size
        clips = members.real_ThwC, members.fake_ThwC
        mask_Thw = np.multiply(members.mask_Thw, np.float32(1 / 255))
        if stage == "native":
            return Pair(*clips, mask_Thw, computed.provenance)
        real, fake = (to_model_input(resize_window(clip, computed.final, size)) for clip in clips)
        return Pair(real, fake, resize_window(mask_Thw, computed.final, size), computed.provenance)

    def _compute(self, epoch: int, pair: int, stage: Stage) -> _ComputedPair:
        failures: list[str] = []
        last = ""
        for attempt in range(1 + MAX_REPLACEMENTS):
            try:
                computed = self._attempt((self.seed, epoch, pair, attempt), stage)
                provenance = dataclasses.replace(computed.provenance, failures=tuple(failures))
                return computed._replace(provenance=provenance)
            except Rejected as rejected:
                failures.append(rejected.cause)
                last = rejected.cause
            except DataError as error:
                failures.append("unreadable data")
                last = str(error)
                _log.warning("%s pair %d, epoch %d, attempt %d: %s", self.phase, pair, epoch, attempt, error)
        counts = ", ".join(f"{n} × {cause}" for cause, n in Counter(failures).most_common())
        where = f"{self.phase} pair {pair} ({self._video_of(pair).name}), epoch {epoch}"
        raise DataError(
            f"{where}: all {len(failures)} attempts failed ({counts}); last: {last}. Run verify_data"
        )

    def _video_of(self, pair: int) -> Video:
        return self.videos[pair // self.pairs_per_video]

    def _attempt(self, seed: Seed, stage: Stage) -> _ComputedPair:
        """Computes a pair as a pure function of the seed; raises Rejected or DataError when the attempt fails.

        The stage decides how much of the frame is computed, never what is drawn or rejected.
        """
        _, _, pair, attempt = seed
        rngs = random_streams(seed)
        video_index = pair // self.pairs_per_video
        if attempt >= ATTEMPTS_AT_OWN_VIDEO:
            video_index = int(rngs["video"].integers(len(self.videos)))
        video, starts = self.videos[video_index], self._starts[video_index]
        start = int(starts[int(rngs["start"].integers(len(starts)))])
        flip = bool(rngs["flip"].random() < 0.5) and self.recipe.train
        clip = self._read(video, start, self.recipe.num_frames, flip)
        factors = draw_side_factors(rngs["crop"], self.recipe.train)
        height, width = clip.frames_THWC.shape[1:3]
        final = final_crop_window(clip.box_22, height, width, factors)
        draw = draw_sbi(rngs, self.recipe, clip, final)
        region = (0, height, 0, width) if stage == "native" else region_for(final, height, width)
        final = relative_to(final, region)
        blend = blend_members(clip, draw, self.recipe, region)
        require_visible(blend, final)
        codec = "none" if draw.qp is None else "h264" if encoder_works() else "jpeg"
        provenance = Provenance(video.video_id, video.frame_numbers[start], seed, draw.qp, codec=codec)
        return _ComputedPair(degrade(blend, draw), final, provenance)


def _starts_of(video: Video, num_frames: int, allow_strided: bool) -> NDArray[np.int32]:
    starts = possible_starts(video, num_frames, allow_strided)
    if not starts:
        frames = f"{len(video.frame_paths)} frames on disk"
        hint = "extract it without gaps, remove it from the split file, or lower data.num_frames"
        raise DataError(f"{video.name} has no {num_frames} consecutive frames with a face ({frames}); {hint}")
    return np.array(starts, np.int32)


def replay(dataset: VideoSBIDataset, provenance: Provenance, *, stage: Stage = "final") -> Pair:
    """Calls `dataset.replay`: recomputes the pair of a provenance, for instance from a run's log."""
    return dataset.replay(provenance, stage=stage)
