# SPDX-License-Identifier: Apache-2.0
"""Starts the embedded simulator and the policy node: ``ros2 launch vla_ros mujoco.launch.py``.

Then ``ros2 topic pub --once instruction std_msgs/msg/String "{data: 'pick up the red brick'}"``. Takes every argument of policy.launch.py
and those of the simulator below.
"""

import os
from pathlib import Path

from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchDescription

HERE = Path(__file__).resolve().parent

ARGUMENTS = [
    DeclareLaunchArgument("seed", default_value="0", description="scene of the simulator, 0 to 2147483647"),
    DeclareLaunchArgument(
        "task", default_value="", description="instruction whose success the simulator judges; empty judges the one drawn with the scene"
    ),
    DeclareLaunchArgument(
        "realtime_factor", default_value="1.0", description="simulated seconds a second, 0.01 to 100; other than 1 needs use_sim_time"
    ),
    DeclareLaunchArgument(
        "use_sim_time", default_value="false", choices=["true", "false"], description="both nodes take the time from /clock, which the simulator publishes"
    ),
]


def simulator_node() -> Node:
    """The simulator; with use_sim_time it is the one that publishes /clock."""
    return Node(
        package="vla_ros",
        executable="vla_sim",
        name="vla_sim",
        namespace=LaunchConfiguration("namespace"),
        arguments=["--log-level", LaunchConfiguration("log_level"), "--end-with", str(os.getpid())],
        parameters=[
            {
                "seed": ParameterValue(LaunchConfiguration("seed"), value_type=int),
                "task": ParameterValue(LaunchConfiguration("task"), value_type=str),
                "realtime_factor": ParameterValue(LaunchConfiguration("realtime_factor"), value_type=float),
                "publish_clock": ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool),
            }
        ],
        output="screen",
        emulate_tty=True,
    )


def generate_launch_description() -> LaunchDescription:
    """The policy's launch file before the simulator: it declares the shared arguments and sets the transport profile for both nodes."""
    policy = IncludeLaunchDescription(PythonLaunchDescriptionSource(str(HERE / "policy.launch.py")))
    return LaunchDescription([*ARGUMENTS, policy, simulator_node()])
