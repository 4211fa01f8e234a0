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
        """Bounds the velocity at ``position`` by braking distance: v^2 = a*d is half of what constant deceleration allows, for the jerk phase."""
        limits = self._limits
        up = np.sqrt(limits.acceleration * np.maximum(limits.position_max - position, 0.0))
        down = np.sqrt(limits.acceleration * np.maximum(position - limits.position_min, 0.0))
        # Below the limits by a hair: Ruckig refuses a target velocity that needs a larger one on the way.
        top = 0.95 * limits.velocity
        return np.clip(velocity, -np.minimum(down, top), np.minimum(up, top))

    def _advance(self) -> None:
        self._input.current_position = self.position.tolist()
        self._input.current_velocity = self.velocity.tolist()
        self._input.current_acceleration = self.acceleration.tolist()
        self._input.target_acceleration = [0.0] * len(self.position)
        result = self._otg.update(self._input, self._output)
        if result not in (Result.Working, Result.Finished):
            raise MotionError(f"no motion inside the limits from {self.position.tolist()} (Ruckig: {result})")
        self.position = np.array(self._output.new_position)
        self.velocity = np.array(self._output.new_velocity)
        self.acceleration = np.array(self._output.new_acceleration)
