# SPDX-License-Identifier: Apache-2.0
"""sensor_msgs/Image to an rgb picture, exactly and without cv_bridge. Must not import rclpy: it only reads the message's fields.

Byte layouts: http://docs.ros.org/en/jazzy/p/sensor_msgs and REP 118; each conversion equals cv_bridge's ``imgmsg_to_cv2(msg, 'rgb8')``,
which :mod:`vla_ros.ros.cv_bridge_images` uses where it is installed.
16-bit values become 8-bit by the nearest of ``v / 257``, so that 65535 is 255. Compressed pictures: :mod:`vla_ros.ros.compressed_images`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from vla_ros.core.errors import InputError

MAX_IMAGE_PIXELS = 4096 * 4096
"""A picture with more pixels is refused: no camera of a manipulator has more, and 16 Mpx of rgb8 are 50 MB."""


@dataclass(frozen=True)
class _Encoding:
    channels: int
    dtype: type
    to_rgb: Callable[[np.ndarray], np.ndarray]


def _cv(code: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda image_HWC: cv2.cvtColor(image_HWC, code)


_KINDS = {
    "rgb": (3, lambda image_HWC: image_HWC),
    "bgr": (3, _cv(cv2.COLOR_BGR2RGB)),
    "rgba": (4, _cv(cv2.COLOR_RGBA2RGB)),
    "bgra": (4, _cv(cv2.COLOR_BGRA2RGB)),
    "mono": (1, _cv(cv2.COLOR_GRAY2RGB)),
    # OpenCV names a pattern after its second row's second and third pixel: its BG is ROS's RGGB.
    "bayer_rggb": (1, _cv(cv2.COLOR_BayerBG2RGB)),
    "bayer_bggr": (1, _cv(cv2.COLOR_BayerRG2RGB)),
    "bayer_gbrg": (1, _cv(cv2.COLOR_BayerGR2RGB)),
    "bayer_grbg": (1, _cv(cv2.COLOR_BayerGB2RGB)),
}

ENCODINGS: dict[str, _Encoding] = {
    **{f"{name}8": _Encoding(channels, np.uint8, to_rgb) for name, (channels, to_rgb) in _KINDS.items()},
    **{f"{name}16": _Encoding(channels, np.uint16, to_rgb) for name, (channels, to_rgb) in _KINDS.items()},
    # Untyped OpenCV encodings; three channels are bgr there.
    "8UC1": _Encoding(1, np.uint8, _cv(cv2.COLOR_GRAY2RGB)),
    "8UC3": _Encoding(3, np.uint8, _cv(cv2.COLOR_BGR2RGB)),
    "16UC1": _Encoding(1, np.uint16, _cv(cv2.COLOR_GRAY2RGB)),
    # What USB cameras send; the first two names are the older ones.
    "yuv422": _Encoding(2, np.uint8, _cv(cv2.COLOR_YUV2RGB_UYVY)),
    "yuv422_yuy2": _Encoding(2, np.uint8, _cv(cv2.COLOR_YUV2RGB_YUY2)),
    "uyvy": _Encoding(2, np.uint8, _cv(cv2.COLOR_YUV2RGB_UYVY)),
    "yuyv": _Encoding(2, np.uint8, _cv(cv2.COLOR_YUV2RGB_YUY2)),
}
"""Every known value of ``Image.encoding``."""


def image_to_rgb(message: Any, max_pixels: int = MAX_IMAGE_PIXELS) -> np.ndarray:
    """Converts a sensor_msgs/Image.

    Args:
        message: the message; only height, width, encoding, is_bigendian, step and data are read.
        max_pixels: larger pictures are refused.

    Returns:
        uint8 array [height, width, 3] in rgb order. It may share memory with ``message.data``: treat it as read-only.

    Raises:
        InputError: the message contradicts itself or cannot be converted; the code names the kind, the text what came.
    """
    pixels_HWC = pixels_of(message, max_pixels)
    return to_8_bit(ENCODINGS[message.encoding].to_rgb(pixels_HWC))


def pixels_of(message: Any, max_pixels: int = MAX_IMAGE_PIXELS) -> np.ndarray:
    """The picture as sent, [height, width, channels] in native byte order and without padding; raises as :func:`image_to_rgb`."""
    encoding = ENCODINGS.get(message.encoding)
    if encoding is None:
        raise InputError(f"image encoding {message.encoding[:40]!r} is unknown: known are {', '.join(ENCODINGS)}", code="image_encoding")
    pixels = _pixels(message, encoding, max_pixels)
    if pixels.shape[1] % 2 and encoding.channels == 2:
        raise InputError(
            f"{message.encoding} shares colour between two columns, the image has {pixels.shape[1]}: expected an even width",
            code="image_size",
        )
    if message.encoding.startswith("bayer") and min(pixels.shape[:2]) < 2:
        raise InputError(
            f"a {message.encoding} image needs at least 2x2 pixels, this one has {pixels.shape[1]}x{pixels.shape[0]}", code="image_size"
        )
    return pixels


def _pixels(message: Any, encoding: _Encoding, max_pixels: int) -> np.ndarray:
    """Returns the picture as [height, width, channels] in native byte order, without padding."""
    height, width, step = message.height, message.width, message.step
    if height == 0 or width == 0:
        raise InputError(f"the image is {width}x{height} pixels: both sides must be positive", code="image_empty")
    if height * width > max_pixels:
        raise InputError(
            f"the image is {width}x{height} pixels, more than the limit of {max_pixels}: raise the limit or lower the camera's resolution",
            code="image_too_large",
        )
    itemsize = np.dtype(encoding.dtype).itemsize
    row_bytes = width * encoding.channels * itemsize
    if step < row_bytes:
        raise InputError(
            f"a row of {width} {message.encoding} pixels takes {row_bytes} bytes, the image's step is {step}", code="image_step"
        )
    if len(message.data) < step * height:
        raise InputError(
            f"the image has {len(message.data)} bytes, its step {step} and height {height} need {step * height}", code="image_data"
        )
    rows = np.frombuffer(message.data, np.uint8, count=step * height).reshape(height, step)[:, :row_bytes]
    if itemsize == 1:
        return rows.reshape(height, width, encoding.channels)
    # A row may start at an odd address, so the bytes are gathered before they are read as words.
    order = ">" if message.is_bigendian else "<"
    words = np.ascontiguousarray(rows).view(np.dtype(encoding.dtype).newbyteorder(order))
    return words.astype(encoding.dtype).reshape(height, width, encoding.channels)


def to_8_bit(image: np.ndarray) -> np.ndarray:
    """Scales uint16 to uint8 by the nearest of ``v / 257`` (a tie cannot occur); returns uint8 unchanged."""
    if image.dtype == np.uint8:
        return image
    return cv2.convertScaleAbs(image, alpha=1.0 / 257.0).reshape(image.shape)
