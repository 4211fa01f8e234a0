# SPDX-License-Identifier: Apache-2.0
"""Measured joint positions, checked against what joints can do; never invented. Axes: J joints in the robot's order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vla_ros.core.errors import InputError


@dataclass(frozen=True, kw_only=True)
class JointMeasurement:
    """Positions at one moment.

    Attributes:
        stamp_ns: ROS clock.
        positions_J: float64, rad or m.
    """

    stamp_ns: int
    positions_J: np.ndarray


class JointMonitor:
    """Accepts measurements one by one and remembers the last good one.

    Args:
        max_velocity_J: velocity limits, rad/s or m/s.
        min_dt_s: shortest time between two measurements that the jump check assumes.
        velocity_factor: a joint may be measured this much faster than its limit (servo overshoot).
        slack: absolute allowance for noise, rad or m.
        gripper: index of the gripper's joint, which no velocity limit binds: a finger that pushes against an object with all its force and is let
            go springs faster than any command. Two measurements may differ by its whole range there.
    """

    def __init__(
        self, max_velocity_J: np.ndarray, *, min_dt_s: float, velocity_factor: float, slack: float, gripper: int | None = None
    ) -> None:
        self._max_velocity_J = max_velocity_J
        self._min_dt_s = min_dt_s
        self._factor = velocity_factor
        self._slack_J = np.full(max_velocity_J.shape, slack)
        if gripper is not None:
            self._slack_J[gripper] = np.inf
        self.reset()

    def reset(self) -> None:
        """Forgets everything; the next measurement is taken as it is."""
        self.latest: JointMeasurement | None = None
        self.jumps_in_a_row = 0

    def accept(self, stamp_ns: int, positions_J: np.ndarray) -> JointMeasurement:
        """Checks and keeps a measurement; the array is copied.

        Raises:
            InputError: ``joints_length``, ``joints_not_finite``, ``joints_old_stamp`` or ``joints_jump``.
        """
        positions_J = np.array(positions_J, dtype=np.float64)
        if positions_J.shape != self._max_velocity_J.shape:
            count = len(self._max_velocity_J)
            raise InputError(f"joint state needs {count} positions, got shape {positions_J.shape}", code="joints_length")
        if not np.isfinite(positions_J).all():
            raise InputError(f"joint positions are not finite: {positions_J}", code="joints_not_finite")
        if self.latest is not None:
            self._check_motion(self.latest, stamp_ns, positions_J)
        self.jumps_in_a_row = 0
        self.latest = JointMeasurement(stamp_ns=stamp_ns, positions_J=positions_J)
        return self.latest

    def _check_motion(self, last: JointMeasurement, stamp_ns: int, positions_J: np.ndarray) -> None:
        if stamp_ns < last.stamp_ns:
            raise InputError(f"joint state is {(last.stamp_ns - stamp_ns) * 1e-9:.3f} s older than the last one", code="joints_old_stamp")
        dt_s = max((stamp_ns - last.stamp_ns) * 1e-9, self._min_dt_s)
        allowed_J = self._max_velocity_J * (dt_s * self._factor) + self._slack_J
        jumped = np.flatnonzero(np.abs(positions_J - last.positions_J) > allowed_J)
        if jumped.size:
            self.jumps_in_a_row += 1
            raise InputError(f"joints {jumped.tolist()} moved farther than they can in {dt_s:.3f} s", code="joints_jump")
