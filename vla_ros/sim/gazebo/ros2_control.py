# SPDX-License-Identifier: Apache-2.0
"""The tabletop arm behind ros2_control in Gazebo Sim (``gz_ros2_control``): what its world and its URDF have to say.

Made when ``gazebo.launch.py`` starts with ``driver:=ros2_control``, from any world of ``vla sim export-sdf`` and from the robot's own files, so
that nothing is written twice. Standard library only: a launch file imports this.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path

HARDWARE = "gz_ros2_control/GazeboSimSystem"
PLUGIN = {"filename": "gz_ros2_control-system", "name": "gz_ros2_control::GazeboSimROS2ControlPlugin"}
STATES = ("position", "velocity", "effort")
# Joint velocity = gain * error * the controller manager's rate. With 100 Hz the arm follows with a time constant of 50 ms; those of the
# servos in MuJoCo are 34 to 92 ms.
POSITION_GAIN = 0.2
_REPLACED = ("JointPositionController", "JointStatePublisher")


def controlled_world(sdf: str, controllers: Path, namespace: str = "") -> str:
    """The world with its arm under a controller manager in place of Gazebo's own controllers.

    Args:
        sdf: text of a world for Gazebo Sim.
        controllers: YAML file of controller manager and controllers.
        namespace: of both.

    Raises:
        ValueError: the world has no model whose joints have Gazebo's controllers.
    """
    root = ET.fromstring(sdf)
    arms = [model for model in root.iter("model") if any(_is_replaced(plugin) for plugin in model.findall("plugin"))]
    if len(arms) != 1:
        raise ValueError(f"the world has {len(arms)} models with joint controllers, expected one: write it with `vla sim export-sdf`")
    (arm,) = arms
    for plugin in [p for p in arm.findall("plugin") if _is_replaced(p)]:
        arm.remove(plugin)
    plugin = ET.SubElement(arm, "plugin", PLUGIN)
    ET.SubElement(plugin, "parameters").text = str(controllers)
    ET.SubElement(plugin, "position_proportional_gain").text = str(POSITION_GAIN)
    if namespace.strip("/"):
        ET.SubElement(ET.SubElement(plugin, "ros"), "namespace").text = "/" + namespace.strip("/")
    ET.indent(root)
    return '<?xml version="1.0"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _is_replaced(plugin: ET.Element) -> bool:
    return plugin.get("name", "").rpartition("::")[2] in _REPLACED


def robot_description(urdf: str, home: Mapping[str, float]) -> str:
    """The URDF with its ``ros2_control`` element.

    Args:
        urdf: text of the robot's URDF. Joints of it that mimic another get no command.
        home: the commanded joints, each with the position in which it begins, rad or m.

    Raises:
        ValueError: the URDF lacks one of them.
    """
    root = ET.fromstring(urdf)
    joints = {joint.get("name"): joint for joint in root.findall("joint")}
    missing = set(home) - set(joints)
    if missing:
        raise ValueError(f"the URDF has no joint {', '.join(sorted(missing))}; it has {', '.join(joints)}")
    control = ET.SubElement(root, "ros2_control", name=root.get("name"), type="system")
    ET.SubElement(ET.SubElement(control, "hardware"), "plugin").text = HARDWARE
    for name, position in home.items():
        _add_joint(control, name, position, is_commanded=True)
    for name, joint in joints.items():
        mimic = joint.find("mimic")
        if mimic is not None and mimic.get("joint") in home:
            follows = float(mimic.get("multiplier", 1.0)) * home[mimic.get("joint")] + float(mimic.get("offset", 0.0))
            _add_joint(control, name, follows, is_commanded=False)
    return ET.tostring(root, encoding="unicode")


def _add_joint(control: ET.Element, name: str, position: float, *, is_commanded: bool) -> None:
    joint = ET.SubElement(control, "joint", name=name)
    if is_commanded:
        ET.SubElement(joint, "command_interface", name="position")
    for state in STATES:
        interface = ET.SubElement(joint, "state_interface", name=state)
        if state == "position":
            ET.SubElement(interface, "param", name="initial_value").text = str(position)
