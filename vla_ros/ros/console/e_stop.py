# SPDX-License-Identifier: Apache-2.0
"""Whose emergency stop it is. Must not import rclpy.

The topic ``e_stop`` has one state and may have several publishers: a button on the robot, and this page. The page's resume may release what
the page has pressed, and never what somebody else has.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from vla_ros.core.errors import InputError

_ECHO_S = 1.0  # a message of our own that has not come back by then was lost


class EStopLedger:
    """Keeps apart what was published here and what others published. Any thread.

    Attributes:
        pressed_here: this page pressed, and has not released.
        pressed_elsewhere: what others said last; None while they have said nothing.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self.pressed_here = False
        self.pressed_elsewhere: bool | None = None
        self._own: deque[tuple[bool, float]] = deque(maxlen=64)
        self._now_s = now_s
        self._lock = threading.Lock()

    def sends(self, pressed: bool) -> None:
        """This page is about to publish ``pressed``."""
        with self._lock:
            self._own.append((pressed, self._now_s()))
            self.pressed_here = pressed

    def heard(self, pressed: bool) -> None:
        """A message came on the topic, possibly one of our own: subscribers hear their own node too."""
        with self._lock:
            now_s = self._now_s()
            while self._own and now_s - self._own[0][1] > _ECHO_S:
                self._own.popleft()
            own = next((entry for entry in self._own if entry[0] == pressed), None)
            if own is not None:
                self._own.remove(own)
            else:
                self.pressed_elsewhere = pressed

    def found_pressed(self) -> None:
        """The node was in an emergency stop that this page had not pressed."""
        with self._lock:
            if not self.pressed_here and self.pressed_elsewhere is None:
                self.pressed_elsewhere = True

    def may_release(self, other_publishers: int) -> bool:
        """Whether a resume may publish the release.

        Args:
            other_publishers: of the topic, at present. Where there is none, whoever pressed is gone, such as an earlier console.

        Returns:
            False where nothing of ours is pressed: then the node itself knows whether it may go on.

        Raises:
            InputError: somebody else keeps it pressed.
        """
        with self._lock:
            if other_publishers <= 0:
                return True
            if self.pressed_elsewhere:
                raise InputError("the emergency stop is pressed elsewhere: release it there, then resume", code="e_stop_elsewhere")
            return self.pressed_here
