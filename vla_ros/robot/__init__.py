# SPDX-License-Identifier: Apache-2.0
"""The robot as numbers: description, kinematics, jerk-limited motion. Knows neither torch, ROS nor a simulator."""

from vla_ros.robot.collision import CollisionModel
from vla_ros.robot.control import new_control_loop
from vla_ros.robot.description import RobotDescription
from vla_ros.robot.kinematics import Kinematics, KinematicsError
from vla_ros.robot.motion import RuckigMotion
from vla_ros.robot.workspace import Workspace

__all__ = ["CollisionModel", "Kinematics", "KinematicsError", "RobotDescription", "RuckigMotion", "Workspace", "new_control_loop"]
