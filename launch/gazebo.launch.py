# SPDX-License-Identifier: Apache-2.0
"""Starts Gazebo Sim with the tabletop, its bridge to ROS, and the policy node: ``ros2 launch vla_ros gazebo.launch.py``.

Then ``ros2 topic pub --once instruction std_msgs/msg/String "{data: 'pick up the red brick'}"``. Takes every argument of policy.launch.py
(with use_sim_time true unless given) and those below. docs/gazebo.md names the packages for each ROS distribution.
"""

import tempfile
import os
from pathlib import Path

import yaml
from launch.actions import DeclareLaunchArgument, ExecuteProcess, IncludeLaunchDescription, OpaqueFunction, Shutdown
from launch.conditions import IfCondition
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PythonExpression
from launch_ros.actions import Node, SetRemap
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchContext, LaunchDescription

SHARE = Path(__file__).resolve().parents[1]  # share/vla_ros when installed, the clone's root otherwise
CONFIG = SHARE / "config"


def is_value(argument: str, value: str) -> PythonExpression:
    """Whether a launch argument has this value."""
    return PythonExpression(["'", LaunchConfiguration(argument), f"' == '{value}'"])


def is_not(argument: str, value: str) -> PythonExpression:
    """Whether a launch argument has another value."""
    return PythonExpression(["'", LaunchConfiguration(argument), f"' != '{value}'"])


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
        choices=["bridge", "direct", "ros2_control"],
        description="the arm by vla_sim, and images and clock by ros_gz_bridge (bridge) or vla_sim too (direct); or the arm by ros2_control",
    ),
    DeclareLaunchArgument(
        "bridge_config",
        default_value=str(CONFIG / "gazebo_bridge.yaml"),
        description="topics of ros_gz_bridge",
    ),
    DeclareLaunchArgument(
        "controllers",
        default_value=str(CONFIG / "gazebo_controllers.yaml"),
        description="controller manager and controllers of driver:=ros2_control",
    ),
]


def gazebo(context: LaunchContext) -> list[ExecuteProcess]:
    """The server and window, or a server alone; when it ends, so does everything."""
    world, gui = (LaunchConfiguration(name).perform(context) for name in ("world", "gui"))
    if LaunchConfiguration("driver").perform(context) == "ros2_control":
        world = controlled(world, context)
    screen = [] if gui == "true" else ["-s", "--headless-rendering"]
    return [ExecuteProcess(cmd=["gz", "sim", "-r", *screen, world], output="screen", on_exit=Shutdown())]


def controlled(world: str, context: LaunchContext) -> str:
    """Writes the world with the arm under ros2_control, and says where."""
    from vla_ros.sim.gazebo.ros2_control import controlled_world

    controllers, namespace = (LaunchConfiguration(name).perform(context) for name in ("controllers", "namespace"))
    text = controlled_world(Path(world).read_text(encoding="utf-8"), Path(controllers).resolve(), namespace)
    file = Path(tempfile.mkdtemp(prefix="vla_ros_")) / Path(world).name
    file.write_text(text, encoding="utf-8")
    return str(file)


def bridge() -> Node:
    """Cameras and clock; nothing that moves the arm."""
    return Node(
        package="ros_gz_bridge",
        executable="parameter_bridge",
        name="gazebo_bridge",
        namespace=LaunchConfiguration("namespace"),
        parameters=[{"config_file": LaunchConfiguration("bridge_config"), "use_sim_time": True}],
        condition=IfCondition(is_not("driver", "direct")),
        output="screen",
    )


def driver() -> Node:
    """The arm's controllers: takes ``command``, gives ``joint_states`` and ``~/success``; alone it gives pictures and /clock too."""
    return Node(
        package="vla_ros",
        executable="vla_sim",
        name="vla_sim",
        namespace=LaunchConfiguration("namespace"),
        arguments=["--log-level", LaunchConfiguration("log_level"), "--end-with", str(os.getpid())],
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
        condition=IfCondition(is_not("driver", "ros2_control")),
        output="screen",
        emulate_tty=True,
    )


def ros2_control(context: LaunchContext) -> list[Node]:
    """What tells gz_ros2_control about the arm, and what starts its controllers."""
    if LaunchConfiguration("driver").perform(context) != "ros2_control":
        return []
    from vla_ros.sim.gazebo.ros2_control import robot_description

    robot = yaml.safe_load((CONFIG / "robots" / "tabletop_arm.yaml").read_text(encoding="utf-8"))
    urdf = (CONFIG / "robots" / robot["urdf"]).read_text(encoding="utf-8")
    namespace = LaunchConfiguration("namespace")
    description = {"robot_description": ParameterValue(robot_description(urdf, robot["home"]), value_type=str), "use_sim_time": True}
    publisher = Node(
        package="robot_state_publisher", executable="robot_state_publisher", namespace=namespace, parameters=[description], output="screen"
    )
    names = ["joint_state_broadcaster", "arm_controller"]
    spawner = Node(
        package="controller_manager",
        executable="spawner",
        namespace=namespace,
        arguments=[*names, "--controller-manager-timeout", "120"],
        parameters=[{"use_sim_time": True}],
        output="screen",
    )
    return [publisher, spawner]


def policy() -> list:
    """The policy on Gazebo's time; with ros2_control its command goes where joint_trajectory_controller listens."""
    to_controller = SetRemap("command", "arm_controller/joint_trajectory", condition=IfCondition(is_value("driver", "ros2_control")))
    source = PythonLaunchDescriptionSource(str(SHARE / "launch" / "policy.launch.py"))
    return [to_controller, IncludeLaunchDescription(source, launch_arguments={"use_sim_time": "true"}.items())]


def generate_launch_description() -> LaunchDescription:
    """Arguments, the policy, Gazebo, what drives the arm in it and shows its cameras."""
    actions = [OpaqueFunction(function=gazebo), bridge(), driver(), OpaqueFunction(function=ros2_control)]
    return LaunchDescription([*ARGUMENTS, *policy(), *actions])
