# SPDX-License-Identifier: Apache-2.0
"""The scripted expert: a function from the simulator's ground truth to the way the tool should go next.

It keeps no state. Whatever the situation (a dropped block, a hand pushed aside), it plans from there, which is why any frame can be
labelled with any instruction, and why recoveries need no code of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vla_ros.sim.scene import BLOCK_HALF_SIZE, SIDE_LINE_Y_M
from vla_ros.sim.tasks import ObjectRef, Task
from vla_ros.sim.world import WorldState, direction_sign, goal_surface, half_height, is_placed

PHASES = ("approach", "descend", "grasp", "lift", "carry", "lower", "release", "retreat", "push", "done")

OPEN_M, CLOSED_M = 0.042, 0.0
_TRAVEL_SPEED, _FINE_SPEED, _TOUCH_SPEED, _PUSH_SPEED, _YAW_SPEED = 0.28, 0.16, 0.08, 0.14, 1.6  # m/s, m/s, m/s, m/s, rad/s
_TOUCH_M = 0.02  # the last bit of a way down, at touch speed
_TRAVEL_Z = 0.13  # m: fingers pass over everything that stands on the table
_LOW_Z = 0.085  # below this the fingers may hit a block on the way
_CARRY_Z = 0.17
_LIFT_Z = 0.16
_ALIGNED_M = 0.008
_AT_M = 0.006
_MIN_TOOL_Z = 0.015
# Who learns from the expert sees a few millimetres less well. Where a small error would call for another motion altogether, it would waver
# between the two: so it goes on with what it has begun as long as that can end well.
_CONE = 0.3  # sideways per height: from inside this cone over the goal it goes straight down to it
_STRADDLED_M = 0.022  # this near to the middle, the open fingers are still around a block
_GRASP_WITHIN_M, _GRASP_AT_M, _KEEP_CLOSING_M = 0.015, 0.009, 0.018
_PLACE_WITHIN_M, _BESIDE_M = 0.012, 0.035
_GRASP_S, _RELEASE_S = 0.4, 0.3
_OPENED_M = 0.034
_RELEASED_M = 0.026
_PUSH_Z = 0.022
_PUSH_END_M, _PUSH_DONE_M = 0.040, 0.028  # beyond the line: what counts is passed by more than a picture can show
PUSH_STANDOFF_M = 0.045
FINGER_HALF_Y_M = 0.012


@dataclass(frozen=True, kw_only=True)
class Waypoint:
    """Where the tool goes next: position in ``base_link`` (m), yaw (rad), gripper target (m), how fast, how long to stay."""

    position: np.ndarray
    yaw: float
    gripper: float
    speed: float = _TRAVEL_SPEED
    dwell_s: float = 0.0
    terminate: bool = False


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The expert's next waypoints, the phase in words, and the place that it is about (x, y in ``base_link``, m)."""

    phase: str
    place: np.ndarray
    waypoints: list[Waypoint]


def plan(task: Task, world: WorldState) -> Plan:
    """Plans ``task`` from ``world`` on."""
    return _PLANNERS[task.family](task, world)


def chunk(expert_plan: Plan, world: WorldState, horizon: int, dt_s: float) -> np.ndarray:
    """Samples the plan as an action chunk, float64 [horizon, 6]: terminate, x, y, z, yaw (relative to the tool now), gripper.

    Step k is where the tool should be ``(k + 1) * dt_s`` from now.
    """
    poses = follow(expert_plan, world, [(k + 1) * dt_s for k in range(horizon)])
    origin = np.array([0.0, *world.tool, world.tool_yaw, 0.0])
    return poses - origin


def follow(expert_plan: Plan, world: WorldState, times_s: list[float]) -> np.ndarray:
    """Returns [len(times_s), 6]: terminate, x, y, z, yaw, gripper at those times, in ``base_link``, along straight lines."""
    rows = []
    for t in times_s:
        rows.append(_pose_at(expert_plan.waypoints, world, t))
    return np.array(rows)


