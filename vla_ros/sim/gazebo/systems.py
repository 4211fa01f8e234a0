# SPDX-License-Identifier: Apache-2.0
"""What a Gazebo Sim world needs beside shapes: systems (plugins), topics of sensors and controllers, contact sensors of the fingers.

Topics are fixed here; ``config/gazebo_bridge.yaml`` and the client use the same ones.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET

from vla_ros.sim.gazebo.arm import ARM
from vla_ros.sim.gazebo.plan import ScenePlan
from vla_ros.sim.gazebo.xml import add
from vla_ros.sim.scene import CAMERA_FRAME

JOINT_STATE_TOPIC = f"/model/{ARM}/joint_state"
FINGERS = ("left_finger", "right_finger")
_WORLD_SYSTEMS = {
    "physics": ("Physics", {}),
    "user-commands": ("UserCommands", {}),
    "scene-broadcaster": ("SceneBroadcaster", {}),
    "sensors": ("Sensors", {"render_engine": "ogre2"}),
    "contact": ("Contact", {}),
}


def position_topic(joint: str) -> str:
    """Takes one joint's target, rad or m (``gz.msgs.Double``)."""
    return f"/model/{ARM}/joint/{joint}/0/cmd_pos"


def image_topic(camera: str) -> str:
    """Gives one camera's pictures (``gz.msgs.Image``)."""
    return f"/{camera}/image_raw"


def contact_topic(finger: str) -> str:
    """Gives what a finger touches (``gz.msgs.Contacts``)."""
    return f"/model/{ARM}/{finger}/contacts"


def _system(parent: ET.Element, library: str, name: str, settings: dict[str, object]) -> None:
    plugin = add(parent, "plugin", filename=f"gz-sim-{library}-system", name=f"gz::sim::systems::{name}")
    for key, value in settings.items():
        add(plugin, key, value)


def add_world_systems(world: ET.Element) -> None:
    """Physics, rendering, and the services that a running Gazebo offers."""
    for library, (name, settings) in _WORLD_SYSTEMS.items():
        _system(world, library, name, settings)


def add_arm_systems(arm: ET.Element, plan: ScenePlan) -> None:
    """A joint state publisher, and for each joint a position controller with the servo's stiffness (its damping is the joint's)."""
    servos = plan.servos()
    publisher = add(arm, "plugin", filename="gz-sim-joint-state-publisher-system", name="gz::sim::systems::JointStatePublisher")
    add(publisher, "topic", JOINT_STATE_TOPIC)
    for joint in servos:
        add(publisher, "joint_name", joint)
    home = dict(zip(plan.robot.joint_names, plan.robot.home))
    for joint, servo in servos.items():
        start = home[plan.robot.mimics[joint][0]] if joint in plan.robot.mimics else home[joint]
        settings = {
            "joint_name": joint, "topic": position_topic(joint), "initial_position": start, "p_gain": servo.stiffness, "i_gain": 0.0, "d_gain": 0.0,
            "cmd_max": servo.effort, "cmd_min": -servo.effort,
        }  # fmt: skip
        _system(arm, "joint-position-controller", "JointPositionController", settings)


def add_camera_topics(sensor: ET.Element, camera: str) -> None:
    """Topic and frame as the ROS node expects them."""
    add(sensor, "topic", image_topic(camera))
    add(sensor, "gz_frame_id", CAMERA_FRAME[camera])
    add(sensor.find("camera"), "camera_info_topic", f"/{camera}/camera_info")
    add(sensor.find("camera"), "optical_frame_id", CAMERA_FRAME[camera])


def add_finger_contacts(arm: ET.Element) -> None:
    """Says what each finger touches; success of a pick depends on it."""
    for finger in FINGERS:
        link = arm.find(f"link[@name='{finger}_link']")
        sensor = add(link, "sensor", name=f"{finger}_contact", type="contact")
        add(sensor, "always_on", True)
        add(sensor, "update_rate", 50.0)
        add(sensor, "contact/collision", f"{finger}_collision")
        add(sensor, "contact/topic", contact_topic(finger))
