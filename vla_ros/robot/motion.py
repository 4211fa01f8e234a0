# SPDX-License-Identifier: Apache-2.0
"""Jerk-limited motion by Ruckig (Berscheid and Kroeger, arXiv 2105.04830): one call a control period, no state but the motion's."""

from __future__ import annotations

import numpy as np
from ruckig import ControlInterface, InputParameter, OutputParameter, Result, Ruckig, Synchronization

from vla_ros.core.errors import VlaError
from vla_ros.robot.description import JointLimits


class MotionError(VlaError):
    """The motion generator found no trajectory inside the limits."""


class RuckigMotion:
    """Follows targets inside velocity, acceleration and jerk limits. One thread only.

    ``position``, ``velocity`` and ``acceleration`` (shape [J]) are what is commanded at the end of the last period.
    """

    def __init__(self, limits: JointLimits, dt_s: float) -> None:
        self._limits = limits
        self._dt_s = dt_s
        size = len(limits.velocity)
        self._otg = Ruckig(size, dt_s)
        self._input = InputParameter(size)
        self._output = OutputParameter(size)
        self._input.max_velocity = limits.velocity.tolist()
        self._input.max_acceleration = limits.acceleration.tolist()
        self._input.max_jerk = limits.jerk.tolist()
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
        """Advances one period towards a moving target, which is clipped so that it can stop before a position limit."""
        limits = self._limits
        position = np.clip(target_position_J, limits.position_min, limits.position_max)
        self._input.control_interface = ControlInterface.Position
        self._input.target_position = position.tolist()
        self._input.target_velocity = self._stoppable(position, target_velocity_J).tolist()
        self._advance()

    def stop(self) -> None:
        """Advances one period of the fastest stop inside the acceleration and jerk limits."""
        self._input.control_interface = ControlInterface.Velocity
        self._input.target_velocity = [0.0] * len(self.position)
        self._advance()

    def _stoppable(self, position: np.ndarray, velocity: np.ndarray) -> np.ndarray:
        """Bounds the velocity at ``position``, so that run-up before it and braking after it both fit between the position limits."""
        limits = self._limits
        # Below the limit by a hair: Ruckig refuses a target velocity that needs a larger one on the way.
        top = 0.95 * limits.velocity
        room = np.minimum(limits.position_max - position, position - limits.position_min)
        # A target that is reached inside a period is passed at its velocity until the period ends.
        passed = self._dt_s * np.minimum(braking_speed(room, limits), top)
        fastest = np.minimum(braking_speed(np.maximum(room - passed, 0.0), limits), top)
        return np.clip(velocity, -fastest, fastest)

    def _advance(self) -> None:
        self._input.current_position = self.position.tolist()
        self._input.current_velocity = self.velocity.tolist()
        self._input.current_acceleration = self.acceleration.tolist()
        self._input.target_acceleration = [0.0] * len(self.position)
        self._otg.reset()  # else a target that has been passed is not turned back to, but left behind at its velocity
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
