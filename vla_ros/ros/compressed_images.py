# SPDX-License-Identifier: Apache-2.0
"""sensor_msgs/CompressedImage to an rgb picture. Must not import rclpy.

The bytes are distrusted: their kind is read from the first bytes and not from ``format``, their dimensions from the header before
anything is decoded (a few kilobytes can claim gigapixels), and a file that was cut short or changed on the way is refused, where decoders
would return grey rows.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any

import cv2
import numpy as np

from vla_ros.core.errors import InputError
from vla_ros.ros.images import MAX_IMAGE_PIXELS, to_8_bit

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_JPEG_MAGIC = b"\xff\xd8\xff"
_JPEG_END = b"\xff\xd9"
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # start-of-frame markers, ITU-T T.81 table B.1
_JPEG_BARE = frozenset(range(0xD0, 0xD8)) | {0x01}  # markers without a length
_JPEG_SCAN = 0xDA


def compressed_to_rgb(message: Any, max_pixels: int = MAX_IMAGE_PIXELS) -> np.ndarray:
    """Decodes a JPEG or PNG.

    Args:
        message: the message; only format and data are read.
        max_pixels: pictures whose header claims more are refused undecoded.

    Returns:
        uint8 array [height, width, 3] in rgb order, its own memory.

    Raises:
        InputError: it is another kind of file, it is too large, or it is damaged.
    """
    data = bytes(message.data)
    if "compressedDepth" in message.format:
        raise InputError(
            f"compressed image of format {message.format[:40]!r} holds depth: known are jpeg and png colour or grey images",
            code="image_encoding",
        )
    if data.startswith(_JPEG_MAGIC):
        return _decode(data, "JPEG", _jpeg_size(data), max_pixels)
    if data.startswith(_PNG_MAGIC):
        return _decode(data, "PNG", _png_size(data), max_pixels)
    raise InputError(
        f"compressed image of format {message.format[:40]!r} begins with {data[:8].hex() or 'nothing'}: "
        "known are JPEG (ffd8ff) and PNG (89504e47)",
        code="image_encoding",
    )


def _decode(data: bytes, kind: str, size: tuple[int, int], max_pixels: int) -> np.ndarray:
    width, height = size
    if width == 0 or height == 0:
        raise InputError(f"the {kind} is {width}x{height} pixels: both sides must be positive", code="image_empty")
    if width * height > max_pixels:
        raise InputError(
            f"the {kind}'s header claims {width}x{height} pixels, more than the limit of {max_pixels}: it was not decoded",
            code="image_too_large",
        )
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise InputError(f"the {kind} of {len(data)} bytes cannot be decoded: {error.err}", code="image_corrupt") from error
    if image is None or image.shape[:2] != (height, width):
        raise InputError(f"the {kind} of {len(data)} bytes cannot be decoded", code="image_corrupt")
    return _bgr_to_rgb(to_8_bit(image), kind)


def _bgr_to_rgb(image: np.ndarray, kind: str) -> np.ndarray:
    channels = 1 if image.ndim == 2 else image.shape[2]
    codes = {1: cv2.COLOR_GRAY2RGB, 3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGB}
    if image.dtype != np.uint8 or channels not in codes:
        raise InputError(
            f"the {kind} has {channels} channels of {image.dtype}: known are 1, 3 and 4 of 8 or 16 bits", code="image_encoding"
        )
    return cv2.cvtColor(image, codes[channels])


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Returns (width, height) by walking the segments to the frame header; checks that the file has an end."""
    at, size = 2, None
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            break
        marker = data[at + 1]
        if marker in _JPEG_BARE or marker == 0xFF:
            at += 1 if marker == 0xFF else 2
            continue
        if marker in _JPEG_FRAMES and at + 9 <= len(data):
            height, width = struct.unpack_from(">HH", data, at + 5)
            size = (width, height)
        if marker == _JPEG_SCAN and size is not None:
            if data.rfind(_JPEG_END) < at:
                raise InputError(f"the JPEG of {len(data)} bytes has no end marker: it was cut short on the way", code="image_corrupt")
            return size
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    raise InputError(f"the JPEG of {len(data)} bytes has no readable frame header and scan", code="image_corrupt")


def _png_size(data: bytes) -> tuple[int, int]:
    """Returns (width, height) from IHDR; checks every chunk's length and CRC and that the file has an end."""
    at, size = len(_PNG_MAGIC), None
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data) or zlib.crc32(memoryview(data)[at + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            break
        if size is None:
            if kind != b"IHDR" or length != 13:
                break
            size = struct.unpack_from(">II", data, at + 8)
        if kind == b"IEND":
            return size
        at = end
    raise InputError(f"the PNG of {len(data)} bytes is damaged or cut short at byte {at}", code="image_corrupt")
