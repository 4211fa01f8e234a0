# SPDX-License-Identifier: Apache-2.0
"""The last guard before the robot: follows references by a motion generator and lets nothing outside the limits through."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from typing import Protocol

import numpy as np

from vla_ros.core.errors import InputError, VlaError
from vla_ros.core.safety import CommandCheck, JointLimits, StatusCode, brake

AT_REST = 1e-6  # rad/s or m/s; a hair above what a finished stop leaves by rounding


class PathBlocked(VlaError):
    """From where the motion would be, a stop would lead into something; ``code`` says into what."""

    def __init__(self, code: StatusCode) -> None:
        super().__init__(code.sentence)
        self.code = code


class MotionGenerator(Protocol):
    """Motion inside velocity, acceleration and jerk limits; each call advances one control period.

    ``position``, ``velocity`` and ``acceleration`` [J] are what is commanded at the end of the last period. They may be set: that is
    how a period is taken back.
    """

    position: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray

    def reset(self, position_J: np.ndarray) -> None:
        """Starts at rest at ``position_J``."""

    def track(self, target_position_J: np.ndarray, target_velocity_J: np.ndarray) -> None:
        """Advances one period towards a moving target."""

    def stop(self) -> None:
        """Advances one period of a stop."""

    def stopping_path(self) -> np.ndarray:
        """Positions [N, J] on the way of a stop that begins now: evenly spaced in time, the last one at rest. Advances nothing."""


class CommandGuard:
    """Owns the motion generator and the last command. One thread only.

    ``last`` is the commanded position, velocity and acceleration, each float64 [J]. After a fault the guard brakes
    by itself, at the acceleration limit, until it is restarted.
    """

    def __init__(self, motion: MotionGenerator, limits: JointLimits, period_s: float) -> None:
        self._motion = motion
        self._limits = limits
        self._check = CommandCheck(limits, period_s)
        self._period_s = period_s
        self._is_healthy = False
        zeros = np.zeros_like(limits.velocity)
        self.last = (zeros, zeros, zeros)

    @property
    def is_at_rest(self) -> bool:
        """Whether the command stands still."""
        return bool(np.abs(self.last[1]).max() < AT_REST)

    def stopping_point(self) -> np.ndarray:
        """Where a jerk-limited stop that begins after one more period would end at the latest, [J].

        An acceleration along the motion first has to fade, then from speed v the stop takes v^2 / 2a + v a / 2j.
        """
        position_J, velocity_J, acceleration_J = self.last
        limits = self._limits
        direction_J = np.sign(velocity_J)
        fading_s_J = np.maximum(acceleration_J * direction_J, 0.0) / limits.jerk
        peak_J = np.abs(velocity_J) + 0.5 * limits.jerk * fading_s_J**2
        distance_J = peak_J * (self._period_s + fading_s_J + peak_J / (2.0 * limits.acceleration) + limits.acceleration / (2.0 * limits.jerk))
        return np.clip(position_J + direction_J * distance_J, limits.position_min, limits.position_max)

    def restart(self, measured_J: np.ndarray, slack: float) -> None:
        """At rest, starts joints that are farther than ``slack`` (rad or m) from their command at the measurement.

        The others keep their command, so that a closed gripper does not loosen its grip. A motion that is still
        stopping goes on. A negative ``slack`` means every joint.

        Raises:
            InputError: ``still_moving`` while braking after a fault.
        """
        if not self.is_at_rest:
            if self._is_healthy:
                return
            raise InputError("the robot is still braking: wait until it has stopped", code="still_moving")
        limits = self._limits
        measured_J = np.clip(measured_J, limits.position_min, limits.position_max)
        start_J = np.where(np.abs(measured_J - self.last[0]) > slack, measured_J, self.last[0])
        self._motion.reset(start_J)
        self.last = (start_J, np.zeros_like(start_J), np.zeros_like(start_J))
        self._is_healthy = True

    def follow(
        self, reference: tuple[np.ndarray, np.ndarray], danger: Callable[[np.ndarray], StatusCode | None] = lambda _: None
    ) -> str | None:
        """Advances one period towards a position [J] and velocity [J], clipped into the limits.

        Only a state from which a stop stays clear of danger is ever commanded: whatever makes the robot stop later, the way is free.

        Args:
            reference: where to be at the end of the period.
            danger: what the positions [N, J] of a stopping path lead into, or None.

        Returns:
            What is wrong (then the guard brakes), or None.

        Raises:
            PathBlocked: the stop after this period would lead into something; nothing has advanced.
            VlaError: the generator found no motion; nothing has advanced.
        """
        limits, motion = self._limits, self._motion
        before = (motion.position, motion.velocity, motion.acceleration)
        motion.track(
            np.minimum(np.maximum(reference[0], limits.position_min), limits.position_max),
            np.minimum(np.maximum(reference[1], -limits.velocity), limits.velocity),
        )
        if self._is_sane():
            try:
                self._check_path(danger)
            except VlaError:
                motion.position, motion.velocity, motion.acceleration = before
                raise
        return self._take()

    def stop(self) -> str | None:
        """Advances one period of a stop; returns what is wrong, or None."""
        if not self._is_healthy:
            self.brake()
            return None
        try:
            self._motion.stop()
        except VlaError as error:
            self.brake()
            return type(error).__name__
        return self._take()

    def brake(self) -> None:
        """Advances one period of the plainest stop, without the generator, from now on."""
        self._is_healthy = False
        self.last = brake(self.last[0], self.last[1], self._limits, self._period_s)

    def _check_path(self, danger: Callable[[np.ndarray], StatusCode | None]) -> None:
        code = danger(np.concatenate((self._motion.position[None], self._motion.stopping_path())))
        if code is not None:
            raise PathBlocked(code)

    def _is_sane(self) -> bool:
        motion = self._motion
        return all(map(isfinite, motion.position.tolist() + motion.velocity.tolist() + motion.acceleration.tolist()))

    def _take(self) -> str | None:
        motion = self._motion
        command = tuple(np.array(array, dtype=np.float64) for array in (motion.position, motion.velocity, motion.acceleration))
        fault = self._check.violation(self.last, command)
        if fault is None:
            self.last = command
        else:
            self.brake()
        return fault
