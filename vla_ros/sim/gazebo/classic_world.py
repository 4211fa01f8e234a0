# SPDX-License-Identifier: Apache-2.0
"""What a running Gazebo Classic tells of one world, and the commands that it takes.

All values are the newest that arrived; every read is safe from any thread. Stamps are simulated time in ns.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vla_ros.robot.description import RobotDescription
from vla_ros.sim.gazebo.arm import ARM
from vla_ros.sim.gazebo.classic_transport import ClassicConnection, GazeboError
from vla_ros.sim.gazebo.gz_transport import IGNITION_GROUP, GzNode
from vla_ros.sim.gazebo.joints import JointReader, Pose
from vla_ros.sim.gazebo.judged import Picture
from vla_ros.sim.gazebo.messages import classic, sim
from vla_ros.sim.gazebo.plan import Servo

IMAGE_TOPICS = {"front": "front_camera/link/front/image", "wrist": f"{ARM}/hand_link/wrist/image"}
_COMMAND_TOPIC = f"/{ARM}/joint_cmd"
_RGB8 = 3
_NS = 1_000_000_000
_ANSWER_S = 30.0  # a step of a few milliseconds that takes this long is a server that hangs


class ClassicWorld:
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
        self._connection, self._servos, self._alive = connection, servos, alive
        self._reader = JointReader(robot)
        self._changed = threading.Condition()
        self._time_ns = self._arm_ns = -1
        self._arm: dict[str, Pose] = {}
        self._objects: dict[str, Pose] = {}
        self._contacts: tuple[int, list[tuple[str, str]]] = (-1, [])
        self._pictures: dict[str, Picture] = {}
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

    def pause(self, paused: bool) -> None:
        """Stops or goes on."""
        self._control.publish(classic.WorldControl(pause=paused))

    def reset_time(self) -> None:
        """Sets simulated time and all poses back to the beginning."""
        self._control.publish(classic.WorldControl(reset=classic.WorldReset(all=True)))

    # ---- what is known ----

    @property
    def time_ns(self) -> int:
        """Simulated time; -1 before the first message."""
        return self._time_ns

    def joints(self) -> tuple[int, np.ndarray]:
        """Stamp and positions [J] in the description's order: rad, the gripper in m."""
        with self._changed:
            stamp_ns, poses = self._arm_ns, dict(self._arm)
        if not poses:
            return -1, np.zeros(0)
        return stamp_ns, self._reader.positions(poses)

    def objects(self) -> dict[str, Pose]:
        """Pose of every movable model but the arm; a body that has not moved since the start is absent."""
        with self._changed:
            return dict(self._objects)

    def contacts(self) -> list[tuple[str, str]]:
        """Pairs of ``(model::link, model::link)`` that touched in the newest physics step."""
        return self._contacts[1]

    def picture(self, camera: str) -> Picture | None:
        """The newest picture, None before the first."""
        return self._pictures.get(camera)

    def wait_for(self, condition: Callable[[], bool], what: str, timeout_s: float = _ANSWER_S) -> None:
        """Waits until what arrives makes ``condition`` true.

        Raises:
            GazeboError: it did not in time, or the server has ended.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not condition():
                if not self._alive():
                    raise GazeboError(f"Gazebo has ended while {what} was awaited")
                if time.monotonic() > deadline:
                    raise GazeboError(f"Gazebo gave no {what} in {timeout_s:g} s: it hangs or is paused")
                self._changed.wait(0.1)

    def has_arm_of(self, stamp_ns: int, timeout_s: float) -> bool:
        """Waits a moment for the arm's poses of ``stamp_ns`` or later."""
        with self._changed:
            return self._changed.wait_for(lambda: self._arm_ns >= stamp_ns, timeout_s)

    def close(self) -> None:
        """Ends all connections."""
        self._joints.close()
        self._connection.close()

    # ---- callbacks, each in a thread of its own ----

    def _on_poses(self, message: Any) -> None:
        stamp = _nanoseconds(message.time)
        arm, objects = {}, {}
        for pose in message.pose:
            model, _, link = pose.name.partition("::")
            if model == ARM and link:
                arm[link] = _pose(pose)
            elif model != ARM and not link:
                objects[model] = _pose(pose)
        with self._changed:
            self._time_ns = stamp
            self._objects.update(objects)
            if arm:
                self._arm_ns = stamp
                self._arm.update(arm)
            self._changed.notify_all()

    def _on_contacts(self, message: Any) -> None:
        pairs = [(_link_of(c.collision1), _link_of(c.collision2)) for c in message.contact]
        self._contacts = (_nanoseconds(message.time), pairs)

    def _on_image(self, camera: str, message: Any) -> None:
        image = message.image
        if image.pixel_format != _RGB8:
            return
        rows = np.frombuffer(image.data, np.uint8).reshape(image.height, image.step)[:, : 3 * image.width]
        picture = Picture(_nanoseconds(message.time), rows.reshape(image.height, image.width, 3))
        with self._changed:
            self._pictures[camera] = picture
            self._changed.notify_all()


def _nanoseconds(stamp: Any) -> int:
    return stamp.sec * _NS + stamp.nsec


def _pose(pose: Any) -> Pose:
    p, q = pose.position, pose.orientation
    return np.array([p.x, p.y, p.z]), np.array([q.w, q.x, q.y, q.z])


def _link_of(collision: str) -> str:
    return collision.rpartition("::")[0]
