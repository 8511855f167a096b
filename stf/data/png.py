"""Reads untrusted PNG files: checks the size before decoding and the checksums of all chunks.

Otherwise a damaged PNG would decode to a half-grey picture, and a forged size could allocate gigabytes.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from stf.errors import DataError
from stf.io.files import open_regular, read_bounded

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_PIXELS = 64_000_000
MAX_CHUNKS = 100_000  # three times as many as the largest frame needs; checking one takes a microsecond
_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
_HEADER_BYTES = 33  # signature, then the IHDR chunk: length, name, 13 bytes, CRC
_COLOURS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGB with alpha"}
# EXIF may request a rotation, after which the picture would not match its landmarks
_READ_AS_STORED = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION


@dataclass(frozen=True)
class PngHeader:
    """The header of a PNG: size in pixels, bits per channel, colour type."""

    width: int
    height: int
    bit_depth: int
    colour: str  # "RGB", "grey", "palette", "grey with alpha", "RGB with alpha"


def _parse_header(path: Path, data: bytes) -> PngHeader:
    if not data.startswith(SIGNATURE):
        raise DataError(f"{path} is not a PNG file; preprocess the video again (frames are stored as PNG)")
    if len(data) < _HEADER_BYTES or data[8:16] != b"\x00\x00\x00\rIHDR":
        raise DataError(f"{path} has a truncated or damaged header; extract the frame again")
    width, height, bit_depth, colour_type = struct.unpack(">IIBB", data[16:26])
    if width == 0 or height == 0:
        raise DataError(
            f"{path} has a size of {width}x{height} pixels in its header; extract the frame again"
        )
    if width * height > MAX_PIXELS:
        limit = MAX_PIXELS // 1_000_000
        raise DataError(
            f"{path} has {width}x{height} pixels, more than the limit of {limit} megapixels; extract a smaller frame"
        )
    if bit_depth > 8:
        raise DataError(f"{path} has {bit_depth} bits per channel; convert the frame to 8 bits")
    if colour_type not in _COLOURS:
        raise DataError(f"{path} is damaged: unknown colour type {colour_type}; extract the frame again")
    return PngHeader(width, height, bit_depth, _COLOURS[colour_type])


def read_header(path: str | Path) -> PngHeader:
    """Reads size and depth from the first 33 bytes and checks the last 12, without reading the rest.

    Raises DataError for a file that is no PNG, too large, 16-bit or truncated.
    """
    try:
        with open_regular(path) as stream:
            head = stream.read(_HEADER_BYTES)
            header = _parse_header(Path(path), head)
            stream.seek(-min(len(_END), stream.seek(0, os.SEEK_END)), os.SEEK_END)
            tail = stream.read()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    if tail != _END:
        raise DataError(f"{path} is truncated: it does not end in an IEND chunk; extract the frame again")
    return header


def check_chunks(path: str | Path, data: bytes) -> PngHeader:
    """Checks the CRC of every chunk of a complete PNG file; raises DataError for a damaged or truncated one."""
    header = _parse_header(Path(path), data)
    position, name, n_chunks = len(SIGNATURE), b"", 0
    while name != b"IEND":
        n_chunks += 1
        if n_chunks > MAX_CHUNKS:
            raise DataError(f"{path} has more than {MAX_CHUNKS} chunks; extract the frame again")
        if position + 12 > len(data):
            raise DataError(f"{path} is truncated: it ends before its IEND chunk; extract the frame again")
        (length,) = struct.unpack_from(">I", data, position)
        end = position + 8 + length
        name = data[position + 4 : position + 8]
        if end + 4 > len(data):
            raise DataError(f"{path} is truncated inside a chunk; extract the frame again")
        if zlib.crc32(memoryview(data)[position + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise DataError(f"{path} is damaged: a checksum does not match; extract the frame again")
        position = end + 4
    if position != len(data):
        surplus = f"{len(data) - position} bytes follow its IEND chunk"
        raise DataError(f"{path} is damaged: {surplus}; extract the frame again")
    return header


def read_bytes(path: str | Path) -> bytes:
    """Reads the file's bytes; raises DataError when it cannot be read or is larger than any frame."""
    try:
        return read_bounded(path, MAX_PIXELS * 4)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; extract the frame again") from None


def decode(path: str | Path, data: bytes) -> NDArray[np.uint8]:
    """Decodes a PNG to uint8 (H, W, 3) RGB; grey and palette become RGB, alpha is dropped.

    Raises DataError for a damaged file or one that `check_chunks` refuses.
    """
    header = check_chunks(path, data)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), _READ_AS_STORED)
    except cv2.error:
        image = None
    if image is None or image.shape[:2] != (header.height, header.width):
        raise DataError(f"{path} cannot be decoded; extract the frame again")
    return np.asarray(image, np.uint8)
