# SPDX-License-Identifier: Apache-2.0
"""The newest values that a running Gazebo has sent, for both of its transports, and how their messages are read."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from vla_ros.sim.gazebo.joints import Pose

RGB8 = 3  # of gazebo::common::Image::PixelFormat and of gz.msgs.PixelFormatType alike
ANSWER_S = 60.0  # a step of a few milliseconds that takes this long is a server that hangs, even on a machine that is busy


@dataclass(frozen=True)
class Picture:
    """One camera's newest picture, rgb8 uint8 [height, width, 3]; the stamp is simulated time."""

    stamp_ns: int
    rgb_HWC: np.ndarray


class NewestReadings:
    """What both kinds of Gazebo have. Callbacks write and any thread reads; writing wakes whoever waits.

    Attributes:
        time_ns: simulated time; -1 before the first message.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.time_ns = -1
        self._objects: dict[str, Pose] = {}
        self._pictures: dict[str, Picture] = {}

    def objects(self) -> dict[str, Pose]:
        """Pose of every movable model but the arm; one that has not moved since the start may be absent."""
        with self._changed:
            return dict(self._objects)

    def picture(self, camera: str) -> Picture | None:
        """The newest picture, None before the first."""
        return self._pictures.get(camera)

    def wait_for(self, condition: Callable[[], bool], what: str, timeout_s: float = ANSWER_S) -> None:
        """Waits until what arrives makes ``condition`` true.

        Raises:
            GazeboError: it did not in time, or Gazebo has ended.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not condition():
                self._raise_if_lost(what, timeout_s, is_late=time.monotonic() > deadline)
                self._changed.wait(0.1)

    def comes(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Waits a moment; says whether what arrived made ``condition`` true."""
        with self._changed:
            return self._changed.wait_for(condition, timeout_s)

    def _raise_if_lost(self, what: str, timeout_s: float, is_late: bool) -> None:
        """Raises GazeboError where waiting is in vain, with what to do about it."""
        raise NotImplementedError

    def _keep_picture(self, camera: str, stamp: Any, image: Any, pixel_format: int) -> None:
        """Takes an image message; one in another format than rgb8 is none of ours."""
        if pixel_format != RGB8:
            return
        rows = np.frombuffer(image.data, np.uint8).reshape(image.height, image.step)[:, : 3 * image.width]
        with self._changed:
            self._pictures[camera] = Picture(nanoseconds(stamp), rows.reshape(image.height, image.width, 3))
            self._changed.notify_all()


def nanoseconds(stamp: Any) -> int:
    """Of a ``Time`` message."""
    return stamp.sec * 1_000_000_000 + stamp.nsec


def pose_of(message: Any) -> Pose:
    """Of a ``Pose`` message."""
    p, q = message.position, message.orientation
    return np.array([p.x, p.y, p.z]), np.array([q.w, q.x, q.y, q.z])


def link_of(collision: str) -> str:
    """``model::link`` of ``model::link::collision``."""
    return collision.rpartition("::")[0]
