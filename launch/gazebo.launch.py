# SPDX-License-Identifier: Apache-2.0
"""Starts Gazebo Sim with the tabletop, its bridge to ROS, and the policy node: ``ros2 launch vla_ros gazebo.launch.py``.

Then ``ros2 topic pub --once instruction std_msgs/msg/String "{data: 'pick up the red cube'}"``. Takes every argument of policy.launch.py
(with use_sim_time true unless given) and those below. docs/gazebo.md names the packages for each ROS distribution.
"""

from pathlib import Path

from launch.actions import DeclareLaunchArgument, ExecuteProcess, IncludeLaunchDescription, Shutdown
from launch.conditions import IfCondition
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PythonExpression
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchDescription

SHARE = Path(__file__).resolve().parents[1]  # share/vla_ros when installed, the clone's root otherwise
CONFIG = SHARE / "config"


def is_value(argument: str, value: str) -> PythonExpression:
    """Whether a launch argument has this value."""
    return PythonExpression(["'", LaunchConfiguration(argument), f"' == '{value}'"])


ARGUMENTS = [
    DeclareLaunchArgument(
        "world",
        default_value=str(CONFIG / "gazebo" / "tabletop.sdf"),
        description="SDF world of Gazebo Sim; other scenes are written by vla sim export-sdf --seed N --output FOLDER",
    ),
    DeclareLaunchArgument(
        "gui", default_value="true", choices=["true", "false"], description="with Gazebo's window; false renders without a screen"
    ),
    DeclareLaunchArgument("seed", default_value="0", description="scene that the world shows, for judging success, 0 to 2147483647"),
    DeclareLaunchArgument(
        "task", default_value="", description="instruction whose success is judged; empty judges the one drawn with the scene"
    ),
    DeclareLaunchArgument(
        "driver",
        default_value="bridge",
        choices=["bridge", "direct"],
        description="images, camera_info and clock by ros_gz_bridge, or by vla_sim over Gazebo's own transport",
    ),
    DeclareLaunchArgument(
        "bridge_config",
        default_value=str(CONFIG / "gazebo_bridge.yaml"),
        description="topics of ros_gz_bridge",
    ),
]


def gazebo() -> list[ExecuteProcess]:
    """The server and window, or a server alone; when it ends, so does everything."""
    world = LaunchConfiguration("world")
    server = ["gz", "sim", "-r", "-s", "--headless-rendering", world]
    return [
        ExecuteProcess(
            cmd=["gz", "sim", "-r", world], condition=IfCondition(LaunchConfiguration("gui")), output="screen", on_exit=Shutdown()
        ),
        ExecuteProcess(cmd=server, condition=IfCondition(is_value("gui", "false")), output="screen", on_exit=Shutdown()),
    ]


def bridge() -> Node:
    """Cameras and clock; nothing that moves the arm."""
    return Node(
        package="ros_gz_bridge",
        executable="parameter_bridge",
        name="gazebo_bridge",
        namespace=LaunchConfiguration("namespace"),
        parameters=[{"config_file": LaunchConfiguration("bridge_config"), "use_sim_time": True}],
        condition=IfCondition(is_value("driver", "bridge")),
        output="screen",
    )


def driver() -> Node:
    """The arm's controllers: takes ``command``, gives ``joint_states`` and ``~/success``; alone it gives pictures and /clock too."""
    return Node(
        package="vla_ros",
        executable="vla_sim",
        name="vla_sim",
        namespace=LaunchConfiguration("namespace"),
        arguments=["--log-level", LaunchConfiguration("log_level")],
        parameters=[
            {
                "simulator": "gazebo",
                "seed": ParameterValue(LaunchConfiguration("seed"), value_type=int),
                "task": ParameterValue(LaunchConfiguration("task"), value_type=str),
                "publish_clock": ParameterValue(is_value("driver", "direct"), value_type=bool),
                "external_cameras": ParameterValue(is_value("driver", "bridge"), value_type=bool),
                "use_sim_time": True,
            }
        ],
        output="screen",
        emulate_tty=True,
    )


def generate_launch_description() -> LaunchDescription:
    """Arguments, Gazebo, its bridge, the arm's driver, and the policy on Gazebo's time."""
    policy = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(SHARE / "launch" / "policy.launch.py")), launch_arguments={"use_sim_time": "true"}.items()
    )
    return LaunchDescription([*ARGUMENTS, *gazebo(), policy, bridge(), driver()])
