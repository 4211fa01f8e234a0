# SPDX-License-Identifier: Apache-2.0
"""A command as a short window of trajectory points that ends at rest.

ros2_controllers' joint_trajectory_controller wants several stamped points, the last one at rest, and goes
on through the window if no newer one comes: the window's tail is therefore the robot's last stop.
Axes: R reference samples, N points, J joints.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vla_ros.core.safety import JointLimits


_SHORTEST_S = 1e-3  # between two points


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
    positions_RJ: np.ndarray, velocities_RJ: np.ndarray, dt_s: float, limits: JointLimits, num_stop_points: int = 3
) -> TrajectoryWindow:
    """The next commands, ``dt_s`` apart, and then a stop at constant deceleration.

    All joints take the time of the slowest, at least ``num_stop_points * dt_s``, each inside its acceleration limit (position is quadratic
    in time, which a spline through position and velocity reproduces exactly). A joint that would run past a position limit in that time
    comes to rest at the limit instead, earlier than the others.

    Args:
        positions_RJ: R >= 1 commands inside the position limits; the first is due one period after sending.
        velocities_RJ: their velocities.
        dt_s: control period.
        limits: of the joints.
        num_stop_points: points of the stop, at least 2, so that the window has three or more.
    """
    positions_RJ, velocities_RJ = np.atleast_2d(positions_RJ), np.atleast_2d(velocities_RJ)
    position_J, velocity_J = positions_RJ[-1], velocities_RJ[-1]
    times_s, stop_positions, stop_velocities = _stop(position_J, velocity_J, limits, num_stop_points, num_stop_points * dt_s)
    lead_s = np.arange(1, len(positions_RJ) + 1) * dt_s
    times_ns = np.rint(np.concatenate([lead_s, lead_s[-1] + times_s]) * 1e9).astype(np.int64)
    return TrajectoryWindow(
        times_ns=times_ns,
        positions_NJ=np.concatenate([positions_RJ, stop_positions]),
        velocities_NJ=np.concatenate([velocities_RJ, stop_velocities]),
    )


def _stop(
    position_J: np.ndarray, velocity_J: np.ndarray, limits: JointLimits, num_points: int, shortest_s: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times [P], positions [P, J] and velocities [P, J] of the stop.

    A cubic from speed v to rest over the distance d within h never passes its end while v h <= 3 d (Fritsch and Carlson 1980). So that this
    holds for a joint that comes to rest between two points, the first point is not later than its rest, and at the others it is slower.
    """
    speed_J = np.abs(velocity_J)
    stop_s = max(float(np.max(speed_J / limits.acceleration)), shortest_s)
    room_J = np.where(velocity_J > 0.0, limits.position_max - position_J, position_J - limits.position_min)
    distance_J = np.minimum(0.5 * speed_J * stop_s, np.maximum(room_J, 0.0))
    moves_J = (speed_J > 0.0) & (distance_J > 0.0)
    moving_s_J = np.where(moves_J, 2.0 * distance_J / np.where(moves_J, speed_J, 1.0), stop_s)  # at constant deceleration
    times_s = _stop_times(stop_s, float(moving_s_J.min()), num_points)
    left = np.maximum(1.0 - times_s[:, None] / moving_s_J, 0.0) * moves_J
    left[-1] = 0.0
    next_s = np.append(times_s[1:], 2.0 * stop_s)
    speeds = np.minimum(speed_J * left, 3.0 * distance_J * left**2 / (next_s - times_s)[:, None])
    direction_J = np.sign(velocity_J)
    return times_s, position_J + direction_J * distance_J * (1.0 - left**2), direction_J * speeds


def _stop_times(stop_s: float, first_rest_s: float, num_points: int) -> np.ndarray:
    """Even up to ``stop_s``, unless a joint would be at rest well before the first of them."""
    if 1.5 * first_rest_s >= stop_s / num_points:
        return np.arange(1, num_points + 1) * (stop_s / num_points)  # five times as fast as linspace, and this runs every period
    first_s = max(first_rest_s, _SHORTEST_S)
    return first_s + np.arange(num_points) * ((stop_s - first_s) / (num_points - 1))
