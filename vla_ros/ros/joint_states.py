# SPDX-License-Identifier: Apache-2.0
"""sensor_msgs/JointState to arrays in the manifest's joint order. Must not import rclpy: it only reads the message's fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from vla_ros.core.errors import InputError


@dataclass(frozen=True, kw_only=True)
class JointSample:
    """Joints at one moment; arrays have shape [J] in the manifest's order, rad or m (and per second).

    Attributes:
        stamp_ns: when it was measured, by the ROS clock.
        velocity_is_derived: the message had no velocities; they are the difference of positions (zero for the first message).
    """

    stamp_ns: int
    positions_J: np.ndarray
    velocities_J: np.ndarray
    velocity_is_derived: bool


class JointStateReader:
    """Maps messages by name. Keeps the last sample for differentiating; one thread only."""

    def __init__(self, joint_names: tuple[str, ...]) -> None:
        self._joint_names = joint_names
        self._names_seen: tuple[str, ...] = ()
        self._index_J = np.zeros(0, dtype=np.intp)
        self._last: JointSample | None = None

    def reset(self) -> None:
        """Forgets the last sample, so that no velocity is derived across a gap."""
        self._last = None

    def read(self, message: Any, stamp_ns: int) -> JointSample:
        """Converts one message; joints that the manifest does not know are ignored.

        Args:
            message: sensor_msgs/JointState.
            stamp_ns: when it was measured (the header's stamp, or the receipt where that is zero).

        Raises:
            InputError: joint_missing, joint_twice, joint_lengths or joint_not_finite; the text names the joint.
        """
        index_J = self._index(tuple(message.name))
        count = len(message.name)
        self._check_lengths(message, count)
        positions_J = self._finite(np.asarray(message.position, dtype=np.float64)[index_J], "position")
        derived = len(message.velocity) == 0
        if derived:
            velocities_J = self._derived_velocity(positions_J, stamp_ns)
        else:
            velocities_J = self._finite(np.asarray(message.velocity, dtype=np.float64)[index_J], "velocity")
        self._last = JointSample(stamp_ns=stamp_ns, positions_J=positions_J, velocities_J=velocities_J, velocity_is_derived=derived)
        return self._last

    def _index(self, names: tuple[str, ...]) -> np.ndarray:
        if names != self._names_seen:  # drivers repeat the same names a hundred times a second
            self._index_J = self._lookup(names)
            self._names_seen = names
        return self._index_J

    def _lookup(self, names: tuple[str, ...]) -> np.ndarray:
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise InputError(
                f"joint state names {', '.join(twice)} more than once: every joint needs one publisher and one entry", code="joint_twice"
            )
        missing = [n for n in self._joint_names if n not in names]
        if missing:
            raise InputError(
                f"joint state lacks {', '.join(missing)}: it has {', '.join(names)[:200] or 'no joints'}", code="joint_missing"
            )
        return np.array([names.index(n) for n in self._joint_names], dtype=np.intp)

    def _check_lengths(self, message: Any, count: int) -> None:
        if len(message.position) != count:
            raise InputError(
                f"joint state has {count} names and {len(message.position)} positions: expected one each", code="joint_lengths"
            )
        if len(message.velocity) not in (0, count):
            raise InputError(
                f"joint state has {count} names and {len(message.velocity)} velocities: expected one each or none", code="joint_lengths"
            )

    def _finite(self, values_J: np.ndarray, what: str) -> np.ndarray:
        if not np.isfinite(values_J).all():
            bad = [f"{n}={v}" for n, v in zip(self._joint_names, values_J, strict=True) if not np.isfinite(v)]
            raise InputError(f"joint state's {what} is not finite: {', '.join(bad)}", code="joint_not_finite")
        return values_J

    def _derived_velocity(self, positions_J: np.ndarray, stamp_ns: int) -> np.ndarray:
        if self._last is None or stamp_ns <= self._last.stamp_ns:
            return np.zeros_like(positions_J)
        return (positions_J - self._last.positions_J) / ((stamp_ns - self._last.stamp_ns) * 1e-9)
