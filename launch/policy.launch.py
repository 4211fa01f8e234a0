# SPDX-License-Identifier: Apache-2.0
"""Starts the policy node: ``ros2 launch vla_ros policy.launch.py model:=tabletop``.

``ros2 launch vla_ros policy.launch.py --show-args`` lists the arguments. A second node beside the first needs a namespace of its own.
"""

import os
from pathlib import Path

from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import EnvironmentVariable, LaunchConfiguration
from launch_ros.actions import LifecycleNode
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchContext, LaunchDescription

SHARE = Path(__file__).resolve().parents[1]  # share/vla_ros when installed, the clone's root otherwise
PROFILE = str(SHARE / "config" / "fastdds_profile.xml")
PARAMS = str(SHARE / "config" / "vla_policy.yaml")

ARGUMENTS = [
    DeclareLaunchArgument(
        "model",
        default_value="",
        description="policy bundle: a folder with manifest.yaml, or a name below share/vla_ros/models; empty: as in params_file, else tabletop",
    ),
    DeclareLaunchArgument(
        "params_file", default_value=PARAMS, description="YAML file of node parameters; arguments that are given take precedence over it"
    ),
    DeclareLaunchArgument("namespace", default_value="", description="namespace of the node; its topics are relative"),
    DeclareLaunchArgument(
        "use_sim_time",
        default_value="",
        choices=["", "true", "false"],
        description="take the time from /clock; empty: as in params_file, else false",
    ),
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
        "control_rate_hz",
        default_value="",
        description="rate of the control loop and of the command, Hz, 1 to 1000; empty: as in params_file, else 50",
    ),
    DeclareLaunchArgument(
        "execution_provider",
        default_value="",
        choices=["", "cpu", "cuda", "tensorrt", "openvino"],
        description="where the policy runs; empty: as in params_file, else cpu",
    ),
]
#: Arguments that are parameters of the node, and their types. An empty one must not hide what params_file says.
PARAMETERS = {"model": str, "use_sim_time": bool, "control_rate_hz": float, "execution_provider": str}


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


def policy_node(context: LaunchContext) -> list[LifecycleNode]:
    """The lifecycle node; with autostart it configures and activates itself and retries while the robot's driver is not up."""
    given = {name: kind for name, kind in PARAMETERS.items() if LaunchConfiguration(name).perform(context)}
    node = LifecycleNode(
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
            *([{name: ParameterValue(LaunchConfiguration(name), value_type=kind) for name, kind in given.items()}] if given else []),
        ],
        output="screen",
        emulate_tty=True,
    )
    return [node]


def generate_launch_description() -> LaunchDescription:
    """Arguments, transport profile, node."""
    return LaunchDescription([*ARGUMENTS, *fast_dds_profile(), OpaqueFunction(function=policy_node)])
