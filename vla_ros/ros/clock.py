# SPDX-License-Identifier: Apache-2.0
"""The ROS clock for a thread that no executor may hold up, and that does not jump with the system's clock.

rclpy moves a node's simulated time on in its executor: while a lifecycle callback waits there, time stands still, and a stop that is
measured in it never ends. Here the thread that wants the time takes the newest ``/clock`` itself.

The system's clock may be set while the robot moves. A chunk's steps are due by a time that goes on evenly, so without ``/clock`` the time
used is the monotonic clock, shifted once to the system's. Stamps of messages are compared with the system's clock as it is now, and
shifted likewise: a step of the clock changes both and cancels out.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from rclpy.node import Node
from rosgraph_msgs.msg import Clock

from vla_ros.core.errors import InputError
from vla_ros.ros import qos
from vla_ros.ros.polled import PolledSubscription
from vla_ros.ros.stamps import stamp_to_ns

_STEP_NS = 1_000_000  # NTP slews both clocks alike; two readings are microseconds apart, a preempted thread's a little more


class PolledClock:
    """The newest ``/clock`` where ``use_sim_time`` is set, else a steady time. One thread only.

    Attributes:
        offset_ns: of the steady time to the monotonic clock; clocks with the same offset agree, in other processes too.
        steps: how often the system's clock was set.
    """

    def __init__(
        self,
        node: Node,
        use_sim_time: bool,
        offset_ns: int | None = None,
        wall_ns: Callable[[], int] = time.time_ns,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Subscribes to ``/clock`` if it is used; without ``offset_ns`` the steady time begins as the system's."""
        self._subscription = PolledSubscription(node, Clock, "/clock", qos.SENSOR) if use_sim_time else None
        self._wall_ns, self._monotonic_ns = wall_ns, monotonic_ns
        self._wall_offset_ns = wall_ns() - monotonic_ns()
        self.offset_ns = self._wall_offset_ns if offset_ns is None else offset_ns
        if abs(self._wall_offset_ns - self.offset_ns) <= _STEP_NS:
            self._wall_offset_ns = self.offset_ns
        self.steps = 0
        self._now_ns = 0

    def now_ns(self) -> int:
        """The present time: by ``/clock`` (0 before the first), or steady."""
        if self._subscription is None:
            return self._monotonic_ns() + self.offset_ns
        with contextlib.suppress(InputError):  # a damaged message tells no time
            message = self._subscription.take()
            if message is not None:
                self._now_ns = stamp_to_ns(message.clock)
        return self._now_ns

    def ros_ns(self) -> int:
        """The time by which messages are stamped now: ``/clock`` as last read, or the system's."""
        if self._subscription is not None:
            return self._now_ns
        self._notice_step()
        return self._monotonic_ns() + self._wall_offset_ns

    def from_ros(self, stamp_ns: int) -> int:
        """A message's stamp in the time of :meth:`now_ns`; the same number as long as the system's clock has not been set."""
        return stamp_ns if self._subscription is not None else stamp_ns - (self._wall_offset_ns - self.offset_ns)

    def to_ros(self, time_ns: int) -> int:
        """The inverse of :meth:`from_ros`. Any thread."""
        return time_ns if self._subscription is not None else time_ns + (self._wall_offset_ns - self.offset_ns)

    def close(self) -> None:
        """Unsubscribes."""
        if self._subscription is not None:
            self._subscription.close()
            self._subscription = None

    def _notice_step(self) -> None:
        before_ns = self._monotonic_ns()
        wall_ns = self._wall_ns()
        after_ns = self._monotonic_ns()
        offset_ns = wall_ns - before_ns
        # A thread that loses its core between the readings sees an offset that is wrong by as much.
        if abs(offset_ns - self._wall_offset_ns) > _STEP_NS + (after_ns - before_ns):
            self._wall_offset_ns = offset_ns
            self.steps += 1
