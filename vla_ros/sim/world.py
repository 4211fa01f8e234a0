# SPDX-License-Identifier: Apache-2.0
"""The simulator's ground truth as plain numbers, and the geometry that expert and success check share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vla_ros.sim.scene import BLOCK_HALF_SIZE, BLOCK_KINDS, PAD_HALF_HEIGHT_M, SIDE_LINE_Y_M
from vla_ros.sim.tasks import ObjectRef, Task

IN_BOWL_RADIUS_M = 0.040
ON_PAD_RADIUS_M = 0.045
ON_BLOCK_RADIUS_M = 0.018
FRONT_XY = (0.475, 0.0)  # base_link, m: at the far edge of where objects are laid out, nearest to who faces the robot
AT_FRONT_RADIUS_M = 0.030
_RESTING_TOLERANCE_M = 0.012
_PUSH_LANE_M = 0.052  # half width that must be free beside a pushed block's centre
_PUSH_RUN_UP_M = 0.085
_ROOM_AT_FRONT_M = {"block": 0.09, "container": 0.12}  # to the next centre: the block and an open finger fit between


@dataclass(frozen=True, kw_only=True)
class ObjectState:
    """Pose and motion of one object; ``touched_by`` holds the fingers (0 left, 1 right) in contact with it."""

    position: np.ndarray
    yaw: float
    speed: float
    touched_by: frozenset[int] = frozenset()


@dataclass(frozen=True, kw_only=True)
class WorldState:
    """Everything that matters, in ``base_link``: m and rad; ``gripper`` is the half opening in m."""

    tool: np.ndarray
    tool_yaw: float
    gripper: float
    objects: Mapping[ObjectRef, ObjectState]

    def held(self) -> ObjectRef | None:
        """The block that both fingers touch and that is at the tool, if any."""
        for ref, state in self.objects.items():
            if ref.kind in BLOCK_KINDS and len(state.touched_by) == 2 and np.linalg.norm(state.position - self.tool) < 0.04:
                return ref
        return None


def direction_sign(direction: str) -> float:
    """Sign of base y towards ``direction`` (left and right as the front camera sees them)."""
    return -1.0 if direction == "left" else 1.0


def half_height(ref: ObjectRef) -> float:
    """Half the height of a block, or the height of what carries in a container (its floor's upper side), m."""
    return BLOCK_HALF_SIZE[ref.kind][2] if ref.kind in BLOCK_KINDS else PAD_HALF_HEIGHT_M


def rests_on(obj: ObjectRef, target: ObjectRef, world: WorldState) -> bool:
    """Whether ``obj`` stands in or on ``target`` (geometry only: it may still be held)."""
    a, b = world.objects[obj].position, world.objects[target].position
    radius = {"bowl": IN_BOWL_RADIUS_M, "pad": ON_PAD_RADIUS_M}.get(target.kind, ON_BLOCK_RADIUS_M)
    height = a[2] - b[2] - half_height(target) - half_height(obj)
    return bool(np.hypot(*(a - b)[:2]) < radius and abs(height) < _RESTING_TOLERANCE_M)


def goal_surface(task: Task, world: WorldState) -> np.ndarray:
    """Where the block of a task is to stand: the middle of the surface below it, [3] in ``base_link``, m."""
    if task.target is None:
        return np.array([*FRONT_XY, 0.0])
    x, y, z = world.objects[task.target].position
    return np.array([x, y, z + half_height(task.target)])


def is_placed(task: Task, world: WorldState) -> bool:
    """Whether the block of a task stands where it is to stand (geometry only: it may still be held)."""
    if task.target is not None:
        return rests_on(task.obj, task.target, world)
    x, y, z = world.objects[task.obj].position
    return bool(np.hypot(x - FRONT_XY[0], y - FRONT_XY[1]) < AT_FRONT_RADIUS_M and abs(z - half_height(task.obj)) < _RESTING_TOLERANCE_M)


def is_free_on_top(ref: ObjectRef, world: WorldState) -> bool:
    """Whether nothing stands on ``ref``."""
    return not any(rests_on(other, ref, world) for other in world.objects if other != ref and other.kind in BLOCK_KINDS)


def is_upright(ref: ObjectRef, world: WorldState) -> bool:
    """Whether a block that is not held stands at a height that makes sense: on the table or on something."""
    z = world.objects[ref].position[2]
    return any(abs(z - base - half_height(ref)) < _RESTING_TOLERANCE_M for base in (0.0, 2 * PAD_HALF_HEIGHT_M)) or any(
        rests_on(ref, other, world) for other in world.objects if other != ref
    )


def is_feasible(task: Task, world: WorldState) -> bool:
    """Whether the arm can do ``task`` from this state without clearing anything away first."""
    involved = [r for r in (task.obj, task.target) if r is not None]
    if not all(_within_reach(r, world) and is_free_on_top(r, world) for r in involved):
        return False
    if task.obj != world.held() and not is_upright(task.obj, world):
        return False
    if task.target is not None and rests_on(task.obj, task.target, world):
        return False
    if task.family == "push":
        return _push_is_free(task, world)
    if task.family == "front":
        return _front_is_free(task, world) and not is_placed(task, world)
    return True


def _within_reach(ref: ObjectRef, world: WorldState) -> bool:
    x, y, _ = world.objects[ref].position
    return bool(0.18 < x < 0.50 and abs(y) < 0.28 and 0.20 < np.hypot(x, y) < 0.55)


def _front_is_free(task: Task, world: WorldState) -> bool:
    for other, state in world.objects.items():
        room = _ROOM_AT_FRONT_M["block" if other.kind in BLOCK_KINDS else "container"]
        if other != task.obj and np.hypot(state.position[0] - FRONT_XY[0], state.position[1] - FRONT_XY[1]) < room:
            return False
    return True


def _push_is_free(task: Task, world: WorldState) -> bool:
    sign = direction_sign(task.direction)
    x, y, z = world.objects[task.obj].position
    if sign * y > SIDE_LINE_Y_M - 0.04 or sign * y < -0.16 or z > 0.03:
        return False
    start, end = sign * y - _PUSH_RUN_UP_M, SIDE_LINE_Y_M + 0.07
    for other, state in world.objects.items():
        if other == task.obj:
            continue
        lane = _PUSH_LANE_M + (0.03 if other.kind not in BLOCK_KINDS else 0.0)
        margin = 0.06 if other.kind not in BLOCK_KINDS else 0.03
        if abs(state.position[0] - x) < lane and start - margin < sign * state.position[1] < end + margin:
            return False
    return True
