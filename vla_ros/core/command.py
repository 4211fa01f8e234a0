# SPDX-License-Identifier: Apache-2.0
"""Words of the control loop: its settings, what it is told at each tick, and what it answers. Axes: J joints, D action dimensions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vla_ros.core.errors import ConfigError
from vla_ros.core.safety import JointLimits, StatusCode
from vla_ros.core.states import ControlState
from vla_ros.core.takeover import Takeover
from vla_ros.core.window import TrajectoryWindow, stopping_window


@dataclass(frozen=True, kw_only=True)
class ControlConfig:
    """Settings of the loop.

    Attributes:
        period_ns: control period.
        max_joint_age_ns: oldest joint state, monotonic, before the robot holds.
        max_worker_age_ns: longest silence of the inference worker, monotonic, before the robot holds.
        max_clock_gap_ns: a ROS clock that stands still is carried on this long; smaller steps back are no jump.
        terminate_chunks: chunks in a row that must say "done" before the task ends.
        max_rejected_chunks: invalid answers in a row before the loop latches.
        min_confidence: smallest confidence of a chunk's next step, in [0, 1]; 0 switches the check off.
        jump_velocity_factor: a joint may be measured this many times faster than its velocity limit.
        jump_slack: allowance of the jump check, rad or m.
        joints_frozen_after_ns: identical joint states this long, while the command is elsewhere, raise a warning.
        joints_frozen_displacement: how far elsewhere, rad or m.
        limit_slack: how far outside its limits a joint may be measured when activating, rad or m.
        resume_slack: joints farther from their command than this start again from the measurement, rad or m; an arm at rest that moves by
            more was moved by somebody else.
        settle_ns: how long the arm may go on settling after its command has come to rest.
        workspace_margin_m: how far the command may leave the workspace; the robot brakes so early that its stop keeps this, too.
        blocked_brake_ns: how long the robot brakes before it tries again to follow a chunk that led into danger.
        max_blocked_ns: how much time it may lose so before it gives the chunk up and asks anew.
        takeover: how a new chunk takes over from the one before.
    """

    period_ns: int = 20_000_000
    max_joint_age_ns: int = 100_000_000
    max_worker_age_ns: int = 1_000_000_000
    max_clock_gap_ns: int = 100_000_000
    terminate_chunks: int = 2
    max_rejected_chunks: int = 3
    min_confidence: float = 0.0
    jump_velocity_factor: float = 1.5
    jump_slack: float = 0.01
    joints_frozen_after_ns: int = 1_000_000_000
    joints_frozen_displacement: float = 0.01
    limit_slack: float = 0.01
    resume_slack: float = 0.05
    settle_ns: int = 500_000_000
    workspace_margin_m: float = 0.01
    blocked_brake_ns: int = 100_000_000
    max_blocked_ns: int = 500_000_000
    takeover: Takeover = Takeover.PREFIX

    def __post_init__(self) -> None:
        for name in ("period_ns", "max_joint_age_ns", "max_worker_age_ns", "max_clock_gap_ns", "terminate_chunks", "max_rejected_chunks"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0.0 <= self.min_confidence < 1.0:
            raise ConfigError(f"min_confidence must be in [0, 1), got {self.min_confidence}")

    @property
    def period_s(self) -> float:
        """Control period, s."""
        return self.period_ns * 1e-9


@dataclass(frozen=True, kw_only=True)
class Watch:
    """What the surroundings know at this tick.

    Attributes:
        joint_age_ns: since the last accepted joint state was received, monotonic clock.
        worker_age_ns: since the worker last gave a sign of life, monotonic clock.
        hold: a reason from outside to hold (a lost required camera, a second commander), or None.
    """

    joint_age_ns: int = 0
    worker_age_ns: int = 0
    hold: StatusCode | None = None


@dataclass(frozen=True, kw_only=True)
class ControlOutput:
    """One control tick's result. Arrays are fresh; all values are finite.

    Attributes:
        stamp_ns: the time that the loop used, ROS clock; the command is due one period later.
        positions_J: command, rad or m.
        velocities_J: rad/s or m/s.
        accelerations_J: rad/s^2 or m/s^2.
        state: control state.
        code: why.
        warnings: further codes that do not change the motion.
        generation: the current generation.
        is_commanded: False before the first activation, once at rest after deactivation, latched with the arm moved away, and in the pause before
            a stream that begins elsewhere: send nothing, no last command either.
        task_done: the policy said so in enough chunks; stays True until the next instruction.
        action_D: the action of the step that the reference moves towards, None without one.
    """

    stamp_ns: int
    positions_J: np.ndarray
    velocities_J: np.ndarray
    accelerations_J: np.ndarray
    state: ControlState
    code: StatusCode
    warnings: tuple[StatusCode, ...]
    generation: int
    is_commanded: bool
    task_done: bool
    action_D: np.ndarray | None

    def to_window(self, dt_s: float, limits: JointLimits, num_stop_points: int = 3) -> TrajectoryWindow:
        """This command and a stop after it, for a joint_trajectory_controller."""
        return stopping_window(self.positions_J, self.velocities_J, dt_s, limits, num_stop_points)
