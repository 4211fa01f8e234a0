# SPDX-License-Identifier: Apache-2.0
"""The newest picture of each camera as JPEG, with the age by which the page decides whether it is live. Must not import rclpy."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from vla_ros.core.errors import InputError

MAX_SIDE = 640
_QUALITY = 85
_WANTED_S = 2.0  # so long after the last request pictures are still made
_CLOCKS_APART_S = 3600.0  # a stamp that is older than this is of another clock (simulated time, a host without one)


@dataclass
class _Camera:
    number: int = 0
    jpeg: bytes = b""
    received_s: float | None = None
    error: str = ""


@dataclass(frozen=True)
class Shown:
    """A picture for the page: ``number`` counts up, ``age_s`` is how long ago it was taken, as far as is known."""

    number: int
    age_s: float
    jpeg: bytes


class PictureStore:
    """Pictures between the thread that takes them and those that send them. Any thread."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._cameras: dict[str, _Camera] = {}
        self._new = threading.Condition()
        self._wanted_s = -_WANTED_S

    def is_wanted(self) -> bool:
        """Whether somebody looks."""
        return self._now_s() - self._wanted_s < _WANTED_S

    def add(self, camera: str) -> None:
        """A camera, before its first picture."""
        with self._new:
            self._cameras.setdefault(camera, _Camera())

    def put(self, camera: str, image: np.ndarray, age_s: float) -> None:
        """A picture, uint8 [H, W, 3] rgb, that was taken ``age_s`` ago."""
        jpeg = encode(image)
        with self._new:
            kept = self._cameras.setdefault(camera, _Camera())
            kept.number, kept.jpeg, kept.error = kept.number + 1, jpeg, ""
            kept.received_s = self._now_s() - age_s
            self._new.notify_all()

    def fail(self, camera: str, sentence: str) -> None:
        """A message came that cannot be shown; the picture before it ages."""
        with self._new:
            self._cameras.setdefault(camera, _Camera()).error = sentence

    def newer(self, after: Mapping[str, int], timeout_s: float) -> dict[str, Shown]:
        """Pictures with other numbers than those in ``after``; waits for one up to ``timeout_s``."""
        with self._new:
            self._wanted_s = self._now_s()
            self._new.wait_for(lambda: self._newer(after), timeout_s)
            self._wanted_s = now_s = self._now_s()
            return {name: Shown(c.number, max(now_s - (c.received_s or 0.0), 0.0), c.jpeg) for name, c in self._newer(after).items()}

    def _newer(self, after: Mapping[str, int]) -> dict[str, _Camera]:
        return {name: camera for name, camera in self._cameras.items() if camera.number != after.get(name, 0)}

    def to_dict(self) -> dict[str, dict[str, object]]:
        """What is known of each camera without its picture; ``age_s`` is null before the first."""
        with self._new:
            now_s = self._now_s()
            return {
                name: {
                    "number": c.number,
                    "age_s": None if c.received_s is None else round(max(now_s - c.received_s, 0.0), 3),
                    "error": c.error,
                }
                for name, c in self._cameras.items()
            }


def encode(image: np.ndarray) -> bytes:
    """JPEG of a picture, uint8 [H, W, 3] rgb, made smaller where a side is longer than 640 pixels.

    Raises:
        InputError: it cannot be encoded.
    """
    scale = MAX_SIDE / max(image.shape[:2])
    if scale < 1.0:
        size = (max(round(image.shape[1] * scale), 1), max(round(image.shape[0] * scale), 1))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    if not done:
        raise InputError(f"a picture of {image.shape[1]}x{image.shape[0]} pixels cannot be encoded", code="image_encoding")
    return data.tobytes()


def age_by_stamp_s(stamp_ns: int, now_ns: int) -> float:
    """How old a stamp says that a picture is, s; 0 where it says nothing: no stamp, the future, or another clock."""
    age_s = (now_ns - stamp_ns) * 1e-9
    return age_s if stamp_ns and 0.0 < age_s < _CLOCKS_APART_S else 0.0