def _pose_at(waypoints: list[Waypoint], world: WorldState, t: float) -> list[float]:
    position, yaw = world.tool, world.tool_yaw
    for waypoint in waypoints:
        distance, turn = np.linalg.norm(waypoint.position - position), abs(waypoint.yaw - yaw)
        duration = max(distance / waypoint.speed, turn / _YAW_SPEED)
        if t < duration:
            part = t / duration
            return [float(waypoint.terminate), *(position + part * (waypoint.position - position)), yaw + part * (waypoint.yaw - yaw), waypoint.gripper]
        position, yaw = waypoint.position, waypoint.yaw
        if t < duration + waypoint.dwell_s:
            break
        t -= duration + waypoint.dwell_s
    return [float(waypoint.terminate), *position, yaw, waypoint.gripper]


# ---- families ----


def _reach(task: Task, world: WorldState) -> Plan:
    obj = world.objects[task.obj]
    above = np.array([*obj.position[:2], obj.position[2] + half_height(task.obj) + 0.025])
    grip = world.gripper if world.held() else OPEN_M
    if np.linalg.norm(world.tool - above) < 0.010:
        return _done(obj.position, above, 0.0, grip)
    path = _over(world, above, 0.0, grip)
    return Plan(phase="approach", place=obj.position[:2], waypoints=[*path, Waypoint(position=above, yaw=0.0, gripper=grip, speed=_FINE_SPEED), _end(above, 0.0, grip)])


def _pick(task: Task, world: WorldState) -> Plan:
    obj = world.objects[task.obj]
    if world.held() == task.obj:
        up = np.array([*world.tool[:2], _LIFT_Z])
        if world.tool[2] > _LIFT_Z - 0.015:
            return _done(obj.position, np.array([*world.tool[:2], world.tool[2]]), world.tool_yaw, CLOSED_M)
        return Plan(phase="lift", place=obj.position[:2], waypoints=[Waypoint(position=up, yaw=world.tool_yaw, gripper=CLOSED_M, speed=_FINE_SPEED), _end(up, world.tool_yaw, CLOSED_M)])
    grasp = _grasp(task.obj, world)
    up = grasp.waypoints[-1].position.copy()
    up[2] = _LIFT_Z
    yaw = grasp.waypoints[-1].yaw
    return Plan(phase=grasp.phase, place=grasp.place, waypoints=[*grasp.waypoints, Waypoint(position=up, yaw=yaw, gripper=CLOSED_M, speed=_FINE_SPEED), _end(up, yaw, CLOSED_M)])


def _put(task: Task, world: WorldState) -> Plan:
    target = goal_surface(task, world)
    held = world.held() == task.obj
    if is_placed(task, world) and (not held or _is_at_release(task, world)):
        return _release(task, world)
    if not held:
        grasp = _grasp(task.obj, world)
        pose, yaw = grasp.waypoints[-1].position, grasp.waypoints[-1].yaw
        rise = np.array([*pose[:2], _CARRY_Z])
        over = np.array([*target[:2], _CARRY_Z])
        rest = [Waypoint(position=rise, yaw=yaw, gripper=CLOSED_M, speed=_FINE_SPEED), Waypoint(position=over, yaw=0.0, gripper=CLOSED_M)]
        return Plan(phase=grasp.phase, place=grasp.place, waypoints=[*grasp.waypoints, *rest])
    return _carry(task, world)


def _carry(task: Task, world: WorldState) -> Plan:
    target = goal_surface(task, world)
    offset = world.objects[task.obj].position - world.tool  # how the block lies in the hand
    release = _release_point(task, world, offset)
    over = np.array([*release[:2], _CARRY_Z])
    lower = [*_down(world, release, 0.0, CLOSED_M), Waypoint(position=release, yaw=0.0, gripper=OPEN_M, dwell_s=_RELEASE_S)]
    lower.append(Waypoint(position=over, yaw=0.0, gripper=OPEN_M, speed=_FINE_SPEED))
    distance = float(np.hypot(*(world.tool - release)[:2]))
    height = world.tool[2] - release[2]
    if distance < _PLACE_WITHIN_M and height < _AT_M:
        return Plan(phase="release", place=target[:2], waypoints=[w for w in lower if w.gripper == OPEN_M])
    if distance < _PLACE_WITHIN_M + _CONE * max(height, 0.0):
        return Plan(phase="lower", place=target[:2], waypoints=lower)
    if distance < _BESIDE_M:
        above = np.array([*release[:2], max(world.tool[2], release[2] + _TOUCH_M)])
        return Plan(phase="lower", place=target[:2], waypoints=[Waypoint(position=above, yaw=0.0, gripper=CLOSED_M, speed=_FINE_SPEED), *lower])
    waypoints = [Waypoint(position=over, yaw=0.0, gripper=CLOSED_M), *lower]
    if world.tool[2] < _CARRY_Z - 0.03:
        rise = np.array([*world.tool[:2], _CARRY_Z])
        return Plan(phase="lift", place=target[:2], waypoints=[Waypoint(position=rise, yaw=world.tool_yaw, gripper=CLOSED_M, speed=_FINE_SPEED), *waypoints])
    return Plan(phase="carry", place=target[:2], waypoints=waypoints)


