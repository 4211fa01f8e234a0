# SPDX-License-Identifier: Apache-2.0
"""A command as a short window of trajectory points that ends at rest.

ros2_controllers' joint_trajectory_controller wants several stamped points, the last one at rest, and goes
on through the window if no newer one comes: the window's tail is therefore the robot's last stop.
Axes: R reference samples, N points, J joints.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class TrajectoryWindow:
    """Points of a trajectory, relative to the time of sending.

    Attributes:
        times_ns: int64 [N], increasing, the first one control period after sending.
        positions_NJ: rad or m.
        velocities_NJ: rad/s or m/s; the last row is zero.
    """

    times_ns: np.ndarray
    positions_NJ: np.ndarray
    velocities_NJ: np.ndarray


def stopping_window(
    positions_RJ: np.ndarray, velocities_RJ: np.ndarray, dt_s: float, max_acceleration_J: np.ndarray, num_stop_points: int = 3
) -> TrajectoryWindow:
    """The next commands, ``dt_s`` apart, and then a stop at constant deceleration common to all joints.

    The stop takes at least ``num_stop_points * dt_s`` and keeps every joint's deceleration inside its limit
    (position is quadratic in time, which a spline through position and velocity reproduces exactly).

    Args:
        positions_RJ: R >= 1 commands; the first is due one period after sending.
        velocities_RJ: their velocities.
        dt_s: control period.
        max_acceleration_J: rad/s^2 or m/s^2.
        num_stop_points: points of the stop, at least 2, so that the window has three or more.
    """
    positions_RJ, velocities_RJ = np.atleast_2d(positions_RJ), np.atleast_2d(velocities_RJ)
    position_J, velocity_J = positions_RJ[-1], velocities_RJ[-1]
    stop_s = max(float(np.max(np.abs(velocity_J) / max_acceleration_J)), num_stop_points * dt_s)
    times_s = np.linspace(0.0, stop_s, num_stop_points + 1)[1:, None]
    stop_positions = position_J + velocity_J * times_s * (1.0 - 0.5 * times_s / stop_s)
    stop_velocities = velocity_J * (1.0 - times_s / stop_s)
    stop_velocities[-1] = 0.0
    lead_s = np.arange(1, len(positions_RJ) + 1) * dt_s
    times_ns = np.rint(np.concatenate([lead_s, lead_s[-1] + times_s[:, 0]]) * 1e9).astype(np.int64)
    return TrajectoryWindow(
        times_ns=times_ns,
        positions_NJ=np.vstack([positions_RJ, stop_positions]),
        velocities_NJ=np.vstack([velocities_RJ, stop_velocities]),
    )
