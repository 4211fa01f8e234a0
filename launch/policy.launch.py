# SPDX-License-Identifier: Apache-2.0
"""Starts the policy node: ``ros2 launch vla_ros policy.launch.py model:=tabletop``.

``ros2 launch vla_ros policy.launch.py --show-args`` lists the arguments. A second node beside the first needs a namespace of its own.
"""

import os
from pathlib import Path

from launch.actions import DeclareLaunchArgument, SetEnvironmentVariable
from launch.substitutions import EnvironmentVariable, LaunchConfiguration
from launch_ros.actions import LifecycleNode
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchDescription

SHARE = Path(__file__).resolve().parents[1]  # share/vla_ros when installed, the clone's root otherwise
PROFILE = str(SHARE / "config" / "fastdds_profile.xml")
PARAMS = str(SHARE / "config" / "vla_policy.yaml")

ARGUMENTS = [
    DeclareLaunchArgument(
        "model", default_value="tabletop", description="policy bundle: a folder with manifest.yaml, or a name below share/vla_ros/models"
    ),
    DeclareLaunchArgument(
        "params_file", default_value=PARAMS, description="YAML file of node parameters; the arguments here take precedence over it"
    ),
    DeclareLaunchArgument("namespace", default_value="", description="namespace of the node; its topics are relative"),
    DeclareLaunchArgument("use_sim_time", default_value="false", choices=["true", "false"], description="take the time from /clock"),
    DeclareLaunchArgument(
        "autostart",
        default_value="true",
        choices=["true", "false"],
        description="configure and activate at once; false waits for lifecycle requests",
    ),
    DeclareLaunchArgument(
        "log_level", default_value="info", choices=["debug", "info", "warn", "error", "fatal"], description="least severity that is logged"
    ),
    DeclareLaunchArgument(
        "control_rate_hz", default_value="50.0", description="rate of the control loop and of the command, Hz, 1 to 1000"
    ),
    DeclareLaunchArgument(
        "execution_provider", default_value="cpu", choices=["cpu", "cuda", "tensorrt", "openvino"], description="where the policy runs"
    ),
]


def fast_dds_profile() -> list:
    """Room for camera images in Fast DDS's shared memory, unless the user has a profile of their own."""
    # Fast DDS 2 (Jazzy) and 3 (Kilted and newer) read different variables.
    return [
        SetEnvironmentVariable(
            "FASTRTPS_DEFAULT_PROFILES_FILE", EnvironmentVariable("FASTRTPS_DEFAULT_PROFILES_FILE", default_value=PROFILE)
        ),
        SetEnvironmentVariable(
            "FASTDDS_DEFAULT_PROFILES_FILE", EnvironmentVariable("FASTDDS_DEFAULT_PROFILES_FILE", default_value=PROFILE)
        ),
    ]


def policy_node() -> LifecycleNode:
    """The lifecycle node; with autostart it configures and activates itself and retries while the robot's driver is not up."""
    return LifecycleNode(
        package="vla_ros",
        executable="vla_policy",
        name="vla_policy",
        namespace=LaunchConfiguration("namespace"),
        arguments=[
            *("--autostart", LaunchConfiguration("autostart"), "--log-level", LaunchConfiguration("log_level")),
            *("--end-with", str(os.getpid())),  # at SIGTERM ros2 launch ends and leaves its processes behind
        ],
        parameters=[
            LaunchConfiguration("params_file"),
            {
                "model": ParameterValue(LaunchConfiguration("model"), value_type=str),
                "use_sim_time": ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool),
                "control_rate_hz": ParameterValue(LaunchConfiguration("control_rate_hz"), value_type=float),
                "execution_provider": ParameterValue(LaunchConfiguration("execution_provider"), value_type=str),
            },
        ],
        output="screen",
        emulate_tty=True,
    )


def generate_launch_description() -> LaunchDescription:
    """Arguments, transport profile, node."""
    return LaunchDescription([*ARGUMENTS, *fast_dds_profile(), policy_node()])
