# SPDX-License-Identifier: Apache-2.0
"""A subscription that no executor serves: its reader takes the newest message when it wants one.

rclpy's executor spends a few hundred microseconds of Python on every message, under the interpreter lock that the control thread needs. A
stream that is read once a period anyway, or only when an inference is due, costs nothing here while nobody looks: with depth 1 the
middleware keeps the newest, and a flood of messages stays outside Python.
"""

from __future__ import annotations

import time
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.qos import QoSProfile

from vla_ros.core.errors import InputError

RCLError = rclpy_implementation.RCLError


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
    """The messages of a topic, the oldest kept one first. :meth:`take` may be called from one thread, any one.

    Attributes:
        waited_ns: how long ago, at most, the message that was taken last had arrived. A reader that has not looked for an hour may be given
            a message of an hour ago, and one without a stamp does not show its age.
    """

    def __init__(self, node: Node, message_type: type, topic: str, profile: QoSProfile, *, raw: bool = False) -> None:
        """Subscribes; ``raw`` gives serialized bytes instead of messages."""
        self._node = node
        self._message_type = message_type
        self._raw = raw
        self._looked_ns = time.monotonic_ns()
        self.waited_ns = 0
        self._subscription = node.create_subscription(
            message_type, topic, lambda _: None, profile, raw=raw, callback_group=_NeverExecuted()
        )

    def take(self) -> Any | None:
        """Returns the oldest message that is kept and was not taken before, or None; with depth 1 that is the newest.

        Raises:
            InputError: message_damaged: its bytes are no message of this type.
        """
        try:
            with self._subscription.handle:
                taken = self._subscription.handle.take_message(self._message_type, self._raw)
        except (RCLError, ValueError, MemoryError) as error:  # ValueError: text in it is no UTF-8
            raise InputError(f"a message of {self._subscription.topic_name} cannot be read: {error}", code="message_damaged") from error
        last_ns, self._looked_ns = self._looked_ns, time.monotonic_ns()
        if taken is None:
            return None
        message, information = taken
        self.waited_ns = self._waited_ns(information, self._looked_ns - last_ns)
        return message

    @staticmethod
    def _waited_ns(information: Any, since_last_look_ns: int) -> int:
        """By the middleware's receipt (wall clock), which some middlewares leave at zero; it arrived after the last look in any case."""
        received_ns = information["received_timestamp"]
        by_receipt_ns = time.time_ns() - received_ns if received_ns > 0 else since_last_look_ns
        return min(max(by_receipt_ns, 0), since_last_look_ns)

    def close(self) -> None:
        """Unsubscribes; nobody may take any more."""
        self._node.destroy_subscription(self._subscription)
