# SPDX-License-Identifier: Apache-2.0
"""Jerk-limited motion by Ruckig (Berscheid and Kroeger, arXiv 2105.04830): one call a control period, no state but the motion's."""

from __future__ import annotations

import math

import numpy as np
from ruckig import ControlInterface, InputParameter, OutputParameter, Result, Ruckig, Synchronization, Trajectory

from vla_ros.core.errors import VlaError
from vla_ros.robot.description import JointLimits

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
        size = len(limits.velocity)
        bounds = (limits.position_min, limits.position_max, limits.velocity, limits.acceleration, limits.jerk)
        self._loops = [_PositionLoop(*row, limits.closing, limits.max_rate_1_s, dt_s) for row in zip(*(values.tolist() for values in bounds))]
        self._otg = Ruckig(size, dt_s)
        self._input = InputParameter(size)
        self._output = OutputParameter(size)
        self._stop_trajectory = Trajectory(size)
        self._input.control_interface = ControlInterface.Velocity
        self._input.max_velocity = limits.velocity.tolist()
        self._input.max_acceleration = limits.acceleration.tolist()
        self._input.max_jerk = limits.jerk.tolist()
        self._at_rest = [0.0] * size
        self._input.target_acceleration = self._at_rest
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
        states = zip(self._loops, self.position.tolist(), self.velocity.tolist(), target_position_J.tolist(), target_velocity_J.tolist())
        self._advance([loop.wanted_velocity(*state) for loop, *state in states])

    def stop(self) -> None:
        """Advances one period of the fastest stop inside the acceleration and jerk limits."""
        self._advance(self._at_rest)

    def stopping_path(self) -> np.ndarray:
        """Positions [N, J] on the way of the fastest stop from here, evenly spaced in time, the last one at rest. Advances nothing.

        Raises:
            MotionError: there is no such stop.
        """
        self._set_input(self._at_rest)
        result = self._otg.calculate(self._input, self._stop_trajectory)
        if result not in (Result.Working, Result.Finished):
            raise MotionError(f"no stop inside the limits from {self.position.tolist()} (Ruckig: {result})")
        duration_s, at_time = self._stop_trajectory.duration, self._stop_trajectory.at_time
        samples = max(math.ceil(duration_s / _PATH_STEP_S), 1)
        return np.array([at_time(duration_s * (sample / samples))[0] for sample in range(1, samples + 1)])

    def _set_input(self, velocity_J: list[float]) -> None:
        self._input.current_position = self.position.tolist()
        self._input.current_velocity = self.velocity.tolist()
        self._input.current_acceleration = self.acceleration.tolist()
        self._input.target_velocity = velocity_J

    def _advance(self, velocity_J: list[float]) -> None:
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


class _PositionLoop:
    """One joint's velocity towards a moving target. Plain floats, and roots only where they decide: this runs for every joint in every period."""

    def __init__(
        self, lower: float, upper: float, max_velocity: float, acceleration: float, jerk: float, closing: float, max_rate_1_s: float, dt_s: float
    ) -> None:
        self._lower, self._upper, self._dt_s = lower, upper, dt_s
        self._part, self._max_rate_1_s = closing, max_rate_1_s
        self._top_speed = 0.999 * max_velocity
        self._acceleration, self._jerk = acceleration, jerk
        self._near = _near_error(acceleration, jerk, closing, max_rate_1_s)
        self._wide = _wide_room(self._top_speed, acceleration, jerk, closing, max_rate_1_s)

    def wanted_velocity(self, position: float, velocity: float, target_position: float, target_velocity: float) -> float:
        """What to aim at, inside the velocity limit and slow enough to stop before either position limit."""
        lower, upper = self._lower, self._upper
        ahead = position + self._dt_s * velocity
        error = min(max(target_position, lower), upper) - ahead
        distance, room_up, room_down = abs(error), upper - ahead, ahead - lower
        closing = self._max_rate_1_s * distance if distance < self._near else self._closing_speed(distance)
        up = self._top_speed if room_up > self._wide else self._free_speed(room_up)
        down = self._top_speed if room_down > self._wide else self._free_speed(room_down)
        return min(max(target_velocity + (closing if error > 0.0 else -closing), -down), up)

    def _free_speed(self, room: float) -> float:
        return min(self._closing_speed(max(room, 0.0)), self._top_speed)

    def _closing_speed(self, distance: float) -> float:
        return min(self._max_rate_1_s * distance, self._part * braking_speed(distance, self._acceleration, self._jerk))


def braking_speed(distance: float, acceleration: float, jerk: float) -> float:
    """Largest speed from which a jerk-limited stop fits into ``distance``.

    From speed v the stop takes v^1.5 / sqrt(j) where the acceleration limit a is not reached (v < a^2 / j), else v^2 / 2a + v a / 2j.
    """
    corner_speed = acceleration * acceleration / jerk
    without_plateau = (distance * distance * jerk) ** (1.0 / 3.0)
    if without_plateau < corner_speed:
        return without_plateau
    half_corner = 0.5 * corner_speed
    return math.sqrt(half_corner * half_corner + 2.0 * acceleration * distance) - half_corner


def _near_error(acceleration: float, jerk: float, closing: float, max_rate_1_s: float) -> float:
    """A distance below which the rate decides the closing speed, and not the room to brake."""
    ratio = max_rate_1_s / closing
    return 0.999 * min(jerk / ratio**3, max(2.0 * acceleration / ratio**2 - acceleration**2 / (jerk * ratio), 0.0))


def _wide_room(top_speed: float, acceleration: float, jerk: float, closing: float, max_rate_1_s: float) -> float:
    """A distance to a position limit beyond which the limit slows nothing: rate and room to brake both allow ``top_speed`` there."""
    speed = top_speed / closing
    braking = max(speed * math.sqrt(speed / jerk), speed * (0.5 * speed / acceleration + 0.5 * acceleration / jerk))
    return 1.001 * max(top_speed / max_rate_1_s, braking)
