"""PNG files from strangers: size known before decoding, damage found without decoding.

A damaged PNG otherwise decodes to a half-grey picture, and a forged size to gigabytes.
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

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_PIXELS = 64_000_000
_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
_HEADER_BYTES = 33  # signature, then the IHDR chunk: length, name, 13 bytes, CRC


@dataclass(frozen=True)
class PngHeader:
    """What a PNG says about itself; pixels and bits per channel."""

    width: int
    height: int
    bit_depth: int


def _parse_header(path: Path, data: bytes) -> PngHeader:
    if not data.startswith(SIGNATURE):
        raise DataError(f"{path} is not a PNG file; frames are stored as PNG, preprocess the video again")
    if len(data) < _HEADER_BYTES or data[8:16] != b"\x00\x00\x00\rIHDR":
        raise DataError(f"{path} is truncated or damaged in its header; extract the frame again")
    width, height, bit_depth = struct.unpack(">IIB", data[16:25])
    if width == 0 or height == 0:
        raise DataError(f"{path} says it is {width}x{height} pixels; extract the frame again")
    if width * height > MAX_PIXELS:
        limit = MAX_PIXELS // 1_000_000
        raise DataError(
            f"{path} says it is {width}x{height} pixels; more than {limit} megapixels are not decoded"
        )
    if bit_depth > 8:
        raise DataError(f"{path} has {bit_depth} bits per channel; 8 are needed, convert the frame")
    return PngHeader(width, height, bit_depth)


def read_header(path: str | Path) -> PngHeader:
    """Size and depth from the first 33 bytes, and a look at the last 12, without reading what is between.

    Raises DataError for a file that is no PNG, giant, 16-bit, or was cut short.
    """
    try:
        with open(path, "rb") as stream:
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
    """Walks the chunks of a whole PNG file and checks each CRC; raises DataError when one does not hold."""
    header = _parse_header(Path(path), data)
    position, name = len(SIGNATURE), b""
    while name != b"IEND":
        if position + 12 > len(data):
            raise DataError(f"{path} is truncated: it ends before its IEND chunk; extract the frame again")
        (length,) = struct.unpack_from(">I", data, position)
        end = position + 8 + length
        name = data[position + 4 : position + 8]
        if end + 4 > len(data):
            raise DataError(f"{path} is truncated inside a chunk; extract the frame again")
        if zlib.crc32(memoryview(data)[position + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise DataError(f"{path} is damaged: a checksum does not fit; extract the frame again")
        position = end + 4
    return header


def read_bytes(path: str | Path) -> bytes:
    """The file's bytes; raises DataError when it cannot be read or is larger than any frame."""
    limit = MAX_PIXELS * 4
    try:
        with open(path, "rb") as stream:
            data = stream.read(limit + 1)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > limit:
        raise DataError(f"{path} has more than {limit} bytes; extract the frame again")
    return data


def decode(path: str | Path, data: bytes) -> NDArray[np.uint8]:
    """uint8 (H, W, 3) RGB of a PNG whose chunks hold; grey and palette become RGB, alpha is dropped."""
    header = check_chunks(path, data)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error:
        image = None
    if image is None or image.shape[:2] != (header.height, header.width):
        raise DataError(f"{path} cannot be decoded; extract the frame again")
    return np.asarray(image, np.uint8)
