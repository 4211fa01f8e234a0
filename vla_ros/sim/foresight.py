# SPDX-License-Identifier: Apache-2.0
"""What the world will be when the steps that are already committed are over, and what the expert does from there.

A policy that is asked at time t answers some time later; until then the robot goes on with what it was told before. These leading
steps of the new chunk are committed (real-time chunking, arXiv 2506.07339), and the rest has to continue them. The expert needs no
history, so that its continuation is its plan from the state in which they end.

Axes: P committed steps, H steps of a chunk, D = 6 action dimensions (terminate, x, y, z, yaw, gripper).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vla_ros.sim import expert
from vla_ros.sim.scene import BLOCK_HALF_SIZE, BLOCK_KINDS
from vla_ros.sim.tasks import ObjectRef, Task
from vla_ros.sim.world import ObjectState, WorldState

GRIPPER_SPEED = 0.10  # m/s, each finger
_GRASP_RADIUS_M, _GRASP_HEIGHT_M = 0.015, 0.014
_AHEAD_SHARE = 0.6  # of the distance at contact: nearer ones are around or under the tool, not ahead of it
_LET_GO_M = 0.003  # opened this much wider than the block, it stays behind


def continued_chunk(task: Task, world: WorldState, committed_PD: np.ndarray, horizon: int, dt_s: float) -> tuple[np.ndarray, expert.Plan]:
    """The chunk that begins with ``committed_PD`` and goes on as the expert would, and the expert's plan from there.

    Args:
        committed_PD: actions relative to the tool now, as in ``expert.chunk``; may have no rows.

    Returns:
        float64 [H, D], and the plan for ``task`` after the committed steps.
    """
    origin_D = np.array([0.0, *world.tool, world.tool_yaw, 0.0])
    after = world
    for action_D in committed_PD:
        after = step_ahead(after, action_D + origin_D, dt_s)
    plan = expert.plan(task, after)
    times_s = [(step + 1) * dt_s for step in range(horizon - len(committed_PD))]
    return np.vstack([committed_PD, expert.follow(plan, after, times_s) - origin_D]), plan


def step_ahead(world: WorldState, pose_D: np.ndarray, dt_s: float) -> WorldState:
    """The world when the tool has gone to ``pose_D`` (absolute, in ``base_link``) in ``dt_s``: what it holds comes along.

    Fingers that open let a block go where it is. Fingers that close around one are stopped by it, but whether they hold it only the next
    observation can tell: who lifts on a guess lifts nothing. What stands in the fingers' way is pushed along.
    """
    tool, yaw = np.asarray(pose_D[1:4], dtype=np.float64), float(pose_D[4])
    reach_m = GRIPPER_SPEED * dt_s
    gripper = world.gripper + float(np.clip(pose_D[5] - world.gripper, -reach_m, reach_m))
    held = world.held()
    objects = dict(world.objects)
    if held is not None:
        gripper = max(gripper, _half_width(held)) if pose_D[5] < _half_width(held) + _LET_GO_M else gripper
        objects[held] = _carried(objects[held], world, tool, yaw, is_let_go=gripper > _half_width(held) + _LET_GO_M)
        return replace(world, tool=tool, tool_yaw=yaw, gripper=gripper, objects=objects)
    objects = {ref: _pushed(ref, state, world.tool, tool) for ref, state in objects.items()}
    between = _between_fingers(world, tool, gripper)
    if between is not None:
        gripper = _half_width(between)
    return replace(world, tool=tool, tool_yaw=yaw, gripper=gripper, objects=objects)


def _carried(state: ObjectState, world: WorldState, tool: np.ndarray, yaw: float, is_let_go: bool) -> ObjectState:
    turn = yaw - world.tool_yaw
    x, y, z = state.position - world.tool
    cos, sin = np.cos(turn), np.sin(turn)
    position = tool + np.array([cos * x - sin * y, sin * x + cos * y, z])
    touched_by = frozenset() if is_let_go else state.touched_by
    return replace(state, position=position, yaw=state.yaw + turn, touched_by=touched_by)


def _pushed(ref: ObjectRef, state: ObjectState, start: np.ndarray, end: np.ndarray) -> ObjectState:
    """A block that stands in the way of the fingers from ``start`` to ``end`` is moved on, as far as they come."""
    way = (end - start)[:2]
    length = float(np.hypot(*way))
    if ref.kind not in BLOCK_KINDS or length < 1e-4 or min(start[2], end[2]) > state.position[2] + BLOCK_HALF_SIZE[ref.kind][2]:
        return state
    forward = way / length
    offset = state.position[:2] - start[:2]
    ahead, beside = float(offset @ forward), abs(float(offset[0] * forward[1] - offset[1] * forward[0]))
    contact = expert.push_half(ref) + expert.FINGER_HALF_Y_M
    beyond = length - (ahead - contact)
    if ahead < _AHEAD_SHARE * contact or beside > contact or beyond <= 0.0:
        return state
    return replace(state, position=state.position + np.array([*(forward * beyond), 0.0]))


def _between_fingers(world: WorldState, tool: np.ndarray, gripper: float) -> ObjectRef | None:
    """The block around which the fingers have closed."""
    for ref, state in world.objects.items():
        if ref.kind not in BLOCK_KINDS or gripper > _half_width(ref) + 1e-6 or world.gripper < _half_width(ref):
            continue
        offset = state.position - tool
        if np.hypot(*offset[:2]) < _GRASP_RADIUS_M and abs(offset[2]) < _GRASP_HEIGHT_M:
            return ref
    return None


def _half_width(ref: ObjectRef) -> float:
    """Half of what the fingers close on, m."""
    return BLOCK_HALF_SIZE[ref.kind][1]