def _release_point(task: Task, world: WorldState, offset: np.ndarray) -> np.ndarray:
    target = goal_surface(task, world)
    clearance = 0.006 if task.target is not None and task.target.kind == "bowl" else 0.003
    height = target[2] + half_height(task.obj) + clearance
    return np.array([*(target - offset)[:2], max(height - offset[2], _MIN_TOOL_Z)])


def _is_at_release(task: Task, world: WorldState) -> bool:
    offset = world.objects[task.obj].position - world.tool
    return bool(world.tool[2] < _release_point(task, world, offset)[2] + _AT_M)


def _release(task: Task, world: WorldState) -> Plan:
    """The block stands where it should: open, go up, be done."""
    obj = world.objects[task.obj].position
    near = np.linalg.norm(world.tool - obj) < 0.05
    up = np.array([*world.tool[:2], _CARRY_Z - 0.02])
    rise = [Waypoint(position=up, yaw=world.tool_yaw, gripper=OPEN_M, speed=_FINE_SPEED), _end(up, world.tool_yaw, OPEN_M)]
    if near and world.gripper < _RELEASED_M:
        stay = Waypoint(position=world.tool, yaw=world.tool_yaw, gripper=OPEN_M, dwell_s=_RELEASE_S)
        return Plan(phase="release", place=obj[:2], waypoints=[stay, *rise])
    if world.tool[2] < _TRAVEL_Z:
        return Plan(phase="retreat", place=obj[:2], waypoints=rise)
    return _done(obj, world.tool, world.tool_yaw, OPEN_M)


def _push(task: Task, world: WorldState) -> Plan:
    obj = world.objects[task.obj].position
    sign = direction_sign(task.direction)
    along = sign * (obj[1] - world.tool[1])  # how far the tool is behind the block
    half = push_half(task.obj)
    end_y = sign * (SIDE_LINE_Y_M + _PUSH_END_M)
    if sign * obj[1] > SIDE_LINE_Y_M + _PUSH_DONE_M:
        return _after_push(obj, sign, world)
    tool_at_end = np.array([obj[0], end_y - sign * (half + FINGER_HALF_Y_M), _PUSH_Z])
    sweep = [Waypoint(position=tool_at_end, yaw=0.0, gripper=CLOSED_M, speed=_PUSH_SPEED)]
    behind_and_low = along > half and world.tool[2] < 0.035 and abs(world.tool[0] - obj[0]) < 0.012 and world.gripper < 0.012
    if behind_and_low:
        return Plan(phase="push", place=obj[:2], waypoints=sweep)
    start = np.array([obj[0], obj[1] - sign * (half + PUSH_STANDOFF_M), _PUSH_Z])
    over = np.array([*start[:2], 0.10])
    down = _down(world, start, 0.0, CLOSED_M)
    if np.hypot(*(world.tool - start)[:2]) < _ALIGNED_M and world.gripper < 0.03:
        return Plan(phase="descend", place=obj[:2], waypoints=[*down, *sweep])
    path = _over(world, over, 0.0, CLOSED_M)
    return Plan(phase="approach", place=obj[:2], waypoints=[*path, Waypoint(position=over, yaw=0.0, gripper=CLOSED_M), *down, *sweep])


def _after_push(obj: np.ndarray, sign: float, world: WorldState) -> Plan:
    if world.tool[2] > 0.09:
        return _done(obj, world.tool, world.tool_yaw, CLOSED_M)
    back = world.tool + np.array([0.0, -sign * 0.03, 0.01])
    up = np.array([*back[:2], 0.11])
    rise = [Waypoint(position=up, yaw=0.0, gripper=CLOSED_M), _end(up, 0.0, CLOSED_M)]
    if sign * (obj[1] - world.tool[1]) < 0.05 and world.tool[2] < 0.03:
        rise.insert(0, Waypoint(position=back, yaw=0.0, gripper=CLOSED_M, speed=_PUSH_SPEED))
    return Plan(phase="retreat", place=obj[:2], waypoints=rise)


