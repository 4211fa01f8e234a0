# SPDX-License-Identifier: Apache-2.0
"""What joint_trajectory_controller does with a command, for the simulator: check, interpolate, time out. Must not import rclpy.

Follows ros2_controllers' rules: all joints named and no other, times increasing, not over already, at rest at the end; the spline is cubic
with velocities and linear without, from the desired state at the time of arrival. Unlike the original it also refuses values that are not
finite, and holds when nothing has come for a while.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from vla_ros.core.errors import InputError

_AT_REST = 0.01  # rad/s or m/s; ros2_controllers compares with epsilon, streams round


class TrajectoryFollower:
    """Follows the newest command of a set of joints. Not thread-safe. Times are in ns of one clock; arrays are [J] in ``joint_names``."""

    def __init__(
        self, joint_names: tuple[str, ...], max_acceleration_J: np.ndarray, position_J: np.ndarray, timeout_s: float = 0.5
    ) -> None:
        """Starts at rest at ``position_J``.

        Args:
            joint_names: order of every array.
            max_acceleration_J: bound of the stop after a timeout, rad/s^2 or m/s^2.
            position_J: rad or m.
            timeout_s: a stream that pauses longer is over: decelerate and hold.
        """
        self._names = joint_names
        self._max_acceleration_J = np.asarray(max_acceleration_J, dtype=np.float64)
        self._timeout_ns = round(timeout_s * 1e9)
        self.reset(position_J)

    def reset(self, position_J: np.ndarray) -> None:
        """Forgets the command and holds ``position_J``."""
        zero = np.zeros(len(self._names))
        self._position_J, self._velocity_J = np.array(position_J, dtype=np.float64), zero
        self._times_P = np.zeros(1)
        self._positions_PJ, self._velocities_PJ = self._position_J[None].copy(), zero[None].copy()
        self._received_ns: int | None = None
        self.timed_out = False

    def accept_trajectory(self, message: Any, now_ns: int) -> None:
        """Replaces the command by a trajectory_msgs/JointTrajectory.

        Raises:
            InputError: command_joints, command_points, command_sizes, command_not_finite, command_times, command_moving_end, command_past.
        """
        order = self._order(list(message.joint_names))
        if not message.points:
            raise InputError("trajectory has no points: send at least one", code="command_points")
        positions_PJ = self._rows([p.positions for p in message.points], order, "positions", required=True)
        velocities_PJ = self._rows([p.velocities for p in message.points], order, "velocities", required=False)
        offsets_ns = np.array([p.time_from_start.sec * 1_000_000_000 + p.time_from_start.nanosec for p in message.points], dtype=np.int64)
        if offsets_ns[0] < 0 or (np.diff(offsets_ns) <= 0).any():
            raise InputError(f"trajectory times must increase from 0 s on, found {(offsets_ns * 1e-9).tolist()}", code="command_times")
        if velocities_PJ is not None and np.abs(velocities_PJ[-1]).max() > _AT_REST:
            raise InputError(
                f"trajectory ends with velocities {np.round(velocities_PJ[-1], 4).tolist()}: end at rest", code="command_moving_end"
            )
        stamp_ns = message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec
        start_ns = stamp_ns or now_ns
        if start_ns + int(offsets_ns[-1]) < now_ns:
            raise InputError(
                f"trajectory ended {(now_ns - start_ns - int(offsets_ns[-1])) * 1e-9:.3f} s ago: stamp it 0 or with the present time",
                code="command_past",
            )
        self._begin(now_ns, start_ns + offsets_ns, positions_PJ, velocities_PJ)

    def accept_positions(self, values: Any, now_ns: int) -> None:
        """Replaces the command by a std_msgs/Float64MultiArray's data: one position each, to be held.

        Raises:
            InputError: command_sizes or command_not_finite.
        """
        positions_PJ = self._rows([values], np.arange(len(self._names)), "positions", required=True)
        self._begin(now_ns, np.array([now_ns], dtype=np.int64), positions_PJ, np.zeros_like(positions_PJ))

    def sample(self, now_ns: int) -> np.ndarray:
        """Returns the desired positions [J] at ``now_ns``; decelerates where the command has stopped coming."""
        if self._received_ns is not None and now_ns - self._received_ns > self._timeout_ns:
            self._stop(now_ns)
        self._position_J, self._velocity_J = self._interpolate(now_ns)
        return self._position_J

    def _begin(self, now_ns: int, times_ns: np.ndarray, positions_PJ: np.ndarray, velocities_PJ: np.ndarray | None) -> None:
        """Joins the points to the state desired now."""
        position_J, velocity_J = self._interpolate(now_ns)
        later = times_ns > now_ns
        if not later.any():  # a single point that is due now: take it over at once
            later[-1] = True
        start = now_ns if times_ns[later][0] > now_ns else int(times_ns[later][0]) - 1
        self._times_P = np.concatenate([[start], times_ns[later]])
        self._positions_PJ = np.vstack([position_J, positions_PJ[later]])
        self._velocities_PJ = None if velocities_PJ is None else np.vstack([velocity_J, velocities_PJ[later]])
        self._received_ns = now_ns
        self.timed_out = False

    def _interpolate(self, now_ns: int) -> tuple[np.ndarray, np.ndarray]:
        i = int(np.searchsorted(self._times_P, now_ns, side="right"))
        if i == 0 or i == len(self._times_P):
            edge = 0 if i == 0 else -1
            return self._positions_PJ[edge].copy(), np.zeros(len(self._names))
        span = (self._times_P[i] - self._times_P[i - 1]) * 1e-9
        s = (now_ns - self._times_P[i - 1]) * 1e-9 / span
        p0, p1 = self._positions_PJ[i - 1], self._positions_PJ[i]
        if self._velocities_PJ is None:
            return p0 + s * (p1 - p0), (p1 - p0) / span
        return _hermite(p0, p1, self._velocities_PJ[i - 1], self._velocities_PJ[i], span, s)

    def _stop(self, now_ns: int) -> None:
        """Replaces the command by the fastest stop inside the acceleration limits."""
        self._received_ns = None
        self.timed_out = True
        position_J, velocity_J = self._interpolate(now_ns)
        stop_s = float((np.abs(velocity_J) / self._max_acceleration_J).max())
        if stop_s == 0.0:
            return
        self._times_P = np.array([now_ns, now_ns + round(stop_s * 1e9)])
        self._positions_PJ = np.vstack([position_J, position_J + 0.5 * stop_s * velocity_J])
        self._velocities_PJ = np.vstack([velocity_J, np.zeros_like(velocity_J)])

    def _order(self, names: list[str]) -> np.ndarray:
        unknown = [n for n in names if n not in self._names]
        missing = [n for n in self._names if n not in names]
        if unknown or missing or len(names) != len(self._names):
            raise InputError(
                f"command must name each joint once; unknown: {', '.join(unknown)[:200] or 'none'}, "
                f"missing: {', '.join(missing) or 'none'}",
                code="command_joints",
            )
        return np.array([names.index(n) for n in self._names])

    def _rows(self, rows: list[Any], order: np.ndarray, what: str, *, required: bool) -> np.ndarray | None:
        count = len(self._names)
        if not required and all(len(row) == 0 for row in rows):
            return None
        if any(len(row) != count for row in rows):
            raise InputError(f"each point needs {count} {what}, found {[len(row) for row in rows][:10]}", code="command_sizes")
        array = np.array([np.asarray(row, dtype=np.float64) for row in rows])[:, order]
        if not np.isfinite(array).all():
            raise InputError(f"command's {what} are not finite", code="command_not_finite")
        return array


def _hermite(p0: np.ndarray, p1: np.ndarray, v0: np.ndarray, v1: np.ndarray, span_s: float, s: float) -> tuple[np.ndarray, np.ndarray]:
    """Cubic Hermite spline and its derivative at ``s`` in [0, 1] of a segment that lasts ``span_s``."""
    m0, m1 = v0 * span_s, v1 * span_s
    position = (1 + 2 * s) * (1 - s) ** 2 * p0 + s * (1 - s) ** 2 * m0 + s**2 * (3 - 2 * s) * p1 + s**2 * (s - 1) * m1
    slope = 6 * s * (1 - s) * (p1 - p0) + (1 - s) * (1 - 3 * s) * m0 + s * (3 * s - 2) * m1
    return position, slope / span_s
