# SPDX-License-Identifier: Apache-2.0
"""Draws what a robot may be doing already when a policy is asked: the committed first steps of a label.

The steps come from the chunk that was answered before, so that they are mostly what the expert would do, but begun a little earlier
(commands lead measurements), at another pace, and not exactly; sometimes the robot stands, follows another instruction, or strays.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vla_ros.core.action import ActionSpec
from vla_ros.sim import expert
from vla_ros.sim.tasks import Task
from vla_ros.sim.world import WorldState

_COUNTS, _COUNT_SHARES = (0, 1, 2, 3), (0.06, 0.50, 0.28, 0.16)
_KINDS, _KIND_SHARES = ("same", "other", "rest", "stray"), (0.56, 0.18, 0.16, 0.10)
_PACE, _LEAD_S = (0.6, 1.25), (0.0, 0.09)
_OFFSET_M, _DRIFT_M, _TURN_RAD = 0.002, 0.002, 0.01  # standard deviations of the whole, of each step, and of each step's yaw
_REST_M = 0.004
_STRAY_SPEED = 0.3  # m/s
_X, _YAW, _GRIPPER = 1, 4, 5


def draw_committed(rng: np.random.Generator, task: Task, others: Sequence[Task], world: WorldState, spec: ActionSpec, bounds: np.ndarray) -> np.ndarray:
    """Committed steps for a label of ``task``, float64 [P, 6] as in ``expert.chunk``; often one, sometimes none.

    Args:
        others: further tasks that make sense in ``world``.
        bounds: workspace, [2, 3], lowest and highest tool position in ``base_link``, m.
    """
    count = int(rng.choice(_COUNTS, p=_COUNT_SHARES))
    if not count:
        return np.zeros((0, spec.num_dims))
    kind = rng.choice(_KINDS, p=_KIND_SHARES)
    if kind == "other" and others:
        task = others[rng.integers(len(others))]
    if kind in ("same", "other"):
        steps_PD = _on_its_way(rng, task, world, count, spec.dt_s)
    else:
        speed = _STRAY_SPEED * rng.random() if kind == "stray" else 0.0
        steps_PD = _blind(rng, world, count, spec.dt_s, speed)
    steps_PD[:, 0] = 0.0
    steps_PD[:, _X:_YAW] = np.clip(steps_PD[:, _X:_YAW], bounds[0] - world.tool, bounds[1] - world.tool)
    return spec.clip(steps_PD)


def _on_its_way(rng: np.random.Generator, task: Task, world: WorldState, count: int, dt_s: float) -> np.ndarray:
    pace, lead_s = rng.uniform(*_PACE), rng.uniform(*_LEAD_S)
    times_s = [(step + 1) * dt_s * pace + lead_s for step in range(count)]
    steps_PD = expert.follow(expert.plan(task, world), world, times_s) - np.array([0.0, *world.tool, world.tool_yaw, 0.0])
    drift_P3 = np.cumsum(rng.normal(0.0, _DRIFT_M, (count, 3)), axis=0)
    steps_PD[:, _X:_YAW] += rng.normal(0.0, _OFFSET_M, 3) + drift_P3
    steps_PD[:, _YAW] += np.cumsum(rng.normal(0.0, _TURN_RAD, count))
    return steps_PD


def _blind(rng: np.random.Generator, world: WorldState, count: int, dt_s: float, speed: float) -> np.ndarray:
    """At rest (nearly) where the tool is, or straight on in some direction; the gripper stays, or is told anything."""
    direction = rng.normal(0.0, 1.0, 3)
    velocity = direction / np.linalg.norm(direction) * speed
    steps_PD = np.zeros((count, 6))
    steps_PD[:, _X:_YAW] = velocity * dt_s * np.arange(1, count + 1)[:, None] + rng.normal(0.0, _REST_M if speed == 0.0 else _OFFSET_M, 3)
    steps_PD[:, _YAW] = rng.normal(0.0, _TURN_RAD)
    kept = expert.CLOSED_M if world.held() is not None else world.gripper
    steps_PD[:, _GRIPPER] = rng.choice([expert.OPEN_M, expert.CLOSED_M]) if speed > 0.0 and rng.random() < 0.2 else kept
    return steps_PD
