# SPDX-License-Identifier: Apache-2.0
"""What a running Gazebo Sim (``gz sim``) tells of the tabletop, and the commands that it takes, without ros_gz.

The world must be one that ``vla sim export-sdf`` has written. All values are the newest that arrived; every read is safe from any thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vla_ros.robot.description import RobotDescription
from vla_ros.sim.gazebo.arm import ARM
from vla_ros.sim.gazebo.classic_transport import GazeboError
from vla_ros.sim.gazebo.gz_transport import GzNode, default_partition
from vla_ros.sim.gazebo.messages import sim
from vla_ros.sim.gazebo.newest import NewestReadings, link_of, nanoseconds, pose_of
from vla_ros.sim.gazebo.sdf import WORLD_NAME
from vla_ros.sim.gazebo.systems import FINGERS, JOINT_STATE_TOPIC, contact_topic, image_topic, position_topic
from vla_ros.sim.scene import CAMERAS

POSE_TOPIC = f"/world/{WORLD_NAME}/dynamic_pose/info"
CLOCK_TOPIC = f"/world/{WORLD_NAME}/clock"
_CONTACT_LASTS_NS = 100_000_000  # the sensor is silent while nothing touches


class SimWorld(NewestReadings):
    """Subscribes to everything that the tabletop needs. Call ``close``.

    Args:
        robot: whose joints are read.
        partition: of that Gazebo; by default what Gazebo itself takes.

    Raises:
        ConfigError: pyzmq is missing or discovery is not possible.
    """

    def __init__(self, robot: RobotDescription, partition: str | None = None) -> None:
        super().__init__()
        self._names = robot.joint_names
        self._joints_ns = -1
        self._positions = robot.home.copy()
        self._contacts: dict[str, tuple[int, list[tuple[str, str]]]] = {}
        self._node = GzNode(partition or default_partition())
        self._node.subscribe(CLOCK_TOPIC, "Clock", self._on_clock)
        self._node.subscribe(JOINT_STATE_TOPIC, "Model", self._on_joints)
        self._node.subscribe(POSE_TOPIC, "Pose_V", self._on_poses)
        for finger in FINGERS:
            self._node.subscribe(contact_topic(finger), "Contacts", lambda message, finger=finger: self._on_contacts(finger, message))
        for camera in CAMERAS:
            self._node.subscribe(image_topic(camera), "Image", lambda message, camera=camera: self._on_image(camera, message))
        for joint in (*robot.joint_names, *robot.mimics):
            self._node.offer(position_topic(joint), "Double")

    def command(self, targets: Mapping[str, float]) -> None:
        """Sets the targets of position controllers, rad or m."""
        for joint, target in targets.items():
            self._node.publish(position_topic(joint), sim.Double(data=float(target)))

    def joints(self) -> tuple[int, np.ndarray]:
        """Stamp and positions [J] in the description's order: rad, the gripper in m."""
        with self._changed:
            return self._joints_ns, self._positions.copy()

    def contacts(self) -> list[tuple[str, str]]:
        """Pairs of ``model::link`` that touched in the last tenth of a second, of which one is a finger."""
        recent = [pairs for stamp_ns, pairs in self._contacts.values() if self.time_ns - stamp_ns <= _CONTACT_LASTS_NS]
        return [pair for pairs in recent for pair in pairs]

    def close(self) -> None:
        """Ends all connections."""
        self._node.close()

    def _raise_if_lost(self, what: str, timeout_s: float, is_late: bool) -> None:
        if is_late:
            raise GazeboError(
                f"no {what} from Gazebo in {timeout_s:g} s: start `gz sim -r config/gazebo/tabletop.sdf` with the same GZ_PARTITION as here"
            )

    # ---- callbacks, in the node's thread ----

    def _on_clock(self, message: Any) -> None:
        with self._changed:
            self.time_ns = nanoseconds(message.sim)
            self._changed.notify_all()

    def _on_joints(self, message: Any) -> None:
        found = {joint.name: joint.axis1.position for joint in message.joint}
        if not set(self._names) <= set(found):
            return
        with self._changed:
            self._positions = np.array([found[name] for name in self._names])
            self._joints_ns = nanoseconds(message.header.stamp)
            self._changed.notify_all()

    def _on_poses(self, message: Any) -> None:
        poses = {pose.name: pose_of(pose) for pose in message.pose if pose.name != ARM}
        with self._changed:
            self._objects.update(poses)  # links are among them under names that no model has
            self._changed.notify_all()

    def _on_contacts(self, finger: str, message: Any) -> None:
        pairs = [(link_of(c.collision1.name), link_of(c.collision2.name)) for c in message.contact]
        self._contacts[finger] = (nanoseconds(message.header.stamp), pairs)

    def _on_image(self, camera: str, message: Any) -> None:
        self._keep_picture(camera, message.header.stamp, message, message.pixel_format_type)
