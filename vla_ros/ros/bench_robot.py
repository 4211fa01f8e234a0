# SPDX-License-Identifier: Apache-2.0
"""A robot that makes work: joint states, two cameras of 640x480 at 30 Hz, instructions up to a flood. Started by ``vla bench``.

Reads one order a line: ``idle`` (joint states only), ``load`` (with cameras and an instruction), ``flood`` (and 1,000 instructions a second);
the end of the input ends it. It goes exactly where the command says.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Callable
from itertools import cycle
from typing import Any

import numpy as np
import rclpy
from rclpy.node import Node
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from vla_ros.core.paths import bundle_dir, robot_config_path
from vla_ros.robot.description import RobotDescription
from vla_ros.ros import qos
from vla_ros.ros.answers import reply
from vla_ros.ros.polled import PolledSubscription
from vla_ros.ros.sim_messages import image_message, joint_state_message, time_message
from vla_ros.ros.transport import use_fastdds_profile
from vla_ros.runtime.bundle import load_bundle

CONDITIONS = ("idle", "load", "flood")
INSTRUCTIONS = ("put the red cube in the blue bowl", "push the blue cylinder to the left", "stack the red cube on the blue cube")
HEIGHT, WIDTH = 480, 640
JOINT_RATE_HZ, IMAGE_RATE_HZ, FLOOD_RATE_HZ, INSTRUCTION_RATE_HZ = 100.0, 30.0, 1000.0, 1.0
_PICTURES = 8  # of each camera, shown in turn


class Robot:
    """Threads that publish at their rates by absolute deadlines; nothing here is served by an executor."""

    def __init__(self, robot: RobotDescription, cameras: tuple[str, ...]) -> None:
        """Makes publishers; ``start`` begins."""
        self._robot = robot
        self._position_J = robot.home.copy()
        self._node = Node("bench_robot")
        create = self._node.create_publisher
        self._joints = create(JointState, "joint_states", qos.SENSOR_SOURCE)
        self._instruction = create(String, "instruction", qos.COMMAND)
        self._images = {name: create(Image, f"{name}/image_raw", qos.SENSOR) for name in cameras}
        self._pictures = {name: cycle(make_pictures(index)) for index, name in enumerate(cameras)}
        self._command = PolledSubscription(self._node, JointTrajectory, "command", qos.COMMAND)
        self._stop = threading.Event()
        self._flood = threading.Event()
        self.condition = "idle"
        self.sent = dict.fromkeys(("joints", "images", "instructions"), 0)

    def start(self) -> None:
        """Begins to publish."""
        for rate_hz, step in (
            (JOINT_RATE_HZ, self._send_joints),
            (IMAGE_RATE_HZ, self._send_images),
            (INSTRUCTION_RATE_HZ, self._send_instruction),
            (FLOOD_RATE_HZ, self._send_flood),
        ):
            threading.Thread(target=self._repeat, args=(rate_hz, step), daemon=True).start()

    def set_condition(self, condition: str) -> None:
        """One of ``CONDITIONS``."""
        if condition not in CONDITIONS:
            raise ValueError(f"unknown order {condition!r}: choose of {', '.join(CONDITIONS)}")
        self.condition = condition
        (self._flood.set if condition == "flood" else self._flood.clear)()
        if condition == "idle":
            self._say("")

    def close(self) -> None:
        """Stops the threads."""
        self._stop.set()
        self._flood.set()

    def _repeat(self, rate_hz: float, step: Callable[[], None]) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            if step == self._send_flood and not self._flood.is_set():
                self._flood.wait()
                due = time.monotonic()
            step()
            due = max(due + 1.0 / rate_hz, time.monotonic() - 0.1)  # catches up to a tenth of a second
            time.sleep(max(due - time.monotonic(), 0.0))

    def _send_joints(self) -> None:
        command = self._command.take()
        if command is not None:
            order = [command.joint_names.index(name) for name in self._robot.joint_names]
            self._position_J = np.array(command.points[0].positions)[order]
        zeros = np.zeros_like(self._position_J)
        self._joints.publish(joint_state_message(self._robot.joint_names, self._position_J, zeros, zeros, self._stamp()))
        self.sent["joints"] += 1

    def _send_images(self) -> None:
        if self.condition == "idle":
            return
        for name, publisher in self._images.items():
            message = next(self._pictures[name])
            message.header.stamp = self._stamp()
            publisher.publish(message)
            self.sent["images"] += 1

    def _send_instruction(self) -> None:
        """Again and again, so that a policy that says that it is done goes on; while a flood runs it sends them."""
        if self.condition == "load":
            self._say(INSTRUCTIONS[0])

    def _send_flood(self) -> None:
        """The text changes once a second."""
        if self.condition == "flood":
            self._say(INSTRUCTIONS[int(time.monotonic()) % len(INSTRUCTIONS)])

    def _say(self, text: str) -> None:
        self._instruction.publish(String(data=text))
        self.sent["instructions"] += 1

    def _stamp(self) -> Any:
        return time_message(self._node.get_clock().now().nanoseconds)


def make_pictures(seed: int) -> list[Image]:
    """Messages of coarse noise, each another picture."""
    rng = np.random.default_rng(seed)
    pictures = []
    for _ in range(_PICTURES):
        coarse = rng.integers(40, 220, (HEIGHT // 40, WIDTH // 40, 3), dtype=np.uint8)
        message = image_message(np.ascontiguousarray(coarse.repeat(40, axis=0).repeat(40, axis=1)), time_message(0), f"camera_{seed}")
        pictures.append(message)
    return pictures


def main(argv: list[str] | None = None) -> int:
    """Publishes until its input ends."""
    parser = argparse.ArgumentParser(prog="vla_ros.ros.bench_robot", description="Joint states, cameras and instructions; started by vla bench.")
    parser.add_argument("--model", required=True, help="policy bundle, for its cameras and robot")
    arguments = parser.parse_args(sys.argv[1:] if argv is None else argv)
    use_fastdds_profile()
    manifest = load_bundle(bundle_dir(arguments.model)).manifest
    rclpy.init()
    robot = Robot(RobotDescription.load(robot_config_path(manifest.robot)), tuple(camera.name for camera in manifest.cameras))
    robot.start()
    for line in sys.stdin:
        try:
            robot.set_condition(line.strip())
            reply(condition=robot.condition, sent=dict(robot.sent))
        except ValueError as error:
            reply(error=str(error))
    robot.close()
    time.sleep(0.1)
    rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
