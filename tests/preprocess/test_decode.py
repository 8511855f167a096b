"""Raw videos: decoded frames are intact and upright, and a hostile file gives a one-line error."""

from __future__ import annotations

import os
from pathlib import Path

import av
import numpy as np
import pytest

from stf.data import png
from stf.errors import DataError
from stf.preprocess import decode
from stf.preprocess.decode import open_video
from tests.reference.preprocess_videos import draw, encode, playlist, sound, truncated_mp4

CLIP = draw([[(40 + 2 * t, 60, 20, 0)] for t in range(24)])


def frames(path: Path, start: int = 0, limit: int = 0) -> tuple[list[np.ndarray], str]:
    with open_video(path) as video:
        decoded = list(video.frames(start, limit))
        return decoded, video.problem


def error_of(path: Path) -> str:
    """Returns the one-line error message of a file that cannot be decoded."""
    with pytest.raises(DataError) as caught, open_video(path) as video:
        list(video.frames(0, 0))
        raise DataError(video.problem or f"{path} was read without an error")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "name", ["a.mp4", "a.mkv", "a.avi", "http:example.org:a.mp4", "frame%03d.mp4", "pipe:0.mp4"]
)
def test_frames_are_decoded_in_display_order_under_any_file_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    encode(tmp_path / f"a{path.suffix}", CLIP).rename(path)
    decoded, problem = frames(path)
    assert problem == ""
    assert np.abs(np.stack(decoded).astype(int) - CLIP).mean() < 6
    part, problem = frames(path, 5, 7)
    assert problem == ""
    assert (np.stack(part) == np.stack(decoded[5:12])).all()
    assert frames(path, 30, 7)[0] == []


def test_a_phones_rotated_picture_is_made_upright(tmp_path: Path) -> None:
    """The rotation is in the track's matrix, patched here because PyAV cannot write one."""
    sideways = encode(tmp_path / "sideways.mp4", CLIP)
    data = bytearray(sideways.read_bytes())
    at = data.index(b"tkhd") + 4 + 4 + 36  # version and flags, 36 bytes of fields, then the matrix
    one, zero = (1 << 16).to_bytes(4, "big"), bytes(4)
    assert data[at : at + 4] == one
    quarter_turn = (zero, one, zero, (-(1 << 16)).to_bytes(4, "big", signed=True), zero, zero)
    data[at : at + 24] = b"".join(quarter_turn)
    (tmp_path / "rotated.mp4").write_bytes(data)
    rotated = np.stack(frames(tmp_path / "rotated.mp4")[0])
    assert rotated.shape == (24, 160, 120, 3)
    plain = np.stack(frames(sideways)[0])
    assert (rotated == np.rot90(plain, 3, axes=(1, 2))).all()  # a quarter turn clockwise, as in the matrix


@pytest.mark.parametrize("share", [0.4, 0.7])
def test_of_a_truncated_video_the_beginning_is_decoded(share: float, tmp_path: Path) -> None:
    decoded, problem = frames(truncated_mp4(tmp_path / "cut.mp4", share, CLIP))
    assert 0 < len(decoded) < 24
    assert f"{len(decoded)}" in problem
    assert np.abs(np.stack(decoded).astype(int) - CLIP[: len(decoded)]).mean() < 6
    beginning, problem = frames(tmp_path / "cut.mp4", 0, len(decoded) - 1)
    assert len(beginning) == len(decoded) - 1
    assert problem == ""


def test_decoding_stops_at_damage_instead_of_concealing_it(tmp_path: Path) -> None:
    path = encode(tmp_path / "damaged.mp4", CLIP)
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    position, size = packets[12]
    data = bytearray(path.read_bytes())
    data[position + 8 : position + size] = bytes(255 - b for b in data[position + 8 : position + size])
    path.write_bytes(data)
    decoded, problem = frames(path)
    assert len(decoded) <= 12
    assert "damaged from frame" in problem
    assert all(np.abs(a.astype(int) - b).mean() < 6 for a, b in zip(decoded, CLIP, strict=False))


