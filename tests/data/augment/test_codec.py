"""H.264 in memory, and the fallback without an encoder."""

from __future__ import annotations

import io
import logging
import warnings

import av
import cv2
import numpy as np
import pytest
from av.video.frame import PictureType
from hypothesis import given, settings
from hypothesis import strategies as st

from stf.data.augment import codec
from stf.data.augment.codec import decode_h264, encode_h264, fallback_count, h264_bits, h264_round_trip
from stf.data.augmentations import CompressionAugmentation
from stf.errors import ConfigError, DataError
from tests.reference import data_codec_plain as plain


def moving_clip(n_frames: int = 10, height: int = 64, width: int = 80) -> np.ndarray:
    rng = np.random.default_rng(0)
    scene = cv2.GaussianBlur(rng.normal(0, 1, (height + 60, width + 80, 3)), (0, 0), 2)
    scene = np.clip(128 + 200 * scene, 0, 255).astype(np.uint8)
    return np.stack([scene[t : t + height, 2 * t : 2 * t + width] for t in range(n_frames)])


def error(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(((a.astype(float) - b) ** 2).mean()))


def test_higher_qp_means_fewer_bits_and_more_distortion() -> None:
    clip = moving_clip()
    qps = (10, 23, 28, 34, 40)  # from 45 on, worse reference frames cost more bits than coarser steps save
    bits = [h264_bits(clip, qp) for qp in qps]
    distortion = [error(clip, h264_round_trip(clip, qp, "rgb24")) for qp in qps]
    assert bits == sorted(bits, reverse=True)
    assert len(set(bits)) == 5
    assert distortion == sorted(distortion)
    assert distortion[-1] > 2 * distortion[0]


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 9), st.integers(17, 70), st.integers(17, 70), st.integers(0, 51))
def test_any_length_and_size_is_preserved(n_frames: int, height: int, width: int, qp: int) -> None:
    clip = moving_clip(n_frames, height, width)
    out = h264_round_trip(clip, qp)
    assert (out.shape, out.dtype, out.flags["C_CONTIGUOUS"]) == (clip.shape, np.uint8, True)
    assert error(clip, out) < 60


def test_odd_sizes_do_not_distort_the_edge() -> None:
    clip = np.full((3, 33, 35, 3), (40, 90, 200), np.uint8)
    assert error(clip, h264_round_trip(clip, 23)) < 4


def test_frames_keep_their_order() -> None:
    levels = np.arange(20, 220, 12, dtype=np.uint8)
    clip = np.broadcast_to(levels[:, None, None, None], (len(levels), 32, 32, 3))
    assert np.abs(h264_round_trip(clip, 23).mean((1, 2, 3)) - levels).max() < 4


def test_the_stream_is_h264_with_420_chroma_and_one_keyframe() -> None:
    clip = moving_clip(32)
    packets = encode_h264(clip, 30)
    assert [p.is_keyframe for p in packets] == [True] + [False] * 31
    assert [p.pts for p in packets] == list(range(32))  # no B-frames: decoding order is display order
    file = io.BytesIO(b"".join(bytes(p) for p in packets))
    with av.open(file, format="h264") as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        assert sum(1 for _ in container.decode(video=0)) == 32
    frames = list(decode_h264(encode_h264(clip, 30)))
    assert {f.format.name for f in frames} == {"yuv420p"}
    assert {f.pict_type for f in frames[1:]} == {PictureType.P}


def test_chroma_is_really_halved() -> None:
    clip = np.zeros((2, 32, 32, 3), np.uint8)
    clip[:, :, ::2, 0] = 255  # red columns of one pixel
    out = h264_round_trip(clip, 0, "rgb24").astype(int)
    assert np.abs(out[0, 8:24, 9:23:2, 0] - out[0, 8:24, 8:22:2, 0]).mean() < 200


def yuv420(frame: np.ndarray, pixel_format: codec.PixelFormat) -> tuple[av.VideoFrame, codec.Yuv420]:
    picture = av.VideoFrame(frame.shape[1], frame.shape[0], "yuv420p")
    planes = codec.Yuv420(picture, pixel_format)
    planes.write(frame)
    return picture, planes


@pytest.mark.parametrize("pixel_format", ["rgb24", "bgr24"])
@pytest.mark.parametrize("size", [(64, 80), (62, 70)])
def test_equals_a_real_mp4_file(pixel_format: codec.PixelFormat, size: tuple[int, int]) -> None:
    clip = moving_clip(12, *size)
    file = plain.mp4_bytes((yuv420(frame, pixel_format)[0] for frame in clip), *size, 28)
    assert np.array_equal(h264_round_trip(clip, 28, pixel_format), plain.decode_mp4(file, pixel_format))


