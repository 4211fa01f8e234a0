# SPDX-License-Identifier: Apache-2.0
"""Decides from the simulator's ground truth whether a task has been achieved."""

from __future__ import annotations

import numpy as np

from vla_ros.sim.scene import SIDE_LINE_Y_M
from vla_ros.sim.tasks import Task
from vla_ros.sim.world import WorldState, direction_sign, half_height, is_placed

HOLD_S = 0.5  # how long a state must last before it counts
_REACH_RADIUS_M = 0.025
_REACH_HEIGHT_M = 0.055
_LIFTED_M = 0.07
_STILL_M_S = 0.03


class SuccessCheck:
    """Watches one task from the state in which it was given. Once achieved, it stays achieved."""

    def __init__(self, task: Task, start: WorldState) -> None:
        self._task = task
        self._start = start
        self._held_s = 0.0
        self._last_tool = start.tool
        self.achieved = False

    def update(self, world: WorldState, dt_s: float) -> None:
        """Takes the state after ``dt_s`` more seconds."""
        tool_speed = float(np.linalg.norm(world.tool - self._last_tool)) / dt_s
        self._last_tool = world.tool
        self._held_s = self._held_s + dt_s if self._holds_now(world, tool_speed) else 0.0
        self.achieved = self.achieved or self._held_s >= HOLD_S

    def _holds_now(self, world: WorldState, tool_speed: float) -> bool:
        task = self._task
        obj = world.objects[task.obj]
        if task.family == "reach":
            above = world.tool[2] - obj.position[2] - half_height(task.obj)
            near = np.hypot(*(world.tool - obj.position)[:2]) < _REACH_RADIUS_M
            return bool(near and -0.03 < above < _REACH_HEIGHT_M and tool_speed < 0.05)
        if task.family == "push":
            return bool(direction_sign(task.direction) * obj.position[1] > SIDE_LINE_Y_M and obj.position[2] < 0.05 and not obj.touched_by == {0, 1})
        if task.family == "pick":
            return bool(obj.position[2] > self._start.objects[task.obj].position[2] + _LIFTED_M and obj.touched_by == {0, 1})
        return bool(is_placed(task, world) and not obj.touched_by and obj.speed < _STILL_M_S)
