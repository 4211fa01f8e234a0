# SPDX-License-Identifier: Apache-2.0
"""Labels of a recorded episode from what came after: action chunks, and the plan's phase and place. No invented data: where the
recording ends, the robot stays and the action says "terminate".

Axes: T frames an action step apart, J joints, H steps, D dimensions, S proprioception entries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from vla_ros.core.embodiment import Embodiment
from vla_ros.core.errors import ConfigError
from vla_ros.dataset.shard_writer import PHASES, blank_objects
from vla_ros.robot.description import RobotDescription
from vla_ros.robot.kinematics import Kinematics

_MOVING_M = 0.004  # less in one step counts as standing
_GRIPPER_PART = 0.15  # of the range between open and closed: a smaller change is no grasp and no release
_STANDING_FRAMES = 2  # at the end: the task is done
_TOOL = ("tool_x", "tool_y", "tool_z", "tool_yaw")


@dataclass(frozen=True, kw_only=True)
class Motion:
    """How a robot moved.

    Attributes:
        joints_TJ: measured, in the description's order, rad or m.
        tool_T4: x, y, z in the base frame (m) and yaw (rad) of each frame.
        target_TJ: commanded joints; the measured ones where no commands were recorded.
        target_T4: the tool's pose at the commanded joints.
    """

    joints_TJ: np.ndarray
    tool_T4: np.ndarray
    target_TJ: np.ndarray
    target_T4: np.ndarray


def motion_of(joints_TJ: np.ndarray, robot: RobotDescription, target_TJ: np.ndarray | None = None) -> Motion:
    """Tool poses by forward kinematics."""
    kinematics = Kinematics(robot)

    def poses(positions_TJ: np.ndarray) -> np.ndarray:
        return np.array([[*kinematics.fk(joints)[0], kinematics.tool_yaw(joints)] for joints in positions_TJ])

    tool_T4 = poses(joints_TJ)
    if target_TJ is None:
        return Motion(joints_TJ=joints_TJ, tool_T4=tool_T4, target_TJ=joints_TJ, target_T4=tool_T4)
    return Motion(joints_TJ=joints_TJ, tool_T4=tool_T4, target_TJ=target_TJ, target_T4=poses(target_TJ))


def check_body(body: Embodiment, robot: RobotDescription) -> None:
    """Raises ConfigError unless the robot has what the body's proprioception and action need."""
    lacking = [entry.name for entry in body.proprio if entry.source == "joint" and entry.name not in robot.joint_names]
    if lacking:
        raise ConfigError(
            f"robot '{robot.name}' has no {', '.join(lacking)}, which embodiment '{body.name}' reads: its joints are {', '.join(robot.joint_names)}"
        )
    moved = dict(body.moved_state)
    for dim in body.action.dims:
        if dim.kind not in ("terminate", "unused") and moved.get(dim.name) not in (*robot.joint_names, *_TOOL):
            raise ConfigError(
                f"action dimension '{dim.name}' moves nothing that a recording holds: name a joint or one of {', '.join(_TOOL)} in moved_state"
            )


def labels_of(motion: Motion, body: Embodiment, robot: RobotDescription, meta: dict[str, Any]) -> tuple[dict[str, np.ndarray], int]:
    """The arrays of a shard but its pictures, with one label a frame and no objects marked.

    Args:
        motion: of the episode.
        body: whose policies will read the shard.
        robot: its description.
        meta: content of meta.yaml.

    Returns:
        The arrays, and how many action steps had to be moved into the action's bounds.
    """
    count = len(motion.tool_T4)
    chunks_THD, clipped = future_chunks(motion, body, robot)
    arrays = {
        "proprio": proprio_of(motion, body, robot), "actions": chunks_THD[:, None], "committed": np.zeros((count, 1), dtype=np.int8),
        "plan": plans_of(motion, robot, meta["plan"])[:, None], **blank_objects(count, meta["M"]),
    }  # fmt: skip
    return arrays, clipped


