# SPDX-License-Identifier: Apache-2.0
"""Actions to absolute joint waypoints: relative to absolute at the observation, clipped to the workspace, inverse kinematics.

Axes: H steps, D action dimensions, J joints.
"""

from __future__ import annotations

import numpy as np

from vla_ros.core.action import ActionDim, ActionSpec
from vla_ros.core.errors import ConfigError, DecodeError
from vla_ros.robot import Kinematics, KinematicsError, RobotDescription

_AXES = ("x", "y", "z")


class WaypointMaker:
    """Makes waypoints for one robot and one action specification. One thread only.

    Args:
        spec: the policy's action.
        robot: the robot.
        kinematics: of this robot.

    Raises:
        ConfigError: a dimension that this robot cannot follow, with the choices there are.
    """

    def __init__(self, spec: ActionSpec, robot: RobotDescription, kinematics: Kinematics) -> None:
        self._robot = robot
        self._kinematics = kinematics
        self._limits = robot.limits
        self._num_dims = spec.num_dims
        self._axes: list[tuple[int, int, bool]] = []  # dimension, axis of the tool's position, relative
        self._joints: list[tuple[int, int, bool]] = []  # dimension, joint, relative
        self._yaw: tuple[int, bool] | None = None
        for index, dim in enumerate(spec.dims):
            self._sort(index, dim)
        self._moves_tool = bool(self._axes or self._yaw is not None)
        arm = {joint for _, joint, _ in self._joints if joint < robot.num_arm_joints}
        if self._moves_tool and arm:
            raise ConfigError("the action has tool dimensions and arm joints: use one or the other")
        if not self._moves_tool and not arm:
            raise ConfigError(f"the action {list(spec.names)} moves neither the tool nor an arm joint")

    def _sort(self, index: int, dim: ActionDim) -> None:
        robot = self._robot
        if dim.kind in ("translation", "rotation") and dim.frame != robot.base_frame:
            raise ConfigError(f"action dimension '{dim.name}' is in frame '{dim.frame}', this robot takes '{robot.base_frame}'")
        if dim.kind == "translation" and dim.name in _AXES and dim.unit == "m":
            self._axes.append((index, _AXES.index(dim.name), dim.relative))
        elif dim.kind == "rotation" and dim.name == "yaw" and dim.unit == "rad":
            self._yaw = (index, dim.relative)
        elif dim.kind == "gripper":
            self._joints.append((index, self._joint(dim, dim.frame or robot.gripper_joint), dim.relative))
        elif dim.kind == "joint":
            self._joints.append((index, self._joint(dim, dim.frame or dim.name), dim.relative))
        elif dim.kind not in ("terminate", "unused"):
            raise ConfigError(
                f"action dimension '{dim.name}' ({dim.kind}, {dim.unit}): this robot follows x, y, z in m and yaw in rad; "
                "where leaving it out is safe give it the kind unused"
            )

    def _joint(self, dim: ActionDim, name: str) -> int:
        if name not in self._robot.joint_names:
            raise ConfigError(f"action dimension '{dim.name}' is for joint '{name}'; this robot has {list(self._robot.joint_names)}")
        return self._robot.joint_names.index(name)

    def make(self, actions_HD: np.ndarray, measured_J: np.ndarray) -> np.ndarray:
        """Absolute joint positions of every step, float64 [H, J], rad or m, inside the position limits.

        A step whose tool pose has no solution keeps the arm where the step before it left it.

        Args:
            actions_HD: decoded actions.
            measured_J: joint positions at the observation.

        Raises:
            DecodeError: no step can be reached.
        """
        waypoints_HJ = np.empty((len(actions_HD), len(measured_J)))
        arm_J, reached = np.array(measured_J, dtype=np.float64), not self._moves_tool
        xyz, _ = self._kinematics.fk(measured_J)
        yaw = self._kinematics.tool_yaw(measured_J)
        for step, action_D in enumerate(actions_HD):
            if self._moves_tool:
                try:
                    arm_J = self._kinematics.ik(self._target_xyz(action_D, xyz), self._target_yaw(action_D, yaw), arm_J)
                    reached = True
                except KinematicsError:
                    pass
            waypoints_HJ[step] = arm_J
            for index, joint, relative in self._joints:
                waypoints_HJ[step, joint] = action_D[index] + (measured_J[joint] if relative else 0.0)
        if not reached:
            raise DecodeError(f"no step of the chunk can be reached from the tool position {np.round(xyz, 3).tolist()} m")
        return np.clip(waypoints_HJ, self._limits.position_min, self._limits.position_max)

    def actions(self, joint_positions_PJ: np.ndarray, measured_J: np.ndarray) -> np.ndarray:
        """The inverse of ``make``: the actions whose waypoints are these joint positions, float64 [P, D]; ``terminate`` is 0.

        Args:
            joint_positions_PJ: absolute, rad or m.
            measured_J: joint positions at the observation.
        """
        actions_PD = np.zeros((len(joint_positions_PJ), self._num_dims))
        xyz, _ = self._kinematics.fk(measured_J)
        yaw = self._kinematics.tool_yaw(measured_J)
        for action_D, joints_J in zip(actions_PD, joint_positions_PJ):
            if self._moves_tool:
                target, _ = self._kinematics.fk(joints_J)
                for index, axis, relative in self._axes:
                    action_D[index] = target[axis] - (xyz[axis] if relative else 0.0)
            if self._yaw is not None:
                index, relative = self._yaw
                turn = self._kinematics.tool_yaw(joints_J) - (yaw if relative else 0.0)
                action_D[index] = (turn + np.pi) % (2.0 * np.pi) - np.pi
            for index, joint, relative in self._joints:
                action_D[index] = joints_J[joint] - (measured_J[joint] if relative else 0.0)
        return actions_PD

    def _target_xyz(self, action_D: np.ndarray, xyz: np.ndarray) -> np.ndarray:
        target = np.array(xyz, dtype=np.float64)
        for index, axis, relative in self._axes:
            target[axis] = action_D[index] + (xyz[axis] if relative else 0.0)
        return np.clip(target, self._robot.workspace_min, self._robot.workspace_max)

    def _target_yaw(self, action_D: np.ndarray, yaw: float) -> float:
        if self._yaw is None:
            return yaw
        index, relative = self._yaw
        return float(action_D[index]) + (yaw if relative else 0.0)
