# SPDX-License-Identifier: Apache-2.0
"""A robot for tests, shipped with the library: drivers that do exactly as told, faults included. No physics, no limits.

It publishes joint states and pictures, follows ``command`` perfectly, and keeps everything that the policy node said.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Bool, Float64MultiArray, Int32MultiArray, String
from trajectory_msgs.msg import JointTrajectory

from vla_ros.core.observation import CameraSpec
from vla_ros.robot.description import RobotDescription
from vla_ros.ros import qos
from vla_ros.ros.sim_messages import image_message, joint_state_message, time_message


@dataclass(frozen=True)
class Command:
    """One received command: when (monotonic, s), and position and velocity [J] of its first point."""

    time_s: float
    position_J: np.ndarray
    velocity_J: np.ndarray


class FakeRobot:
    """Joint states at ``joint_rate_hz``, pictures at ``image_rate_hz``, both by the steady clock, in a thread of its own.

    Attributes:
        joints_on: publish joint states.
        cameras_on: names of the cameras that publish.
        alter_joints: called with each joint state before it is published.
        alter_image: called with the camera's name and each picture before it is published.
        follows: whether the joints go where the command says.
        position_J: where the joints are, rad or m.
        failure: what ended the thread.
    """

    def __init__(
        self, robot: RobotDescription, cameras: tuple[CameraSpec, ...], joint_rate_hz: float = 50.0, image_rate_hz: float = 15.0
    ) -> None:
        """Starts at the robot's home; rclpy must be initialised."""
        self._robot = robot
        self._cameras = cameras
        self._rng = np.random.default_rng(0)
        self.node = Node("fake_robot")
        self.joints_on, self.cameras_on, self.follows = True, {c.name for c in cameras}, True
        self.alter_joints: Callable[[JointState], None] = lambda _: None
        self.alter_image: Callable[[str, Image], None] = lambda _, __: None
        self.position_J = robot.home.copy()
        self.failure: Exception | None = None
        self.commands: list[Command] = []
        self.statuses: list[dict[str, str]] = []
        self.actions: list[Float64MultiArray] = []
        self.tokens: list[Int32MultiArray] = []
        self.plans: list[str] = []
        self._publish_and_subscribe(joint_rate_hz, image_rate_hz)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._spin, name="fake_robot", daemon=True)
        self._thread.start()

    def _publish_and_subscribe(self, joint_rate_hz: float, image_rate_hz: float) -> None:
        node, steady = self.node, Clock(clock_type=ClockType.STEADY_TIME)
        self._joints = node.create_publisher(JointState, "joint_states", qos.SENSOR_SOURCE)
        self._images = {c.name: node.create_publisher(Image, f"{c.name}/image_raw", qos.SENSOR_SOURCE) for c in self._cameras}
        self._instruction = node.create_publisher(String, "instruction", qos.COMMAND)
        self._e_stop = node.create_publisher(Bool, "e_stop", qos.COMMAND)
        self.command_subscription = node.create_subscription(JointTrajectory, "command", self._on_command, qos.EVENTS)
        node.create_subscription(DiagnosticStatus, "vla_policy/status", self._on_status, qos.STATUS)
        node.create_subscription(Float64MultiArray, "vla_policy/action", self.actions.append, qos.EVENTS)
        node.create_subscription(Int32MultiArray, "vla_policy/action_tokens", self.tokens.append, qos.EVENTS)
        node.create_subscription(String, "vla_policy/plan", lambda message: self.plans.append(message.data), qos.EVENTS)
        node.create_timer(1.0 / joint_rate_hz, self._send_joints, clock=steady)
        node.create_timer(1.0 / image_rate_hz, self._send_images, clock=steady)

    # ---- what a person does ----

    def instruct(self, text: str) -> None:
        """Gives an instruction."""
        self._instruction.publish(String(data=text))

    def press_e_stop(self, pressed: bool) -> None:
        """Presses or releases the emergency stop."""
        self._e_stop.publish(Bool(data=pressed))

    def use_clock(self, simulated: bool) -> None:
        """Stamps with the time of /clock or of the system."""
        self.node.set_parameters([Parameter("use_sim_time", value=simulated)])

    # ---- what is known of the policy node ----

    @property
    def code(self) -> str:
        """Its newest status code."""
        return self.statuses[-1]["code"] if self.statuses else ""

    @property
    def state(self) -> str:
        """Its newest control state."""
        return self.statuses[-1].get("state", "") if self.statuses else ""

    @property
    def hears_instructions(self) -> bool:
        """Whether it is connected to this node."""
        return self._instruction.get_subscription_count() > 0 and self._e_stop.get_subscription_count() > 0

    def speed(self) -> float:
        """Largest joint speed of the newest command, rad/s or m/s."""
        return float(np.abs(self.commands[-1].velocity_J).max()) if self.commands else 0.0

    def run(self, function: Callable[[], Any], timeout_s: float = 10.0) -> Any:
        """Runs ``function`` in the robot's thread: entities must not be destroyed while an executor waits for them."""
        done: Future = Future()

        def call() -> None:
            try:
                done.set_result(function())
            except Exception as error:  # belongs to the caller
                done.set_exception(error)

        self._executor.create_task(call)
        return done.result(timeout_s)

    def close(self) -> None:
        """Stops the thread and destroys the node."""
        self._closing.set()
        self._executor.wake()
        self._thread.join(2.0)
        self._executor.shutdown(timeout_sec=1.0)
        self.node.destroy_node()

    # ---- drivers ----

    def _spin(self) -> None:
        try:
            while not self._closing.is_set():
                self._executor.spin_once()
        except ExternalShutdownException:
            pass
        except Exception as error:  # a test must learn why its robot fell silent
            self.failure = error
            raise

    def _stamp(self) -> Any:
        return time_message(self.node.get_clock().now().nanoseconds)

    def _send_joints(self) -> None:
        if self.joints_on:
            zeros = np.zeros_like(self.position_J)
            message = joint_state_message(self._robot.joint_names, self.position_J, zeros, zeros, self._stamp())
            self.alter_joints(message)
            self._joints.publish(message)

    def _send_images(self) -> None:
        for camera in self._cameras:
            if camera.name in self.cameras_on:
                picture = self._rng.integers(0, 256, (camera.height, camera.width, 3), dtype=np.uint8)
                message = image_message(picture, self._stamp(), f"{camera.name}_camera_optical_frame")
                self.alter_image(camera.name, message)
                self._images[camera.name].publish(message)

    def _on_command(self, message: JointTrajectory) -> None:
        order = [message.joint_names.index(n) for n in self._robot.joint_names]
        position_J, velocity_J = (np.array(v)[order] for v in (message.points[0].positions, message.points[0].velocities))
        self.commands.append(Command(time.monotonic(), position_J, velocity_J))
        if self.follows:
            self.position_J = position_J

    def _on_status(self, message: DiagnosticStatus) -> None:
        self.statuses.append({**{pair.key: pair.value for pair in message.values}, "sentence": message.message})