def proprio_of(motion: Motion, body: Embodiment, robot: RobotDescription) -> np.ndarray:
    """The body's proprioception, float32 [T, S]."""
    return np.stack([_entry(name, motion.joints_TJ, motion.tool_T4, robot) for name in body.proprio_names], axis=1).astype(np.float32)


def _entry(name: str, joints_TJ: np.ndarray, tool_T4: np.ndarray, robot: RobotDescription) -> np.ndarray:
    return tool_T4[:, _TOOL.index(name)] if name in _TOOL else joints_TJ[:, robot.joint_names.index(name)]


def future_chunks(motion: Motion, body: Embodiment, robot: RobotDescription) -> tuple[np.ndarray, int]:
    """Chunks that lead where the robot went or was sent, float32 [T, H, D], and how many steps had to be moved into the bounds.

    Step k of frame t is the target of frame t + k + 1: relative dimensions from what was measured at frame t, others as they are. Beyond the end it
    is the last frame's, with ``terminate`` = 1.
    """
    spec, moved = body.action, dict(body.moved_state)
    count = len(motion.tool_T4)
    ahead_TH = np.arange(count)[:, None] + np.arange(1, spec.horizon + 1)
    later_TH = np.minimum(ahead_TH, count - 1)
    chunks = np.zeros((count, *spec.shape))
    for index, dim in enumerate(spec.dims):
        if dim.kind == "terminate":
            chunks[..., index] = ahead_TH >= count
        elif dim.kind != "unused":
            target_T = _entry(moved[dim.name], motion.target_TJ, motion.target_T4, robot)
            measured_T = _entry(moved[dim.name], motion.joints_TJ, motion.tool_T4, robot)
            chunks[..., index] = target_T[later_TH] - (measured_T[:, None] if dim.relative else 0.0)
            if dim.kind == "rotation":
                chunks[..., index] = np.mod(chunks[..., index] + np.pi, 2 * np.pi) - np.pi
    inside = spec.clip(chunks)
    return inside.astype(np.float32), int((np.abs(inside - chunks) > 1e-6).any(-1).sum())


def plans_of(motion: Motion, robot: RobotDescription, bounds: dict[str, Any]) -> np.ndarray:
    """Phase and place of each frame, float32 [T, 3], by rule.

    The place is where the tool will be when the gripper next closes or opens, else at the end. Between changes the phase follows from what
    the gripper holds and whether the tool rises or sinks; a standing end is "done".
    """
    closed_T = np.abs(motion.target_TJ[:, -1] - robot.gripper_open) > _GRIPPER_PART * abs(robot.gripper_closed - robot.gripper_open)
    count = len(closed_T)
    changes = [*np.flatnonzero(closed_T[1:] != closed_T[:-1]) + 1]
    step_T3 = np.diff(motion.tool_T4[:, :3], axis=0, append=motion.tool_T4[-1:, :3])
    last_move = int(np.flatnonzero(np.linalg.norm(step_T3, axis=1) > _MOVING_M).max(initial=-1))
    last_event = max([last_move, *changes], default=-1)
    plans = np.zeros((count, 3))
    for t in range(count):
        event = next((c for c in changes if c > t), None)
        place = motion.tool_T4[count - 1 if event is None else event, :2]
        done = t > last_event and count - 1 - last_event >= _STANDING_FRAMES
        word = "done" if done else _phase(bool(closed_T[t]), event == t + 1, event is not None, t in changes, step_T3[t, 2])
        plans[t] = PHASES.index(word), *np.clip(place, bounds["low"], bounds["high"])
    return plans.astype(np.float32)


def _phase(closed: bool, changes_now: bool, changes_later: bool, just_changed: bool, rise_m: float) -> str:
    if changes_now or just_changed:
        return "grasp" if closed != changes_now else "release"
    if closed:
        return "lift" if rise_m > _MOVING_M else "lower" if rise_m < -_MOVING_M else "carry"
    if not changes_later:
        return "retreat" if rise_m > -_MOVING_M else "approach"
    return "descend" if rise_m < -_MOVING_M else "approach"
