# SPDX-License-Identifier: Apache-2.0
"""Test doubles of the core, shipped so that other rooms and users can test against them: limits, a motion generator, chunks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vla_ros.core.chunk import ActionChunk

PERIOD_NS = 20_000_000
DT_NS = 200_000_000
J = 3


@dataclass
class Limits:
    position_min: np.ndarray
    position_max: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray
    jerk: np.ndarray


def make_limits() -> Limits:
    return Limits(np.full(J, -1.0), np.full(J, 1.0), np.full(J, 1.0), np.full(J, 5.0), np.full(J, 1e4))


class FakeMotion:
    """Velocity- and acceleration-limited tracking: enough of a motion generator for the loop's logic."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.dt_s = PERIOD_NS * 1e-9
        self.fail_with: Exception | None = None
        self.poison = False
        self.reset(np.zeros(J))

    def reset(self, position_J: np.ndarray) -> None:
        self.position = np.array(position_J)
        self.velocity = np.zeros(J)
        self.acceleration = np.zeros(J)

    def track(self, target_position_J: np.ndarray, target_velocity_J: np.ndarray) -> None:
        if self.fail_with is not None:
            raise self.fail_with
        error_J = target_position_J - self.position
        self._advance(target_velocity_J + 5.0 * error_J)
        if self.poison:
            self.position = np.full(J, np.nan)

    def stop(self) -> None:
        self._advance(np.zeros(J))

    def stopping_path(self) -> np.ndarray:
        stop_s_J = np.abs(self.velocity) / self.limits.acceleration
        times_s = np.linspace(0.0, float(stop_s_J.max()), 9)[1:, None]
        moving_s_NJ = np.minimum(times_s, stop_s_J)
        return self.position + moving_s_NJ * (self.velocity - 0.5 * np.sign(self.velocity) * self.limits.acceleration * moving_s_NJ)

    def _advance(self, wanted_J: np.ndarray) -> None:
        wanted_J = np.clip(wanted_J, -self.limits.velocity, self.limits.velocity)
        bound_J = self.limits.acceleration * self.dt_s
        change_J = np.clip(wanted_J - self.velocity, -bound_J, bound_J)
        self.position = self.position + (self.velocity + 0.5 * change_J) * self.dt_s
        self.velocity = self.velocity + change_J
        self.acceleration = change_J / self.dt_s


def make_chunk(obs_ns: int, generation: int, waypoints=None, *, done: bool = False, confidence: float = 1.0, steps: int = 5) -> ActionChunk:
    """A chunk that moves every joint by 0.05 rad a step from zero, unless waypoints [H, J] are given."""
    if waypoints is None:
        waypoints = np.repeat(0.05 * np.arange(1, steps + 1)[:, None], J, axis=1)
    steps = len(waypoints)
    return ActionChunk(
        obs_stamp_ns=obs_ns,
        generation=generation,
        dt_ns=DT_NS,
        actions_HD=np.arange(steps * 2, dtype=np.float64).reshape(steps, 2),
        tokens_HD=np.zeros((steps, 2), dtype=np.int32),
        confidence_HD=np.full((steps, 2), confidence, dtype=np.float32),
        joint_positions_HJ=np.asarray(waypoints, dtype=np.float64),
        terminate_H=np.full(steps, done),
        plan="",
    )
