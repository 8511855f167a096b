"""PNG frames: read as stored whatever metadata they contain, and bad files refused before they cost anything."""

from __future__ import annotations

import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest

from stf.data.clips import read_frame
from stf.data.png import MAX_CHUNKS, SIGNATURE, check_chunks, read_header
from stf.errors import DataError

WIDTH, HEIGHT = 12, 8
_EXIF = b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0{}\0\0\0\0\0\0"


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(colour: int = 2, extra: bytes = b"", pixels: bytes | None = None, depth: int = 8) -> bytes:
    """A picture whose rows get brighter downwards."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    rows = b"".join(b"\0" + bytes([20 * y] * channels * WIDTH) for y in range(HEIGHT))
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, colour, 0, 0, 0)
    palette = chunk(b"PLTE", bytes(range(256)) * 3) if colour == 3 else b""
    data = zlib.compress(rows) if pixels is None else pixels
    return SIGNATURE + chunk(b"IHDR", header) + palette + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def read(path: Path, data: bytes) -> np.ndarray:
    path.write_bytes(data)
    return read_frame(path)


@pytest.mark.parametrize("turn", range(1, 9))
def test_an_exif_rotation_is_ignored(tmp_path: Path, turn: int) -> None:
    exif = chunk(b"eXIf", _EXIF.replace(b"{}", bytes([turn])))
    assert (read(tmp_path / "a.png", png(extra=exif)) == read(tmp_path / "b.png", png())).all()


@pytest.mark.parametrize(
    ("colour", "name"), [(0, "grey"), (2, "RGB"), (4, "grey with alpha"), (6, "RGB with alpha")]
)
def test_grey_becomes_rgb_and_alpha_is_dropped(tmp_path: Path, colour: int, name: str) -> None:
    frame = read(tmp_path / "a.png", png(colour))
    assert frame.shape == (HEIGHT, WIDTH, 3)
    assert (frame == 20 * np.arange(HEIGHT)[:, None, None]).all()
    assert read_header(tmp_path / "a.png").colour == name


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (png(depth=16), "16 bits per channel"),
        (png(pixels=zlib.compress(bytes(100))), "cannot be decoded"),
        (png(pixels=zlib.compress(np.random.default_rng(0).bytes(300))[:150]), "cannot be decoded"),
        (png(extra=chunk(b"IHDR", bytes(13))), "cannot be decoded"),
        (png() + b"PK\x03\x04", "4 bytes follow its IEND chunk"),
        (png()[:-1] + b"\0", "checksum"),
        (png().replace(b"\x08\x02\0\0\0", b"\x08\x05\0\0\0"), "unknown colour type 5"),
        (b"", "not a PNG"),
        (SIGNATURE, "truncated or damaged header"),
    ],
)
def test_a_bad_frame_is_refused_with_its_name_in_one_line(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path / "007.png", data)
    assert "007.png" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_decompression_bombs_cost_no_more_than_the_declared_picture(tmp_path: Path) -> None:
    inflated = zlib.compress(bytes(300_000_000), 1)
    start = time.process_time()
    for data in (png(extra=chunk(b"zTXt", b"k\0\0" + inflated)), png(pixels=inflated)):
        assert read(tmp_path / "a.png", data).shape == (HEIGHT, WIDTH, 3)
    with pytest.raises(DataError, match=f"more than {MAX_CHUNKS} chunks"):
        check_chunks("b.png", png(extra=chunk(b"tEXt", b"") * (MAX_CHUNKS + 1)))
    assert time.process_time() - start < 5
