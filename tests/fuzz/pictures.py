"""Fuzzes frames and geometry: PNG chunks with valid checksums, .npy headers, pickles with code."""

from __future__ import annotations

import pickle
import struct
import zlib

import cv2
import numpy as np

from stf.data.clips import read_frame
from stf.data.faces import read_boxes, read_landmarks
from stf.data.png import MAX_PIXELS, SIGNATURE, read_header
from stf.errors import DataError
from tests.conftest import unit_face
from tests.fuzz.kinds import Kind, Place, Rng
from tests.fuzz.mutations import pick, spoil_bytes
from tests.fuzz.payloads import payload

_ANCILLARY = (
    b"zTXt",
    b"iCCP",
    b"eXIf",
    b"acTL",
    b"fcTL",
    b"fdAT",
    b"tRNS",
    b"PLTE",
    b"gAMA",
    b"IDAT",
    b"IHDR",
    b"IEND",
)
_EXIF = b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"


def chunk(name: bytes, data: bytes) -> bytes:
    """Returns a PNG chunk with a valid checksum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def chunks_of(data: bytes) -> list[tuple[bytes, bytes]]:
    """Returns (name, content) of each chunk of an intact PNG."""
    chunks, at = [], len(SIGNATURE)
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


def good_png(rng: Rng) -> bytes:
    """Returns a small intact PNG: grey, RGB or RGBA, sometimes 16-bit."""
    kind = pick(rng, ((), (3,), (3,), (4,)))
    is_16_bit = rng.random() < 0.1
    image = rng.integers(0, 65536 if is_16_bit else 256, (*rng.integers(1, 40, 2), *kind))
    return cv2.imencode(".png", image.astype(np.uint16 if is_16_bit else np.uint8))[1].tobytes()


def _spoiled_header(rng: Rng, content: bytes) -> bytes:
    fields = list(struct.unpack(">IIBBBBB", content))
    sizes = (0, 1, 7, 65_535, 8_000, 64_000_000, 2**31 - 1, 2**31, 2**32 - 1)
    index = int(rng.integers(7))
    fields[index] = pick(rng, sizes) if index < 2 else int(rng.integers(0, 20))
    return struct.pack(">IIBBBBB", *fields)


def _bomb(rng: Rng) -> bytes:
    return zlib.compress(bytes(int(rng.choice([1000, 1_000_000, 30_000_000]))), 1)


def _content(rng: Rng, name: bytes, content: bytes) -> bytes:
    if name == b"IHDR" and len(content) == 13:
        return _spoiled_header(rng, content)
    if name == b"IDAT" and rng.random() < 0.5:
        return pick(rng, (_bomb(rng), zlib.compress(rng.bytes(200)), content[: len(content) // 2], b""))
    return spoil_bytes(rng, content)


def spoiled_png(rng: Rng) -> bytes:
    """Returns a PNG damaged in its bytes, or in its chunks with valid checksums."""
    data = good_png(rng)
    if rng.random() < 0.4:
        return spoil_bytes(rng, data, good_png(rng))
    chunks = chunks_of(data)
    for _ in range(int(rng.integers(1, 3))):
        at = int(rng.integers(len(chunks)))
        name, content = chunks[at]
        action = rng.random()
        if action < 0.6:
            chunks[at] = (name, _content(rng, name, content))
        elif action < 0.8:
            extra = pick(
                rng, (_EXIF, b"k\0\0" + _bomb(rng), rng.bytes(8), b"", struct.pack(">II", 2**31 - 1, 0))
            )
            chunks.insert(at, (pick(rng, _ANCILLARY), extra))
        else:
            chunks.append(chunks.pop(at))
    return SIGNATURE + b"".join(chunk(*each) for each in chunks)


def _make_png(rng: Rng, place: Place) -> None:
    (place.case / "000.png").write_bytes(spoiled_png(rng))


def _read_png(place: Place) -> None:
    path = place.case / "000.png"
    header = read_header(path)
    frame = read_frame(path)
    assert frame.shape == (header.height, header.width, 3), "the frame's size differs from its header"
    assert frame.dtype == np.uint8
    assert header.width * header.height <= MAX_PIXELS
    assert header.bit_depth <= 8


def _array(rng: Rng) -> np.ndarray:
    face = unit_face() * 50 + 100
    shapes = (
        face,
        face[None],
        np.stack([face, face + 9]),
        [[0.0, 0, 50, 60]],
        np.zeros((2, 7, 2)),
        face[:80],
    )
    array = np.array(pick(rng, shapes), dtype=pick(rng, ("<f8", "<i8", "<f4", ">f8", "<f2", "<u1")))
    if rng.random() < 0.5 and array.size:
        odd = pick(rng, (np.nan, np.inf, 1e300, -1e9, 2**62, 0, -1))
        with np.errstate(all="ignore"):
            array.flat[int(rng.integers(array.size))] = np.array(odd).astype(array.dtype)
    return array


_HEADERS = (
    "{'descr': '<f8', 'fortran_order': False, 'shape': (-81, -2), }",
    "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (10**9, 10**9, 10**9), }",
    "{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (81, 2), }",
    "{'descr': '<f8', 'fortran_order': False, 'shape': (99999999, 99999999), }",
    "{'descr': '<f8', 'fortran_order': True, 'shape': (81L, 2L), }",
    "{'descr': __import__('os').system('true'), 'fortran_order': False, 'shape': (81, 2), }",
    "(" * 5000,
)


def _npy(rng: Rng, header: str, body: bytes) -> bytes:
    text = header.encode() + b"\n"
    if rng.random() < 0.3:
        return b"\x93NUMPY\x02\x00" + struct.pack("<I", len(text)) + text + body
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) % 65536) + text + body


def _make_npy(rng: Rng, place: Place) -> None:
    path, action = place.case / "000.npy", rng.random()
    with open(path, "wb") as file:
        np.save(file, _array(rng))
    good = path.read_bytes()
    if action < 0.3:
        path.write_bytes(spoil_bytes(rng, good, pickle.dumps([1, 2])))
    elif action < 0.5:
        path.write_bytes(_npy(rng, pick(rng, _HEADERS), good[128:]))
    elif action < 0.6:
        with open(path, "wb") as file:
            np.save(file, np.array([payload(rng, place.canary)], dtype=object), allow_pickle=True)
    elif action < 0.65:
        path.write_bytes(pickle.dumps(payload(rng, place.canary)))
    elif action < 0.75:
        end = good.index(b"\n") + 1
        path.write_bytes(good[:10] + spoil_bytes(rng, good[10:end]) + good[end:])


def _read_npy(place: Place) -> None:
    """Reads landmarks, or boxes where those are refused."""
    path = place.case / "000.npy"
    try:
        read = read_landmarks(path)
        assert read.shape[1:] == (81, 2)
    except DataError:
        read = read_boxes(path)
        assert read.shape[1:] == (2, 2)
    assert np.isfinite(read).all()
    assert len(read)


KINDS = (Kind("png", _make_png, _read_png), Kind("npy", _make_npy, _read_npy))
