# SPDX-License-Identifier: Apache-2.0
"""A subscription that no executor serves: its reader takes the newest message when it wants one.

rclpy's executor spends a few hundred microseconds of Python on every message, under the interpreter lock that the control thread needs. A
stream that is read once a period anyway, or only when an inference is due, costs nothing here while nobody looks: with depth 1 the
middleware keeps the newest, and a flood of messages stays outside Python.
"""

from __future__ import annotations

from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.qos import QoSProfile


class _NeverExecuted(CallbackGroup):
    """Keeps its entities out of every executor's wait set."""

    def can_execute(self, entity: Any) -> bool:
        """Never."""
        return False

    def beginning_execution(self, entity: Any) -> bool:
        """Never."""
        return False

    def ending_execution(self, entity: Any) -> None:
        """Nothing to do."""


class PolledSubscription:
    """The newest message of a topic. :meth:`take` may be called from one thread, any one."""

    def __init__(self, node: Node, message_type: type, topic: str, profile: QoSProfile, *, raw: bool = False) -> None:
        """Subscribes; ``raw`` gives serialized bytes instead of messages."""
        self._node = node
        self._message_type = message_type
        self._raw = raw
        self._subscription = node.create_subscription(
            message_type, topic, lambda _: None, profile, raw=raw, callback_group=_NeverExecuted()
        )

    def take(self) -> Any | None:
        """Returns the newest message that was not taken before, or None."""
        with self._subscription.handle:
            taken = self._subscription.handle.take_message(self._message_type, self._raw)
        return None if taken is None else taken[0]

    def close(self) -> None:
        """Unsubscribes; nobody may take any more."""
        self._node.destroy_subscription(self._subscription)
