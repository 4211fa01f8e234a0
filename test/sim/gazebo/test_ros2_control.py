# SPDX-License-Identifier: Apache-2.0
"""What the arm behind ros2_control is made of agrees with the robot's files: world, URDF, controllers."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import yaml

from vla_ros.core.paths import robot_config_path, share_dir
from vla_ros.robot import Kinematics, RobotDescription
from vla_ros.sim.gazebo.ros2_control import HARDWARE, POSITION_GAIN, controlled_world, robot_description

CONFIG = share_dir() / "config"
WORLD = (CONFIG / "gazebo" / "tabletop.sdf").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def robot():
    return RobotDescription.load(robot_config_path("tabletop_arm"))


@pytest.fixture(scope="module")
def described(robot):
    return robot_description(robot.urdf_path.read_text(encoding="utf-8"), dict(zip(robot.joint_names, robot.home)))


@pytest.fixture(scope="module")
def controllers():
    return yaml.safe_load((CONFIG / "gazebo_controllers.yaml").read_text(encoding="utf-8"))


def test_every_joint_is_commanded_and_begins_at_home(described, robot):
    control = ET.fromstring(described).find("ros2_control")
    assert control.find("hardware/plugin").text == HARDWARE
    joints = {joint.get("name"): joint for joint in control.findall("joint")}
    assert tuple(joints) == (*robot.joint_names, *robot.mimics)
    home = dict(zip(robot.joint_names, robot.home))
    for name, joint in joints.items():
        leader, factor, offset = robot.mimics.get(name, (name, 1.0, 0.0))
        start = float(joint.find("state_interface[@name='position']/param[@name='initial_value']").text)
        assert start == pytest.approx(factor * home[leader] + offset), name
        commands = [interface.get("name") for interface in joint.findall("command_interface")]
        assert commands == ([] if name in robot.mimics else ["position"]), name


def test_the_urdf_is_otherwise_the_robots(described, robot, tmp_path):
    """Pinocchio reads it, and the tool is where it was."""
    (tmp_path / "robot.urdf").write_text(described, encoding="utf-8")
    for name in ("tabletop_arm.yaml",):
        (tmp_path / name).write_text((CONFIG / "robots" / name).read_text().replace("urdf: tabletop_arm.urdf", "urdf: robot.urdf"))
    other = RobotDescription.load(tmp_path / "tabletop_arm.yaml")
    np.testing.assert_allclose(Kinematics(other).fk(robot.home)[0], Kinematics(robot).fk(robot.home)[0])


def test_the_world_gives_its_arm_to_the_controller_manager(robot):
    before, after = ET.fromstring(WORLD), ET.fromstring(controlled_world(WORLD, Path("/etc/controllers.yaml"), "left"))
    arm = after.find("world/model[@name='arm']")
    (plugin,) = arm.findall("plugin")
    assert (
        plugin.find("parameters").text == "/etc/controllers.yaml" and float(plugin.find("position_proportional_gain").text) == POSITION_GAIN
    )
    assert plugin.find("ros/namespace").text == "/left"
    assert {*robot.joint_names, *robot.mimics} <= {joint.get("name") for joint in arm.findall("joint")}
    for tree in (before, after):  # nothing else has changed
        model = tree.find("world/model[@name='arm']")
        for element in model.findall("plugin"):
            model.remove(element)
    assert [e.tag for e in before.iter()] == [e.tag for e in after.iter()]


def test_a_world_without_the_arm_is_refused():
    with pytest.raises(ValueError, match="0 models with joint controllers"):
        controlled_world("<sdf version='1.9'><world name='empty'/></sdf>", Path("c.yaml"))
    with pytest.raises(ValueError, match="no joint elbow"):
        robot_description("<robot name='r'/>", {"elbow": 0.0})


def test_controllers_name_the_robots_joints_in_its_order(controllers, robot):
    managed = controllers["/**/controller_manager"]["ros__parameters"]
    names = [name for name, value in managed.items() if isinstance(value, dict)]
    assert names == ["joint_state_broadcaster", "arm_controller"]
    for name in names:
        assert controllers[f"/**/{name}"]["ros__parameters"]["joints"] == list(robot.joint_names)
    assert controllers["/**/arm_controller"]["ros__parameters"]["command_interfaces"] == ["position"]


def test_the_arm_follows_about_as_fast_as_the_servos(controllers):
    """First order: its time constant is 1 / (gain * rate). The servos' are damping / stiffness, of the scene's model."""
    from vla_ros.sim.gazebo.plan import ScenePlan

    plan = ScenePlan(randomize_look=0.0)
    servos = [servo.damping / servo.stiffness for servo in plan.servos().values()]
    plan.close()
    rate_hz = controllers["/**/controller_manager"]["ros__parameters"]["update_rate"]
    assert min(servos) < 1.0 / (POSITION_GAIN * rate_hz) < max(servos)


@pytest.mark.ros
@pytest.mark.parametrize("namespace", ["", "/left"])
def test_rcl_reads_the_controllers_file(namespace, robot):
    """Its YAML is a subset of YAML: no anchors, for example."""
    pytest.importorskip("rclpy")
    program = (
        "import sys, rclpy; from rclpy.node import Node; rclpy.init(args=sys.argv)\n"
        f"node = Node('arm_controller', namespace={namespace!r}, automatically_declare_parameters_from_overrides=True)\n"
        "print(','.join(node.get_parameter('joints').value))"
    )
    command = [sys.executable, "-c", program, "--ros-args", "--params-file", str(CONFIG / "gazebo_controllers.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == ",".join(robot.joint_names), done.stderr


def test_a_launch_file_imports_it_without_the_simulator():
    program = "import sys, vla_ros.sim.gazebo.ros2_control; print([m for m in ('mujoco', 'numpy', 'yaml') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
