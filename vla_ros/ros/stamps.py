# SPDX-License-Identifier: Apache-2.0
"""Decides from a message's stamp whether it is used. Must not import rclpy."""

from __future__ import annotations

from typing import Any

from vla_ros.core.errors import InputError

_NS = 1_000_000_000


def stamp_to_ns(stamp: Any) -> int:
    """builtin_interfaces/Time to integer nanoseconds."""
    return stamp.sec * _NS + stamp.nanosec


def checked_stamp(stamp_ns: int, now_ns: int, *, max_age_ns: int, max_future_ns: int, waited_ns: int = 0) -> int:
    """Returns when a message was measured, or when it arrived where its stamp is zero (the caller counts those).

    Args:
        stamp_ns: the header's stamp.
        now_ns: the receiver's ROS clock.
        max_age_ns: older ones are refused.
        max_future_ns: tolerance for clocks that differ between machines and for a sparse /clock.
        waited_ns: how long ago it arrived.

    Raises:
        InputError: stamp_old or stamp_future.
    """
    stamp_ns = stamp_ns or now_ns - waited_ns
    age_ns = now_ns - stamp_ns
    if age_ns > max_age_ns:
        raise InputError(
            f"stamp is {age_ns / _NS:.3f} s old, at most {max_age_ns / _NS:.3f} s are allowed: check the clocks and the load",
            code="stamp_old",
        )
    if -age_ns > max_future_ns:
        raise InputError(
            f"stamp is {-age_ns / _NS:.3f} s ahead, at most {max_future_ns / _NS:.3f} s are allowed: synchronise the clocks",
            code="stamp_future",
        )
    return stamp_ns
