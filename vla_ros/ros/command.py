# SPDX-License-Identifier: Apache-2.0
"""Builds the command message of each control period, for every ``command.interface``. One message object is made once and refilled.

Positions and velocities come from the control loop and already keep the limits. A JointTrajectory also holds the way to rest: if nothing
follows, joint_trajectory_controller decelerates inside the limits instead of running to a stop or, worse, on.
"""

from __future__ import annotations

from array import array
from typing import Any, Protocol

import numpy as np
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import TwistStamped
from std_msgs.msg import Float64MultiArray, MultiArrayDimension
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from vla_ros.core.errors import ConfigError
from vla_ros.core.window import stopping_window
from vla_ros.robot.description import RobotDescription
from vla_ros.robot.kinematics import Kinematics

_NS = 1_000_000_000


class CommandBuilder(Protocol):
    """Turns one control output into one message."""

    message_type: type

    def build(self, position_J: np.ndarray, velocity_J: np.ndarray, stamp_ns: int) -> Any:
        """Returns the message, valid until the next call. ``position_J`` (rad or m) is due one period after ``stamp_ns``."""


def make_command_builder(interface: str, robot: RobotDescription, period_s: float, points: int = 3) -> CommandBuilder:
    """Returns the builder of ``interface``.

    Raises:
        ConfigError: the interface is unknown or its message package is not installed.
    """
    if interface == "JointTrajectory":
        return _JointTrajectoryBuilder(robot, period_s, points)
    if interface == "TwistStamped":
        return _TwistBuilder(robot)
    if interface == "Float64MultiArray":
        return _PositionsBuilder(robot)
    if interface == "JointJog":
        return _make_joint_jog(robot, period_s)
    raise ConfigError(f"command.interface {interface!r} is unknown: choose JointTrajectory, TwistStamped, Float64MultiArray or JointJog")


class _JointTrajectoryBuilder:
    """The commanded state one period ahead, then a stop inside the acceleration limits."""

    message_type = JointTrajectory

    def __init__(self, robot: RobotDescription, period_s: float, points: int) -> None:
        self._limits = robot.limits
        self._period_s, self._stop_points = period_s, points - 1
        self._message = JointTrajectory(joint_names=list(robot.joint_names))
        self._message.header.frame_id = robot.base_frame
        self._message.points = [JointTrajectoryPoint(time_from_start=Duration()) for _ in range(points)]

    def build(self, position_J: np.ndarray, velocity_J: np.ndarray, stamp_ns: int) -> JointTrajectory:
        # The stamp stays zero, "begin now", as MoveIt Servo sends it: with a real stamp a late message is refused as already over.
        window = stopping_window(position_J, velocity_J, self._period_s, self._limits, self._stop_points)
        rows = zip(window.times_ns.tolist(), window.positions_NJ, window.velocities_NJ, strict=True)
        for point, (time_ns, positions, velocities) in zip(self._message.points, rows, strict=True):
            # An array of doubles is taken as it is; a list would be checked item by item.
            point.positions, point.velocities = array("d", positions.tobytes()), array("d", velocities.tobytes())
            point.time_from_start.sec, point.time_from_start.nanosec = divmod(time_ns, _NS)
        return self._message


class _PositionsBuilder:
    """Joint positions for forward_command_controller, in the robot's joint order."""

    message_type = Float64MultiArray

    def __init__(self, robot: RobotDescription) -> None:
        self._message = Float64MultiArray()
        self._message.layout.dim = [
            MultiArrayDimension(label=",".join(robot.joint_names), size=len(robot.joint_names), stride=len(robot.joint_names))
        ]

    def build(self, position_J: np.ndarray, velocity_J: np.ndarray, stamp_ns: int) -> Float64MultiArray:
        self._message.data = array("d", position_J.tobytes())
        return self._message


class _TwistBuilder:
    """The tool's velocity in ``base_frame`` for MoveIt Servo. It carries no gripper: command that by its own controller."""

    message_type = TwistStamped
    _DT_S = 1e-4  # step of the finite difference; the error of O(dt) is below 1e-3 of the velocity

    def __init__(self, robot: RobotDescription) -> None:
        self._kinematics = Kinematics(robot)
        self._message = TwistStamped()
        self._message.header.frame_id = robot.base_frame

    def build(self, position_J: np.ndarray, velocity_J: np.ndarray, stamp_ns: int) -> TwistStamped:
        _set_stamp(self._message.header.stamp, stamp_ns)
        before, rotation_before = self._kinematics.fk(position_J - 0.5 * self._DT_S * velocity_J)
        after, rotation_after = self._kinematics.fk(position_J + 0.5 * self._DT_S * velocity_J)
        linear = (after - before) / self._DT_S
        turn = (rotation_after @ rotation_before.T - rotation_before @ rotation_after.T) / (2.0 * self._DT_S)
        twist = self._message.twist
        twist.linear.x, twist.linear.y, twist.linear.z = map(float, linear)
        twist.angular.x, twist.angular.y, twist.angular.z = float(turn[2, 1]), float(turn[0, 2]), float(turn[1, 0])
        return self._message


def _make_joint_jog(robot: RobotDescription, period_s: float) -> CommandBuilder:
    try:
        from control_msgs.msg import JointJog
    except ImportError as error:
        raise ConfigError(
            "command.interface JointJog needs the package control_msgs: install it (ros-$ROS_DISTRO-control-msgs) or choose another"
        ) from error

    class JointJogBuilder:
        message_type = JointJog

        def __init__(self) -> None:
            self._message = JointJog(joint_names=list(robot.joint_names), duration=period_s)
            self._message.header.frame_id = robot.base_frame

        def build(self, position_J: np.ndarray, velocity_J: np.ndarray, stamp_ns: int) -> JointJog:
            _set_stamp(self._message.header.stamp, stamp_ns)
            self._message.velocities = array("d", velocity_J.tobytes())
            return self._message

    return JointJogBuilder()


def _set_stamp(stamp: Any, stamp_ns: int) -> None:
    stamp.sec, stamp.nanosec = divmod(stamp_ns, _NS)
