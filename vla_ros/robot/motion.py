# SPDX-License-Identifier: Apache-2.0
"""Jerk-limited motion by Ruckig (Berscheid and Kroeger, arXiv 2105.04830): one call a control period, no state but the motion's."""

from __future__ import annotations

import math

import numpy as np
from ruckig import ControlInterface, InputParameter, OutputParameter, Result, Ruckig, Synchronization, Trajectory

from vla_ros.core.errors import VlaError
from vla_ros.robot.description import JointLimits

# The position loop closes an error at this part of the speed from which a jerk-limited stop would just fit (1 is Ruckig's own
# time-optimal motion, which swings about a target that moves), and near zero at this rate, slow against the control rate.
_CLOSING = 0.35
_MAX_RATE_1_S = 12.0
_PATH_STEP_S = 0.0375  # between two samples of a stop; at 2 m/s^2 the tool strays from their chord by 0.4 mm


class MotionError(VlaError):
    """The motion generator found no trajectory inside the limits."""


class RuckigMotion:
    """Follows targets inside velocity, acceleration and jerk limits. One thread only.

    A moving target is followed by a position loop around Ruckig's velocity interface. Aiming at the target's position and velocity in
    the shortest time, as Ruckig's position interface does, reaches where the target was, overshoots and swings: on a sine of 0.4 rad/s
    the error was 0.03 rad and the jerk 30 times the target's; here it is 0.0001 rad and the target's own jerk.

    ``position``, ``velocity`` and ``acceleration`` (shape [J]) are what is commanded at the end of the last period.
    """

    def __init__(self, limits: JointLimits, dt_s: float) -> None:
        self._limits = limits
        self._top_J = 0.999 * limits.velocity
        self._dt_s = dt_s
        size = len(limits.velocity)
        self._otg = Ruckig(size, dt_s)
        self._input = InputParameter(size)
        self._output = OutputParameter(size)
        self._stop_trajectory = Trajectory(size)
        self._input.control_interface = ControlInterface.Velocity
        self._input.max_velocity = limits.velocity.tolist()
        self._input.max_acceleration = limits.acceleration.tolist()
        self._input.max_jerk = limits.jerk.tolist()
        self._input.target_acceleration = [0.0] * size
        self._input.synchronization = Synchronization.No
        self.position = np.zeros(size)
        self.velocity = np.zeros(size)
        self.acceleration = np.zeros(size)

    def reset(self, position_J: np.ndarray) -> None:
        """Starts at rest at ``position_J``."""
        self.position = np.array(position_J, dtype=np.float64)
        self.velocity = np.zeros_like(self.position)
        self.acceleration = np.zeros_like(self.position)

    def track(self, target_position_J: np.ndarray, target_velocity_J: np.ndarray) -> None:
        """Advances one period towards where the target is at its end; the velocity always leaves room to stop before a position limit."""
        limits = self._limits
        target_J = np.minimum(np.maximum(target_position_J, limits.position_min), limits.position_max)
        ahead_J = self.position + self._dt_s * self.velocity
        error_J = target_J - ahead_J
        room_up_J, room_down_J = np.maximum(limits.position_max - ahead_J, 0.0), np.maximum(ahead_J - limits.position_min, 0.0)
        closing_J, up_J, down_J = self._closing_speed(np.array([np.abs(error_J), room_up_J, room_down_J]))
        wanted_J = target_velocity_J + np.sign(error_J) * closing_J
        self._advance(np.minimum(np.maximum(wanted_J, -np.minimum(down_J, self._top_J)), np.minimum(up_J, self._top_J)))

    def stop(self) -> None:
        """Advances one period of the fastest stop inside the acceleration and jerk limits."""
        self._advance(np.zeros_like(self.position))

    def stopping_path(self) -> np.ndarray:
        """Positions [N, J] on the way of the fastest stop from here, evenly spaced in time, the last one at rest. Advances nothing.

        Raises:
            MotionError: there is no such stop.
        """
        self._set_input(np.zeros_like(self.position))
        result = self._otg.calculate(self._input, self._stop_trajectory)
        if result not in (Result.Working, Result.Finished):
            raise MotionError(f"no stop inside the limits from {self.position.tolist()} (Ruckig: {result})")
        duration_s, at_time = self._stop_trajectory.duration, self._stop_trajectory.at_time
        samples = max(math.ceil(duration_s / _PATH_STEP_S), 1)
        return np.array([at_time(duration_s * (sample / samples))[0] for sample in range(1, samples + 1)])

    def _closing_speed(self, distance_J: np.ndarray) -> np.ndarray:
        return np.minimum(_MAX_RATE_1_S * distance_J, _CLOSING * braking_speed(distance_J, self._limits))

    def _set_input(self, velocity_J: np.ndarray) -> None:
        self._input.current_position = self.position.tolist()
        self._input.current_velocity = self.velocity.tolist()
        self._input.current_acceleration = self.acceleration.tolist()
        self._input.target_velocity = velocity_J.tolist()

    def _advance(self, velocity_J: np.ndarray) -> None:
        self._set_input(velocity_J)
        # Otherwise Ruckig goes on along its last trajectory while the target stays: the next state would depend on more than this one (a
        # recording could not be repeated from it), and at rest what rounding left of velocity and acceleration would be carried on.
        self._otg.reset()
        result = self._otg.update(self._input, self._output)
        if result not in (Result.Working, Result.Finished):
            raise MotionError(f"no motion inside the limits from {self.position.tolist()} (Ruckig: {result})")
        self.position = np.array(self._output.new_position)
        self.velocity = np.array(self._output.new_velocity)
        self.acceleration = np.array(self._output.new_acceleration)


def braking_speed(distance_J: np.ndarray, limits: JointLimits) -> np.ndarray:
    """Largest speed from which a jerk-limited stop fits into ``distance_J``, per joint.

    From speed v the stop takes v^1.5 / sqrt(j) where the acceleration limit a is not reached (v < a^2 / j), else v^2 / 2a + v a / 2j.
    """
    a, j = limits.acceleration, limits.jerk
    half_corner = a * a / (2.0 * j)
    without_plateau = np.cbrt(distance_J**2 * j)
    with_plateau = np.sqrt(half_corner**2 + 2.0 * a * distance_J) - half_corner
    return np.where(without_plateau < 2.0 * half_corner, without_plateau, with_plateau)
