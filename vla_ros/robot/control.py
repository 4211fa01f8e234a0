# SPDX-License-Identifier: Apache-2.0
"""The control loop of a robot: what the core decides, with this robot's limits, motion, workspace and collisions."""

from __future__ import annotations

from vla_ros.core.command import ControlConfig
from vla_ros.core.control import ControlLoop
from vla_ros.robot.collision import CollisionModel
from vla_ros.robot.description import RobotDescription
from vla_ros.robot.motion import RuckigMotion
from vla_ros.robot.workspace import Workspace


def new_control_loop(robot: RobotDescription, config: ControlConfig | None = None) -> ControlLoop:
    """The control loop of ``robot``, all checks on."""
    config = config or ControlConfig()
    return ControlLoop(
        config=config,
        limits=robot.limits,
        motion=RuckigMotion(robot.limits, config.period_s),
        workspace_excess_m=Workspace(robot).excess_m,
        collision_depth_m=CollisionModel(robot).depth_m,
        gripper=robot.num_arm_joints,
    )
