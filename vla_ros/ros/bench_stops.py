# SPDX-License-Identifier: Apache-2.0
"""A robot that breaks something while the policy leads it, and the times until the node's status says so. Started by ``vla bench stops``.

Times run from the moment a fault can be known (the message is sent, the age of the last message passes its limit, the process is killed) to the
status message that says the stop has begun, both transports included. Each line of input is a fault; the answer holds milliseconds by metric.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import rclpy
from std_srvs.srv import Trigger

from vla_ros.core import tabletop
from vla_ros.core.errors import VlaError
from vla_ros.core.paths import robot_config_path
from vla_ros.processes import child_processes
from vla_ros.robot.description import RobotDescription
from vla_ros.ros.answers import reply
from vla_ros.ros.fake_robot import FakeRobot
from vla_ros.ros.transport import use_fastdds_profile

STOP, BACK = "stop_begins", "back_in_operation"
_WAIT_S = 120.0
_POLL_S = 2e-4
_LED_S = 0.3  # the arm is led this long before a fault


class Faults:
    """What breaks, with the robot whose newest status is polled.

    Args:
        robot: the robot; its hooks are taken.
        resume: asks the node to leave a latch.
        node_pid: the node's process, whose child the inference process is.
        max_joint_age_s, max_image_age_s: the node's own limits.
    """

    def __init__(self, robot: FakeRobot, resume: Callable[[], Any], node_pid: int, max_joint_age_s: float, max_image_age_s: float) -> None:
        self._robot, self._resume, self._node_pid = robot, resume, node_pid
        self._max_joint_age_s, self._max_image_age_s = max_joint_age_s, max_image_age_s
        self._joints_sent_s = self._images_sent_s = 0.0
        robot.alter_joints, robot.alter_image = self._note_joints, self._note_image
        self.by_name = {
            "e-stop": self._press_e_stop, "joint states end": self._end_joint_states, "pictures end": self._end_pictures, "inference killed": self._kill_inference
        }

    def _note_joints(self, _: object) -> None:
        self._joints_sent_s = time.monotonic()

    def _note_image(self, _: str, __: object) -> None:
        self._images_sent_s = time.monotonic()

    def lead(self) -> None:
        """Everything works and the policy leads the arm."""
        self._robot.joints_on, self._robot.cameras_on = True, {camera.name for camera in tabletop.CAMERAS}
        deadline, asked_s = time.monotonic() + _WAIT_S, 0.0
        while not self._acts_for(_LED_S):
            if time.monotonic() > deadline:
                raise VlaError(f"the node did not act within {_WAIT_S:.0f} s; it says {self._robot.code or 'nothing'}")
            if time.monotonic() - asked_s > 1.0:  # noise as pictures: answers may be rejected, or say that the task is done
                asked_s = time.monotonic()
                self._robot.press_e_stop(False)
                self._resume()
                self._robot.instruct("go on")

    def _acts_for(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while self._robot.state == "acting":
            if time.monotonic() > end:
                return True
            time.sleep(_POLL_S)
        time.sleep(0.02)
        return False

    def _press_e_stop(self) -> dict[str, float]:
        """From the message to LATCHED."""
        begin_s = time.monotonic()
        self._robot.press_e_stop(True)
        return {STOP: self._until(lambda: self._robot.state == "latched", begin_s)}

    def _end_joint_states(self) -> dict[str, float]:
        """From the age limit of the last joint state to a hold."""
        self._robot.joints_on = False
        return {STOP: self._until(self._holds, lambda: self._joints_sent_s + self._max_joint_age_s)}

    def _end_pictures(self) -> dict[str, float]:
        """From the age limit of the last picture to a hold."""
        self._robot.cameras_on = set()
        return {STOP: self._until(self._holds, lambda: self._images_sent_s + self._max_image_age_s)}

    def _kill_inference(self) -> dict[str, float]:
        """From SIGKILL to a hold, and until the arm is led again."""
        (pid,) = child_processes(self._node_pid)["worker"]
        begin_s = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        return {STOP: self._until(self._holds, begin_s), BACK: self._until(lambda: self._robot.state == "acting", begin_s)}

    def _holds(self) -> bool:
        return self._robot.state == "holding"

    def _until(self, condition: Callable[[], bool], begin_s: float | Callable[[], float]) -> float:
        deadline = time.monotonic() + _WAIT_S
        while not condition():
            if time.monotonic() > deadline:
                raise VlaError(f"nothing happened within {_WAIT_S:.0f} s; the node says {self._robot.code or 'nothing'}")
            time.sleep(_POLL_S)
        seen_s = time.monotonic()
        return 1e3 * (seen_s - (begin_s() if callable(begin_s) else begin_s))


def main(argv: list[str] | None = None) -> int:
    """Breaks what its input names until that ends."""
    parser = argparse.ArgumentParser(prog="vla_ros.ros.bench_stops", description="A robot that breaks something; started by vla bench.")
    parser.add_argument("--node-pid", type=int, required=True, help="process of the node")
    parser.add_argument("--max-joint-age-s", type=float, required=True, help="the node's parameter max_joint_age_s")
    parser.add_argument("--max-image-age-s", type=float, required=True, help="the node's parameter max_image_age_s")
    options = parser.parse_args(sys.argv[1:] if argv is None else argv)
    use_fastdds_profile()
    rclpy.init()
    robot = FakeRobot(RobotDescription.load(robot_config_path(tabletop.ROBOT)), tabletop.CAMERAS, joint_rate_hz=100.0, image_rate_hz=30.0)
    resume = robot.node.create_client(Trigger, "vla_policy/resume")
    faults = Faults(
        robot, lambda: resume.service_is_ready() and resume.call_async(Trigger.Request()), options.node_pid, options.max_joint_age_s, options.max_image_age_s
    )
    for line in sys.stdin:
        try:
            faults.lead()
            reply(**faults.by_name[line.strip()]())
        except VlaError as error:
            reply(error=str(error))
    robot.close()
    rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
