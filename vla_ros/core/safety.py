# SPDX-License-Identifier: Apache-2.0
"""Status codes with a sentence each, and the pure checks behind them. Axes: J joints."""

from __future__ import annotations

from enum import Enum
from math import isfinite
from typing import Protocol

import numpy as np


class Level(Enum):
    """Severity; the values are those of ``diagnostic_msgs/DiagnosticStatus``."""

    OK = 0
    WARN = 1
    ERROR = 2


class StatusCode(Enum):
    """Why the robot does what it does. ``number`` is stable, for binary layouts."""

    INACTIVE = (0, Level.OK, "Not active: nothing is commanded.")
    IDLE = (1, Level.OK, "Waiting for an instruction.")
    ACTING = (2, Level.OK, "Following the instruction.")
    WAITING = (3, Level.OK, "Waiting for the policy's first actions.")
    TASK_DONE = (4, Level.OK, "The policy says that the task is done; waiting for the next instruction.")
    CHUNK_USED_UP = (5, Level.WARN, "The last actions are used up and no newer ones came: holding.")
    JOINTS_STALE = (6, Level.WARN, "Joint states are too old: holding.")
    WORKER_STALLED = (7, Level.WARN, "The inference worker does not answer: holding.")
    IMAGE_LOST = (8, Level.WARN, "A required camera image is missing or too old: holding.")
    CLOCK_JUMPED = (9, Level.WARN, "The clock jumped back: holding until fresh inputs come.")
    CLOCK_PAUSED = (10, Level.OK, "The clock stands still: waiting.")
    WORKSPACE = (11, Level.WARN, "The actions lead out of the workspace: holding.")
    LOW_CONFIDENCE = (12, Level.WARN, "The policy is not confident enough: holding.")
    MOTION_FAILED = (13, Level.WARN, "No motion inside the limits was found: holding.")
    E_STOP = (14, Level.ERROR, "Emergency stop: release it, then resume.")
    STOPPED = (15, Level.ERROR, "Stopped by request: resume to go on.")
    JOINT_JUMP = (16, Level.ERROR, "Joint states jump faster than the joints can move: check the source, then resume.")
    CHUNKS_REJECTED = (17, Level.ERROR, "The policy's answers were no valid actions several times in a row: resume to try again.")
    INVALID_COMMAND = (18, Level.ERROR, "A command outside the limits was computed and not sent: deactivate and activate again.")
    INTERNAL_ERROR = (19, Level.ERROR, "An internal error stopped the motion: deactivate and activate again, see the log.")
    JOINTS_FROZEN = (20, Level.WARN, "Joint states stay exactly the same although the robot is commanded to move.")
    INSTRUCTION_TOO_LONG = (21, Level.WARN, "The instruction does not fit the policy's context: send a shorter one.")
    INSTRUCTION_INVALID = (22, Level.WARN, "The instruction is not readable text: send another one.")
    SECOND_COMMANDER = (23, Level.ERROR, "Somebody else publishes commands to the robot.")
    SECOND_JOINT_SOURCE = (24, Level.ERROR, "More than one publisher sends joint states.")
    NO_SUBSCRIBER = (25, Level.WARN, "Nobody listens to the commands.")
    INFERENCE_FAILED = (26, Level.ERROR, "The inference back end fails: see the log.")
    IMAGE_FROZEN = (27, Level.WARN, "A camera sends the same picture again and again.")
    ARM_MOVED = (28, Level.ERROR, "The arm is not where it was left at rest: resume to go on from where it is.")
    COLLISION = (29, Level.WARN, "The actions lead the robot into itself or the table: holding.")

    def __init__(self, number: int, level: Level, sentence: str) -> None:
        self.number = number
        self.level = level
        self.sentence = sentence

    @classmethod
    def from_number(cls, number: int) -> StatusCode:
        """The code with this number.

        Raises:
            ValueError: no such code.
        """
        for code in cls:
            if code.number == number:
                return code
        raise ValueError(f"no status code has number {number}")


class JointLimits(Protocol):
    """Limits of all joints, float64 [J]: rad or m, per second, per second squared, per second cubed."""

    position_min: np.ndarray
    position_max: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray
    jerk: np.ndarray


# Relative slack of the final check: Ruckig's own tolerance is 1e-8, float64 sums over a period stay below 1e-6.
_RELATIVE = 1e-6
_ABSOLUTE = 1e-9
_KINDS = ("position", "velocity", "acceleration", "jerk", "step")


class CommandCheck:
    """The last guard: every command against every limit.

    Plain floats: for a handful of joints a call of numpy costs more than the check itself.

    Args:
        limits: of the joints.
        dt_s: control period.
    """

    def __init__(self, limits: JointLimits, dt_s: float) -> None:
        largest = (limits.velocity, limits.acceleration, limits.jerk * dt_s, limits.velocity * dt_s)
        bounds = (*(bound_J * (1.0 + _RELATIVE) + _ABSOLUTE for bound_J in largest), limits.position_min, limits.position_max, limits.velocity * dt_s * 1e-3)
        self._bounds_J = list(zip(*(bound_J.tolist() for bound_J in bounds)))

    def violation(self, before: tuple[np.ndarray, np.ndarray, np.ndarray], after: tuple[np.ndarray, np.ndarray, np.ndarray]) -> str | None:
        """What is wrong with a command, or None.

        Args:
            before: position, velocity and acceleration [J] of the last command.
            after: those of the command to check.
        """
        position_J, velocity_J, acceleration_J = after[0].tolist(), after[1].tolist(), after[2].tolist()
        if not all(map(isfinite, position_J + velocity_J + acceleration_J)):
            return "not finite"
        broken = set()
        joints = zip(self._bounds_J, before[0].tolist(), before[2].tolist(), position_J, velocity_J, acceleration_J)
        for (max_velocity, max_acceleration, max_change, max_step, lower, upper, slack), last, last_acceleration, position, velocity, acceleration in joints:
            outward = max(lower - position, position - upper)
            if outward > slack and outward > max(lower - last, last - upper):  # who is outside may only come back
                broken.add("position")
            if abs(velocity) > max_velocity:
                broken.add("velocity")
            if abs(acceleration) > max_acceleration:
                broken.add("acceleration")
            if abs(acceleration - last_acceleration) > max_change:
                broken.add("jerk")
            if abs(position - last) > max_step:
                broken.add("step")
        return min(broken, key=_KINDS.index, default=None)


def brake(position_J: np.ndarray, velocity_J: np.ndarray, limits: JointLimits, dt_s: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One period of the plainest stop, at the acceleration limit: the fallback when the motion generator fails.

    Returns:
        position, velocity and acceleration [J] at the end of the period; finite if the inputs are.
    """
    change_J = -np.sign(velocity_J) * np.minimum(np.abs(velocity_J), limits.acceleration * dt_s)
    next_J = np.clip(position_J + (velocity_J + 0.5 * change_J) * dt_s, limits.position_min, limits.position_max)
    return next_J, velocity_J + change_J, change_J / dt_s


def outside_limits(position_J: np.ndarray, limits: JointLimits, slack: float) -> np.ndarray:
    """Indices of joints farther than ``slack`` (rad or m) outside their position limits."""
    return np.flatnonzero((position_J < limits.position_min - slack) | (position_J > limits.position_max + slack))


def box_excess_m(point: np.ndarray, box_min: np.ndarray, box_max: np.ndarray) -> float:
    """How far a point [3] lies outside a box, m, largest over the axes; 0 inside."""
    return float(max(np.max(box_min - point), np.max(point - box_max), 0.0))
