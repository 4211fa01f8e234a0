# SPDX-License-Identifier: Apache-2.0
"""The ROS clock for a thread that no executor may hold up.

rclpy moves a node's simulated time on in its executor: while a lifecycle callback waits there, time stands still, and a stop that is
measured in it never ends. Here the thread that wants the time takes the newest ``/clock`` itself.
"""

from __future__ import annotations

import time

from rclpy.node import Node
from rosgraph_msgs.msg import Clock

from vla_ros.ros import qos
from vla_ros.ros.polled import PolledSubscription
from vla_ros.ros.stamps import stamp_to_ns


class PolledClock:
    """ROS time: the system's, or the newest ``/clock`` where ``use_sim_time`` is set. One thread only."""

    def __init__(self, node: Node, use_sim_time: bool) -> None:
        """Subscribes to ``/clock`` if it is used."""
        self._subscription = PolledSubscription(node, Clock, "/clock", qos.SENSOR) if use_sim_time else None
        self._now_ns = 0

    def now_ns(self) -> int:
        """The present ROS time; 0 before the first ``/clock``."""
        if self._subscription is None:
            return time.time_ns()
        message = self._subscription.take()
        if message is not None:
            self._now_ns = stamp_to_ns(message.clock)
        return self._now_ns

    def close(self) -> None:
        """Unsubscribes."""
        if self._subscription is not None:
            self._subscription.close()
            self._subscription = None