@pytest.mark.parametrize("pixel_format", ["rgb24", "bgr24"])
@pytest.mark.parametrize("kind", ["noise", "scene", "primaries"])
def test_colour_conversion_is_bt601_of_the_mean_of_2x2_pixels(
    pixel_format: codec.PixelFormat, kind: str
) -> None:
    rng = np.random.default_rng(0)
    frame = {
        "noise": rng.integers(0, 256, (46, 58, 3), dtype=np.uint8),
        "scene": moving_clip(1, 46, 58)[0],
        "primaries": 255 * rng.integers(0, 2, (46, 58, 3), dtype=np.uint8),
    }[kind]
    exact = plain.yuv420(frame if pixel_format == "rgb24" else frame[..., ::-1])
    _, planes = yuv420(frame, pixel_format)
    for fast, plane, limit in zip((planes.y, planes.u, planes.v), exact, (0.6, 1.0, 1.0), strict=True):
        assert fast.shape == plane.shape
        assert np.abs(fast - plane).max() < limit  # rounding alone is .5
        assert abs((fast - plane).mean()) < 0.3


@pytest.mark.parametrize("qp", [0, 23, 40])
def test_the_error_is_no_larger_than_that_of_an_ffmpeg_file(qp: int) -> None:
    for clip in (moving_clip(12), np.repeat(moving_clip(12)[:, ::2, ::2], 2, 2)):
        ours, ffmpegs = h264_round_trip(clip, qp, "rgb24"), plain.round_trip(clip, qp, "rgb24")
        assert error(ours, clip) < 1.01 * error(ffmpegs, clip)


def test_rgb_and_bgr_give_the_same_pixels() -> None:
    clip = moving_clip()
    rgb, bgr = h264_round_trip(clip, 23, "rgb24"), h264_round_trip(clip[..., ::-1], 23, "bgr24")
    assert np.array_equal(rgb, bgr[..., ::-1])
    assert (
        error(h264_round_trip(np.full((2, 32, 32, 3), (230, 30, 60), np.uint8), 23, "rgb24"), (230, 30, 60))
        < 4
    )


def test_deterministic() -> None:
    clip = moving_clip()
    assert np.array_equal(h264_round_trip(clip, 33), h264_round_trip(clip, 33))
    assert [bytes(p) for p in encode_h264(clip, 33)] == [bytes(p) for p in encode_h264(clip, 33)]


@pytest.mark.parametrize(
    ("frames", "qp", "message"),
    [
        (np.zeros((2, 16, 16, 3), np.float32), 30, "uint8"),
        (np.zeros((16, 16, 3), np.uint8), 30, "uint8 frames"),
        (np.zeros((0, 16, 16, 3), np.uint8), 30, "uint8 frames"),
        (np.zeros((2, 16, 16, 3), np.uint8), 52, "QP is 52; .* within 0 to 51"),
    ],
)
def test_anything_but_a_clip_is_refused(frames: np.ndarray, qp: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        h264_round_trip(frames, qp)


def test_augmentation_returns_the_type_it_got() -> None:
    clip = moving_clip()
    always = CompressionAugmentation((30, 30), 1.0)
    array, listed = always(clip), always(list(clip))
    assert isinstance(listed, list)
    assert len(listed) == len(clip)
    assert all(np.array_equal(a, b) for a, b in zip(array, listed, strict=True))
    assert np.array_equal(array, h264_round_trip(clip, 30, "bgr24"))
    assert CompressionAugmentation(probability=0.0)(clip) is clip


def test_qp_is_uniform_in_its_range_and_drawn_with_its_probability() -> None:
    rng = np.random.default_rng(0)
    draws = [CompressionAugmentation().sample(rng) for _ in range(4000)]
    qps = np.array([qp for qp in draws if qp is not None])
    assert len(qps) / 4000 == pytest.approx(0.5, abs=0.03)
    counts = np.bincount(qps, minlength=52)[23:41]
    assert counts.sum() == len(qps)
    assert counts.min() > 0.6 * len(qps) / 18
    again = [CompressionAugmentation().sample(np.random.default_rng(3)) for _ in range(2)]
    assert again[0] == again[1]


@pytest.mark.parametrize("bad", [{"qp_range": (40, 23)}, {"qp_range": (0, 60)}, {"probability": 1.5}])
def test_invalid_settings_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="compression"):
        CompressionAugmentation(**bad)


def test_without_an_encoder_it_warns_once_counts_and_still_compresses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(codec, "ENCODER", "libnothing264")
    monkeypatch.setattr(codec, "_fallback_clips", 0)
    codec.encoder_works.cache_clear()
    clip = moving_clip()
    try:
        with pytest.warns(codec.FallbackWarning, match="INSTEAD OF H.264"):
            coarse = h264_round_trip(clip, 45)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fine = h264_round_trip(clip, 23)
        with pytest.raises(DataError, match="libnothing264"):
            h264_bits(clip, 23)
    finally:
        codec.encoder_works.cache_clear()
    assert fallback_count() == 2
    assert 0 < error(clip, fine) < error(clip, coarse)


def test_with_an_encoder_there_is_no_fallback_and_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    before = fallback_count()
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        h264_round_trip(moving_clip(), 30)
    assert fallback_count() == before
    assert not caplog.records