def test_a_file_that_is_no_video_gives_a_one_line_error(tmp_path: Path) -> None:
    files = {"empty": b"", "text": b"not a video\n" * 50, "noise": np.random.default_rng(0).bytes(5000)}
    for name, data in files.items():
        (tmp_path / f"{name}.mp4").write_bytes(data)
    assert "is empty" in error_of(tmp_path / "empty.mp4")
    assert "cannot be opened as a video" in error_of(tmp_path / "text.mp4")
    assert "cannot be opened as a video" in error_of(tmp_path / "noise.mp4")
    assert "has no video stream" in error_of(sound(tmp_path / "sound.mp4"))
    assert "cannot be read" in error_of(tmp_path / "missing.mp4")
    assert "cannot be read" in error_of(tmp_path)
    os.mkfifo(tmp_path / "pipe.mp4")
    assert "pipe or a device" in error_of(tmp_path / "pipe.mp4")


def test_an_unknown_codec_gives_a_one_line_error(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", CLIP)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz").replace(b"avcC", b"zzzC"))
    error_of(path)


@pytest.mark.parametrize("kind", ["playlist", "concat", "sdp", "dash"])
@pytest.mark.parametrize("suffix", [".mp4", ".m3u8", ".ffconcat", ".sdp"])
def test_a_file_cannot_open_another_one(kind: str, suffix: str, tmp_path: Path) -> None:
    target = encode(tmp_path / "target.mp4", CLIP)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(playlist(target)[kind])
    assert "cannot be opened as a video" in error_of(path)


def test_a_too_large_picture_is_refused_before_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = encode(tmp_path / "a.mp4", CLIP)
    monkeypatch.setattr(decode, "MAX_PIXELS", 120 * 160 - 1)
    assert "160x120 pixels" in error_of(path)
    assert decode._DECODER["max_pixels"] == str(png.MAX_PIXELS)
    monkeypatch.undo()
    # the stream may be larger than the container's header claims
    monkeypatch.setitem(decode._DECODER, "max_pixels", "10000")
    assert "damaged from frame 0" in error_of(path)


def test_decoding_stops_where_the_size_changes(tmp_path: Path) -> None:
    """Two streams one after the other in an MPEG-TS, as when a broadcast changes its format."""
    small = encode(tmp_path / "a.ts", CLIP[:10]).read_bytes()
    large = encode(tmp_path / "b.ts", np.repeat(np.repeat(CLIP[:10], 2, 1), 2, 2)).read_bytes()
    (tmp_path / "both.ts").write_bytes(small + large)
    decoded, problem = frames(tmp_path / "both.ts")
    assert {frame.shape for frame in decoded} == {(120, 160, 3)}
    assert problem


def test_frames_hidden_by_an_edit_list_do_not_count_as_missing(tmp_path: Path) -> None:
    """A video trimmed without re-encoding: its first 10 frames are in the file but not displayed."""
    data = bytearray(encode(tmp_path / "whole.mp4", CLIP).read_bytes())
    at = (
        data.index(b"elst") + 4 + 4 + 4
    )  # after version, flags and count: duration in ms, then start in ticks
    data[at : at + 4] = (14 * 40).to_bytes(4, "big")
    at += 4
    with av.open(str(tmp_path / "whole.mp4")) as container:
        ticks = round(1 / container.streams.video[0].time_base / 25)
    data[at : at + 4] = (int.from_bytes(data[at : at + 4], "big") + 10 * ticks).to_bytes(4, "big")
    (tmp_path / "trimmed.mp4").write_bytes(data)
    decoded, problem = frames(tmp_path / "trimmed.mp4")
    assert (len(decoded), problem) == (14, "")
    assert np.abs(np.stack(decoded).astype(int) - CLIP[10:]).mean() < 6
