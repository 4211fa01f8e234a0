# SPDX-License-Identifier: Apache-2.0
"""Shows a running policy node: ``ros2 launch vla_ros view.launch.py`` (RViz), or with ``foxglove:=true`` a bridge for Foxglove.

RViz shows robot, cameras, predicted path, workspace and status. ``robot`` may be any in config/robots, or empty where something else already
publishes robot_description and its frames. For Foxglove open ws://localhost:8765 and import config/foxglove/vla_policy.json as a layout.
"""

from pathlib import Path

from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchContext, LaunchDescription

CONFIG = Path(__file__).resolve().parents[1] / "config"

ARGUMENTS = [
    DeclareLaunchArgument(
        "robot", default_value="tabletop_arm", description="robot in config/robots whose model is shown; empty shows none"
    ),
    DeclareLaunchArgument("namespace", default_value="", description="namespace of the policy node"),
    DeclareLaunchArgument("use_sim_time", default_value="false", choices=["true", "false"], description="take the time from /clock"),
    DeclareLaunchArgument("rviz", default_value="true", choices=["true", "false"], description="start RViz (package rviz2)"),
    DeclareLaunchArgument("foxglove", default_value="false", choices=["true", "false"], description="start the package foxglove_bridge"),
]


def robot_model(context: LaunchContext) -> list[Node]:
    """The frames and the model of the robot, from the URDF in config/robots."""
    name = LaunchConfiguration("robot").perform(context)
    if not name:
        return []
    description = (CONFIG / "robots" / f"{name}.urdf").read_text(encoding="utf-8")
    return [
        Node(
            package="robot_state_publisher",
            executable="robot_state_publisher",
            namespace=LaunchConfiguration("namespace"),
            parameters=[{"robot_description": description, "use_sim_time": _sim_time()}],
        )
    ]


def viewers() -> list[Node]:
    """RViz and the bridge."""
    return [
        Node(
            package="rviz2",
            executable="rviz2",
            namespace=LaunchConfiguration("namespace"),
            arguments=["-d", str(CONFIG / "rviz" / "vla_policy.rviz")],
            parameters=[{"use_sim_time": _sim_time()}],
            condition=IfCondition(LaunchConfiguration("rviz")),
        ),
        Node(
            package="foxglove_bridge",
            executable="foxglove_bridge",
            parameters=[{"use_sim_time": _sim_time(), "address": "127.0.0.1"}],
            condition=IfCondition(LaunchConfiguration("foxglove")),
        ),
    ]


def _sim_time() -> ParameterValue:
    return ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool)


def generate_launch_description() -> LaunchDescription:
    """Arguments, the robot's model, the viewers."""
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=robot_model), *viewers()])
