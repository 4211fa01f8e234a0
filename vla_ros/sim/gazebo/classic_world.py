# SPDX-License-Identifier: Apache-2.0
"""What a running Gazebo Classic tells of one world, and the commands that it takes.

All values are the newest that arrived; every read is safe from any thread. Stamps are simulated time in ns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vla_ros.robot.description import RobotDescription
from vla_ros.sim.gazebo.arm import ARM
from vla_ros.sim.gazebo.classic_transport import ClassicConnection, GazeboError
from vla_ros.sim.gazebo.gz_transport import IGNITION_GROUP, GzNode
from vla_ros.sim.gazebo.joints import JointReader, Pose
from vla_ros.sim.gazebo.messages import classic, sim
from vla_ros.sim.gazebo.newest import NewestReadings, link_of, nanoseconds, pose_of
from vla_ros.sim.gazebo.plan import Servo

IMAGE_TOPICS = {"front": "front_camera/link/front/image", "wrist": f"{ARM}/hand_link/wrist/image"}
_COMMAND_TOPIC = f"/{ARM}/joint_cmd"


class ClassicWorld(NewestReadings):
    """Subscribes to everything that the tabletop needs. Call ``close``.

    Args:
        connection: to the server; closed with this.
        partition: of the server's ignition topics.
        robot: whose joints are read.
        servos: how each joint follows its target.
        alive: whether the server still runs, for prompt errors.
    """

    def __init__(
        self,
        connection: ClassicConnection,
        partition: str,
        robot: RobotDescription,
        servos: Mapping[str, Servo],
        alive: Callable[[], bool] = lambda: True,
    ) -> None:
        super().__init__()
        self._connection, self._servos, self._alive = connection, servos, alive
        self._reader = JointReader(robot)
        self._arm_ns = -1
        self._arm: dict[str, Pose] = {}
        self._contacts: list[tuple[str, str]] = []
        connection.subscribe("pose/local/info", "PosesStamped", self._on_poses)
        connection.subscribe("physics/contacts", "Contacts", self._on_contacts)
        for camera, topic in IMAGE_TOPICS.items():
            connection.subscribe(topic, "ImageStamped", lambda message, camera=camera: self._on_image(camera, message))
        self._control = connection.advertise("world_control", "WorldControl")
        self._joints = GzNode(partition, IGNITION_GROUP, "ignition.msgs")
        self._joints.advertise(_COMMAND_TOPIC, "JointCmd")

    # ---- commands ----

    def command(self, targets: Mapping[str, float]) -> None:
        """Sets the servos' targets, rad or m."""
        for joint, target in targets.items():
            position = sim.PID(target_optional=sim.Double(data=float(target)))
            servo = self._servos[joint]
            gains = {"p_gain": servo.stiffness, "i_gain": 0.0, "d_gain": 0.0, "limit": servo.effort}
            for name, value in gains.items():
                getattr(position, f"{name}_optional").data = value
            self._joints.publish(_COMMAND_TOPIC, sim.JointCmd(name=f"{ARM}::{joint}", position=position))

    def step(self, steps: int) -> None:
        """Lets a paused world do ``steps`` physics steps; does not wait for them."""
        self._control.publish(classic.WorldControl(multi_step=steps))

    # ---- what is known ----

    def joints(self) -> tuple[int, np.ndarray]:
        """Stamp and positions [J] in the description's order: rad, the gripper in m."""
        with self._changed:
            stamp_ns, poses = self._arm_ns, dict(self._arm)
        if not poses:
            return -1, np.zeros(0)
        return stamp_ns, self._reader.positions(poses)

    def contacts(self) -> list[tuple[str, str]]:
        """Pairs of ``(model::link, model::link)`` that touched in the newest physics step."""
        return self._contacts

    def has_arm_of(self, stamp_ns: int, timeout_s: float) -> bool:
        """Waits a moment for the arm's poses of ``stamp_ns`` or later."""
        return self.comes(lambda: self._arm_ns >= stamp_ns, timeout_s)

    def close(self) -> None:
        """Ends all connections."""
        self._joints.close()
        self._connection.close()

    def _raise_if_lost(self, what: str, timeout_s: float, is_late: bool) -> None:
        if not self._alive():
            raise GazeboError(f"Gazebo has ended while {what} was awaited")
        if is_late:
            raise GazeboError(f"Gazebo gave no {what} in {timeout_s:g} s: it hangs or is paused")

    # ---- callbacks, each in a thread of its own ----

    def _on_poses(self, message: Any) -> None:
        stamp = nanoseconds(message.time)
        arm, objects = {}, {}
        for pose in message.pose:
            model, _, link = pose.name.partition("::")
            if model == ARM and link:
                arm[link] = pose_of(pose)
            elif model != ARM and not link:
                objects[model] = pose_of(pose)
        with self._changed:
            self.time_ns = stamp
            self._objects.update(objects)
            if arm:
                self._arm_ns = stamp
                self._arm.update(arm)
            self._changed.notify_all()

    def _on_contacts(self, message: Any) -> None:
        self._contacts = [(link_of(c.collision1), link_of(c.collision2)) for c in message.contact]

    def _on_image(self, camera: str, message: Any) -> None:
        self._keep_picture(camera, message.time, message.image, message.image.pixel_format)