def push_half(ref: ObjectRef) -> float:
    """From a block's centre to the side that is pushed, m."""
    half = BLOCK_HALF_SIZE[ref.kind]
    return half[0] if ref.kind != "brick" else 0.026


# ---- parts ----


def _grasp(ref: ObjectRef, world: WorldState) -> Plan:
    """From anywhere to closed fingers around ``ref``; the last waypoint is the closed grasp."""
    obj = world.objects[ref]
    yaw = grasp_yaw(ref, obj.yaw, world.tool_yaw)
    pose = np.array([*obj.position[:2], max(obj.position[2], _MIN_TOOL_Z)])
    close = Waypoint(position=pose, yaw=yaw, gripper=CLOSED_M, dwell_s=_GRASP_S)
    down = _down(world, pose, yaw, OPEN_M)
    distance = float(np.hypot(*(world.tool - pose)[:2]))
    height = world.tool[2] - pose[2]
    is_closing = world.gripper < _OPENED_M
    if distance < (_STRADDLED_M if is_closing else _GRASP_WITHIN_M) and height < (_KEEP_CLOSING_M if is_closing else _GRASP_AT_M):
        return Plan(phase="grasp", place=pose[:2], waypoints=[close])
    if distance < max(_STRADDLED_M, _CONE * height) and (not is_closing or height > 0.05):
        return Plan(phase="descend", place=pose[:2], waypoints=[*down, close])
    over = np.array([*pose[:2], max(pose[2] + 0.07, 0.10)])
    path = _over(world, over, yaw, OPEN_M)
    return Plan(phase="approach", place=pose[:2], waypoints=[*path, Waypoint(position=over, yaw=yaw, gripper=OPEN_M), *down, close])


def grasp_yaw(ref: ObjectRef, block_yaw: float, tool_yaw: float) -> float:
    """Heading at which the fingers close across the block, the nearest to straight among the equivalent ones, rad."""
    if ref.kind == "cylinder":
        return 0.0
    period = np.pi if ref.kind == "brick" else np.pi / 2
    return float((block_yaw + period / 2) % period - period / 2)


def _over(world: WorldState, goal: np.ndarray, yaw: float, grip: float) -> list[Waypoint]:
    """Way points that bring the tool over ``goal`` without touching what stands between."""
    distance = float(np.hypot(*(world.tool - goal)[:2]))
    path = []
    if world.tool[2] < _LOW_Z and distance > _ALIGNED_M:
        path.append(Waypoint(position=np.array([*world.tool[:2], _LOW_Z + 0.015]), yaw=world.tool_yaw, gripper=grip))
    if distance > 0.05:
        path.append(Waypoint(position=np.array([*goal[:2], max(_TRAVEL_Z, goal[2])]), yaw=yaw, gripper=grip))
    return path


def _down(world: WorldState, goal: np.ndarray, yaw: float, grip: float) -> list[Waypoint]:
    """The way down to ``goal``, slow at its end."""
    near = goal + np.array([0.0, 0.0, _TOUCH_M])
    slow = Waypoint(position=goal, yaw=yaw, gripper=grip, speed=_TOUCH_SPEED)
    if world.tool[2] < near[2] and np.hypot(*(world.tool - goal)[:2]) < 0.03:
        return [slow]
    return [Waypoint(position=near, yaw=yaw, gripper=grip, speed=_FINE_SPEED), slow]


def _end(position: np.ndarray, yaw: float, grip: float) -> Waypoint:
    return Waypoint(position=position, yaw=yaw, gripper=grip, terminate=True)


def _done(place: np.ndarray, position: np.ndarray, yaw: float, grip: float) -> Plan:
    return Plan(phase="done", place=place[:2], waypoints=[_end(position, yaw, grip)])


_PLANNERS: dict[str, Callable[[Task, WorldState], Plan]] = {"reach": _reach, "push": _push, "pick": _pick, "put": _put, "stack": _put, "front": _put}
