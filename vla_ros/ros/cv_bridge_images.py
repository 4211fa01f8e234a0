# SPDX-License-Identifier: Apache-2.0
"""Conversion of pictures by cv_bridge, where it is installed and gives the same bits. Must not import rclpy.

It is used for Bayer and YUV pictures, whose colours are interpolated, so that the policy sees what the robot's other nodes see. In the order of
channels and in the depth there is nothing to choose, and no reason to pay for a second OpenCV in the process. What it is given are rows without padding in this machine's byte order: by itself it shears
rows whose padding is no whole number of pixels (``step / itemsize / channels`` is cut to an integer), and with NumPy 2 it fails on
big-endian pictures. Encodings that it refuses for having no colour get the name that they have here.

A cv_bridge that was built for another NumPy ends the process that calls it. So a child process compares every encoding first.
"""

from __future__ import annotations

import functools
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from vla_ros.ros.images import ENCODINGS, MAX_IMAGE_PIXELS, image_to_rgb, pixels_of

_TIME_LIMIT_S = 30.0
_NAMES = {"8UC1": "mono8", "8UC3": "bgr8", "16UC1": "mono16", "uyvy": "yuv422", "yuyv": "yuv422_yuy2"}
_INTERPOLATED = ("bayer", "yuv", "uyvy", "yuyv")


class BridgedImages:
    """Converts like :func:`vla_ros.ros.images.image_to_rgb`, with the same checks and errors. One thread only."""

    def __init__(self) -> None:
        self._bridge: Any = None

    def __call__(self, message: Any, max_pixels: int = MAX_IMAGE_PIXELS) -> np.ndarray:
        """As ``image_to_rgb``; Bayer and YUV pictures by cv_bridge."""
        convert = self.convert if message.encoding.startswith(_INTERPOLATED) else image_to_rgb
        return convert(message, max_pixels)

    def convert(self, message: Any, max_pixels: int = MAX_IMAGE_PIXELS) -> np.ndarray:
        """Any encoding by cv_bridge: uint8 [height, width, 3] in rgb order; raises InputError as ``image_to_rgb`` does."""
        pixels_HWC = np.ascontiguousarray(pixels_of(message, max_pixels))
        height, width = pixels_HWC.shape[:2]
        packed = SimpleNamespace(
            height=height,
            width=width,
            encoding=_NAMES.get(message.encoding, message.encoding),
            is_bigendian=int(sys.byteorder == "big"),
            step=pixels_HWC.nbytes // height,
            data=pixels_HWC,
        )
        return self._loaded().imgmsg_to_cv2(packed, "rgb8")

    def _loaded(self) -> Any:
        if self._bridge is None:
            from cv_bridge import CvBridge

            self._bridge = CvBridge()
        return self._bridge


def image_conversion() -> tuple[Callable[[Any, int], np.ndarray], str]:
    """The conversion to use, and why it is not cv_bridge's: empty where it is, or where cv_bridge is not installed."""
    if importlib.util.find_spec("cv_bridge") is None:
        return image_to_rgb, ""
    why_not = problem()
    return (image_to_rgb, f"cv_bridge is installed and not used: {why_not}") if why_not else (BridgedImages(), "")


@functools.cache
def problem() -> str:
    """What keeps the installed cv_bridge from being used, found in a child process; empty if nothing does."""
    command = [sys.executable, "-m", "vla_ros.ros.cv_bridge_images"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_TIME_LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return f"it did not answer within {_TIME_LIMIT_S:g} s"
    if done.returncode == 0:
        return ""
    lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    return lines[-1] if lines else f"it ended its process with {done.returncode}; it may be built for another NumPy than {np.__version__}"


def different_encodings(convert: Callable[[Any], np.ndarray]) -> list[str]:
    """Encodings of which ``convert`` makes other pictures than ``image_to_rgb``, with padding and in both byte orders."""
    random = np.random.default_rng(0)
    found = []
    for name, encoding in ENCODINGS.items():
        for big, padding in ((0, 0), (1, 0), (0, 5)):
            height, width = 14, 18
            step = width * encoding.channels * np.dtype(encoding.dtype).itemsize + padding
            data = random.integers(0, 256, height * step, dtype=np.uint8).tobytes()
            message = SimpleNamespace(height=height, width=width, encoding=name, is_bigendian=big, step=step, data=data)
            if not np.array_equal(convert(message), image_to_rgb(message)):
                found.append(name)
                break
    return found


def main() -> int:
    """Compares every encoding; returns 0 if all are the same, else names those that are not."""
    different = different_encodings(BridgedImages().convert)
    if different:
        sys.stderr.write(f"it makes other pictures of {', '.join(different)}\n")
    return int(bool(different))


if __name__ == "__main__":
    sys.exit(main())
