# SPDX-License-Identifier: Apache-2.0
"""How soon the real node stops, as the robot sees it over DDS: e-stop, joint states or pictures that end, an inference process that is killed.

Times run from the moment a fault can be known (the message is sent, the age of the last message passes its limit, the process is killed) to the
status message that says the stop has begun, both transports included. What a killed inference process costs runs on until the arm is led again.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from vla_ros.bench.nodes import START_S, require_ros, ros_environment
from vla_ros.bench.rounds import entry
from vla_ros.core import tabletop
from vla_ros.core.errors import VlaError
from vla_ros.core.paths import bundle_dir, robot_config_path
from vla_ros.processes import Process, child_processes

CONTROL_PERIOD_MS, WATCHDOG_MS, RECOVERY_MS = 20.0, 100.0, 5000.0  # limits
MAX_JOINT_AGE_S, MAX_IMAGE_AGE_S, MAX_SKEW_S = 0.1, 0.5, 0.5
POLL_S = 2e-4
MOVES_S = 0.3  # the arm is led this long before a fault
STOPS, BACK = "stop_begins", "back_in_operation"


def bench_stops(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Returns ``results``: limits of the longest are one control period for the e-stop, 100 ms for inputs, 5 s until the arm is led again."""
    require_ros()
    os.environ.update(ros_environment())
    with _running(options.model) as rig:
        faults: dict[str, Callable[[], dict[str, float]]] = {
            "e-stop": rig.press_e_stop, "joint states end": rig.end_joint_states, "pictures end": rig.end_pictures, "inference killed": rig.kill_inference,
        }
        draw = random.Random(0).sample
        turns = [name for _ in range(options.stops) for name in draw(list(faults), len(faults))]
        found: dict[tuple[str, str], list[float]] = {}
        for name in track(turns, description="stops", console=console):
            rig.lead()
            for metric, milliseconds in faults[name]().items():
                found.setdefault((name, metric), []).append(milliseconds)
    limits = {"e-stop": CONTROL_PERIOD_MS, "joint states end": WATCHDOG_MS, "pictures end": WATCHDOG_MS}
    results = []
    for (name, metric), values in sorted(found.items(), key=lambda item: (item[0][1] == BACK, list(faults).index(item[0][0]))):
        limit = RECOVERY_MS if metric == BACK else limits.get(name)
        results.append(entry(name, metric, "ms", values, **({"limit": {"max": limit}} if limit else {})))
    return {"results": results}


class _Rig:
    """The running node and its robot, whose newest status is polled."""

    def __init__(self, robot: Any, node: Process, resume: Callable[[], Any]) -> None:
        self._robot, self._node, self._resume = robot, node, resume
        self._sent_s = {"joints": 0.0, "images": 0.0}
        robot.alter_joints = lambda _: self._sent_s.__setitem__("joints", time.monotonic())
        robot.alter_image = lambda _, __: self._sent_s.__setitem__("images", time.monotonic())

    def lead(self) -> None:
        """Everything works and the policy leads the arm."""
        self._robot.joints_on, self._robot.cameras_on = True, {camera.name for camera in tabletop.CAMERAS}
        deadline, asked_s = time.monotonic() + START_S, 0.0
        while not self._acts_for(MOVES_S):
            if time.monotonic() > deadline:
                raise VlaError(f"the node did not act within {START_S:.0f} s; it says {self._robot.code or 'nothing'}")
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
            time.sleep(POLL_S)
        time.sleep(0.02)
        return False

    def press_e_stop(self) -> dict[str, float]:
        """From the message to LATCHED."""
        begin_s = time.monotonic()
        self._robot.press_e_stop(True)
        return {STOPS: self._until(lambda: self._robot.state == "latched", begin_s)}

    def end_joint_states(self) -> dict[str, float]:
        """From the age limit of the last joint state to a hold."""
        self._robot.joints_on = False
        return {STOPS: self._until(self._holds, lambda: self._sent_s["joints"] + MAX_JOINT_AGE_S)}

    def end_pictures(self) -> dict[str, float]:
        """From the age limit of the last picture to a hold."""
        self._robot.cameras_on = set()
        return {STOPS: self._until(self._holds, lambda: self._sent_s["images"] + MAX_IMAGE_AGE_S)}

    def kill_inference(self) -> dict[str, float]:
        """From SIGKILL to a hold, and until the arm is led again."""
        (pid,) = child_processes(self._node.pid)["worker"]
        begin_s = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        return {STOPS: self._until(self._holds, begin_s), BACK: self._until(lambda: self._robot.state == "acting", begin_s)}

    def _holds(self) -> bool:
        return self._robot.state == "holding"

    def _until(self, condition: Callable[[], bool], begin_s: float | Callable[[], float]) -> float:
        deadline = time.monotonic() + START_S
        while not condition():
            if time.monotonic() > deadline:
                raise VlaError(f"nothing happened within {START_S:.0f} s; the node says {self._robot.code or 'nothing'}")
            time.sleep(POLL_S)
        seen_s = time.monotonic()
        return 1e3 * (seen_s - (begin_s() if callable(begin_s) else begin_s))


@contextlib.contextmanager
def _running(model: str) -> Iterator[_Rig]:
    """The node as `vla run` starts it, and a robot in this process."""
    import rclpy
    from std_srvs.srv import Trigger

    from vla_ros.robot.description import RobotDescription
    from vla_ros.ros.fake_robot import FakeRobot

    ages = {"max_joint_age_s": MAX_JOINT_AGE_S, "max_image_age_s": MAX_IMAGE_AGE_S, "max_skew_s": MAX_SKEW_S}
    words = [word for name, value in ages.items() for word in ("-p", f"{name}:={value}")]
    rclpy.init()
    with contextlib.ExitStack() as stack:
        stack.callback(rclpy.try_shutdown)
        robot = FakeRobot(RobotDescription.load(robot_config_path(tabletop.ROBOT)), tabletop.CAMERAS, joint_rate_hz=100.0, image_rate_hz=30.0)
        stack.callback(robot.close)
        resume = robot.node.create_client(Trigger, "vla_policy/resume")
        command = [sys.executable, "-m", "vla_ros.ros.run", "--model", str(bundle_dir(model).resolve()), "--ros-args", *words]
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vla_bench_")))
        node = stack.enter_context(Process("vla_policy", command, folder / "node.log"))
        yield _Rig(robot, node, lambda: resume.service_is_ready() and resume.call_async(Trigger.Request()))
