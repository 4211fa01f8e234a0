# SPDX-License-Identifier: Apache-2.0
"""Thousands of bad messages on every input of a running node: ``python -m vla_ros.ros.fuzzing --messages 100000 --seed 0``.

Beside the node there are a fake robot that behaves well and the independent judge of the command (``command_observer``). Storms of messages on
every input take turns with calmer times, in which the robot stands at home again and the policy acts among bad pictures and a few other bad
messages. The same seed sends the same messages in the same order, stamps apart. The result is one JSON object; exit code 0 if the node
lived, acted meanwhile and at the end, and the judge found nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Bool, String

from vla_ros.core.observation import CameraSpec
from vla_ros.robot.description import RobotDescription
from vla_ros.ros.sim_messages import image_message, joint_state_message, time_message

_STORM, _CALM = (0.45, 0.3, 0.2, 0.05), (0.02, 0.974, 0.004, 0.002)  # share of joint states, pictures, instructions, emergency stops
_PHASE = 400  # messages of a storm, and of a calm
_HELP_EVERY = 100  # messages
_STOP_S = 0.5  # longer than any stop of the arm takes
_AT_HOME = 0.06  # rad or m; a resumed node keeps a command that is 0.05 off
_NUMBERS = (float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1e-320, 1e300, -1e300, 3.0, -3.0)
_ENCODINGS = ("rgb8", "bgr8", "mono8", "rgba8", "rgb16", "mono16", "bayer_rggb8", "yuv422", "32FC1", "", "rgb9", "\u0000", "8UC3")
_TEXTS = ("", " ", "\x00", "go\x07\x1b[31m", "\u202e\u2066evil", "e\u0301" * 40, "\U0001f600" * 200, "word " * 5000, "%s%n{0}{instruction}", "go")


class MessageFuzzer:
    """Makes bad messages, and some good ones. ``next(fuzzer)`` gives topic, message type and the message, or its damaged bytes."""

    def __init__(self, seed: int, robot: RobotDescription, cameras: tuple[CameraSpec, ...], now_ns: Callable[[], int]) -> None:
        self._rng = np.random.default_rng(seed)
        self._robot, self._cameras, self._now_ns = robot, cameras, now_ns
        self._count = 0

    @property
    def begins_calm(self) -> bool:
        """Whether the next message is the first of a calm."""
        return self._count % (2 * _PHASE) == _PHASE

    def __iter__(self) -> Iterator[tuple[str, type, Any]]:
        return self

    def __next__(self) -> tuple[str, type, Any]:
        kind = self._rng.choice(4, p=_CALM if self._count // _PHASE % 2 else _STORM)
        self._count += 1
        camera = self._cameras[self._rng.integers(len(self._cameras))]
        topic, message = (
            ("joint_states", self._joint_state()),
            (f"{camera.name}/image_raw", self._image(camera)),
            ("instruction", String(data=self._one_of(_TEXTS))),
            ("e_stop", Bool(data=bool(self._rng.random() < 0.2))),
        )[kind]
        return topic, type(message), self._damaged(message) if self._rng.random() < 0.1 else message

    def _damaged(self, message: Any) -> bytes:
        """The serialized message with some bytes changed, cut short, or with bytes after its end; the header that names the format stays."""
        data = bytearray(serialize_message(message))
        for _ in range(self._rng.integers(1, 8)):
            if len(data) > 4:
                data[self._rng.integers(4, len(data))] = self._rng.integers(256)
        cut = self._rng.random()
        if cut < 0.3:
            del data[self._rng.integers(4, len(data) + 1) :]
        return bytes(data + bytes(8) if cut > 0.9 else data)

    def _one_of(self, texts: tuple[str, ...]) -> str:
        """By index: an array of strings would lose the NULs at their ends."""
        return texts[self._rng.integers(len(texts))]

    def _stamp(self) -> Any:
        """Mostly good; also zero, negative, old, from the future, and far beyond."""
        shift_s = self._rng.choice([0.0, 0.0, 0.0, 0.0, -0.05, -10.0, 0.05, 10.0, 1e6])
        if self._rng.random() < 0.1:
            return time_message(int(self._rng.choice([0, 1, 2**31 * 10**9 - 1])))
        return time_message(max(self._now_ns() + int(shift_s * 1e9), 0))

    def _joint_state(self) -> JointState:
        rng, limits = self._rng, self._robot.limits
        position_J = rng.uniform(limits.position_min, limits.position_max) if rng.random() < 0.5 else self._robot.home.copy()
        zeros = np.zeros_like(position_J)
        message = joint_state_message(self._robot.joint_names, position_J, zeros, zeros, self._stamp())
        for change in rng.choice(6, rng.integers(0, 4)):
            self._spoil_joints(message, int(change))
        return message

    def _spoil_joints(self, message: JointState, change: int) -> None:
        rng = self._rng
        field = str(rng.choice(["position", "velocity"]))
        values = list(getattr(message, field))
        if change == 0 and values:
            values[rng.integers(len(values))] = float(rng.choice(_NUMBERS))
        elif change == 1 and values:
            del values[rng.integers(len(values)) :]
        elif change == 2:
            values += [float(rng.choice(_NUMBERS))] * int(rng.integers(1, 20))
        elif change == 3:
            message.name = [str(n) for n in rng.permutation(message.name)]
        elif change == 4 and message.name:
            message.name = [*message.name[:-1], message.name[0]]
        elif change == 5:
            message.name = [*message.name, "\u202ehead\x00"[: int(rng.integers(8))]]
        setattr(message, field, array("d", values))

    def _image(self, camera: CameraSpec) -> Image:
        rng = self._rng
        picture = rng.integers(0, 256, (camera.height, camera.width, 3), dtype=np.uint8)
        message = image_message(picture, self._stamp(), f"{camera.name}_camera_optical_frame")
        if rng.random() < 0.7:
            message.encoding = self._one_of(_ENCODINGS)
        if rng.random() < 0.4:
            setattr(message, str(rng.choice(["height", "width", "step"])), int(rng.choice([0, 1, 7, 127, 129, 4097, 2**31, 2**32 - 1])))
        if rng.random() < 0.3:
            message.data = message.data[: rng.integers(len(message.data) + 1)]
        message.is_bigendian = int(rng.integers(0, 256))
        return message


class Fuzz:
    """Node and judge as processes, fuzzer and a well-behaved robot in this one; rclpy must be initialised."""

    def __init__(self, bundle: Path, robot: RobotDescription, cameras: tuple[CameraSpec, ...], seed: int) -> None:
        from std_srvs.srv import Trigger

        from vla_ros.ros import qos
        from vla_ros.ros.fake_robot import FakeRobot

        self._log = tempfile.NamedTemporaryFile("w+", suffix=".log", prefix="vla_fuzz_", errors="replace")  # noqa: SIM115
        self._home_J = robot.home
        self.robot = FakeRobot(robot, cameras)
        self.sent: Counter[str] = Counter()
        self._qos = qos
        self._publishers: dict[str, Any] = {}
        self._fuzzer = MessageFuzzer(seed, robot, cameras, lambda: self.robot.node.get_clock().now().nanoseconds)
        self._resume = self.robot.node.create_client(Trigger, "vla_policy/resume")
        self._request = Trigger.Request()
        arguments = ("--model", str(bundle), "--ros-args", "-p", "max_joint_age_s:=0.4", "-p", "max_image_age_s:=0.6", "-p", "max_skew_s:=0.6")
        self.node = self._start("run", *arguments, stderr=self._log)
        self.refused = 0
        self.judge = self._start("command_observer", "--urdf", str(robot.urdf_path), stdout=subprocess.PIPE)

    @staticmethod
    def _start(module: str, *arguments: str, **options: Any) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, "-m", f"vla_ros.ros.{module}", *arguments], text=True, **options)

    def run(self, messages: int, rate_hz: float, timeout_s: float) -> dict[str, Any]:
        """Sends so many messages and then behaves well again; returns what came of it."""
        self._until(lambda: self.robot.hears_instructions and self.robot.code == "IDLE", "the node is active", timeout_s)
        self._until(lambda: self.robot.node.count_subscribers("command") > 1, "the judge listens", timeout_s)
        acted = 0
        for count in range(messages):
            if self._fuzzer.begins_calm:
                self._carry_home()
            self._send(*next(self._fuzzer))
            if count % _HELP_EVERY == 0:
                self._help()
            acted += self.robot.state == "acting"
            time.sleep(1.0 / rate_hz)
        begin_s = time.monotonic()
        self._silent_from = len(self.robot.statuses)
        self.robot.run(self._fall_silent)
        self._carry_home()
        self._until(self._acts_again, "the robot acts again", timeout_s)
        return self._report(messages, acted / messages, time.monotonic() - begin_s)

    def close(self) -> None:
        """Ends what was started."""
        for process in (self.node, self.judge):
            if process.poll() is None:
                process.kill()
            process.wait()
        self.robot.close()
        self._log.close()

    def _send(self, topic: str, message_type: type, message: Any) -> None:
        if topic not in self._publishers:
            profile = self._qos.COMMAND if message_type in (String, Bool) else self._qos.SENSOR_SOURCE
            self._publishers[topic] = self.robot.node.create_publisher(message_type, topic, profile)
        try:
            self._publishers[topic].publish(message)
        except rclpy_implementation.RCLError:  # the middleware itself refuses some damaged bytes; nobody can be hurt by what was not sent
            self.refused += 1
        self.sent[topic + (" (damaged bytes)" if isinstance(message, bytes) else "")] += 1

    def _fall_silent(self) -> None:
        """Takes the bad publishers away; in the robot's thread."""
        for publisher in self._publishers.values():
            self.robot.node.destroy_publisher(publisher)
        self._publishers.clear()

    def _carry_home(self) -> None:
        """Puts the arm where the policy can go on: lies about joint states led it anywhere. It does not follow before the command is there, too."""
        self.robot.press_e_stop(True)
        time.sleep(_STOP_S)
        self.robot.follows, self.robot.position_J = False, self._home_J.copy()

    def _help(self) -> None:
        """What a patient person does: releases the e-stop, resumes, instructs."""
        if self.robot.commands and np.abs(self.robot.commands[-1].position_J - self._home_J).max() < _AT_HOME:
            self.robot.follows = True
        if not self.robot.follows and self.robot.state in ("acting", "holding"):  # resumed before it saw the arm at home
            self.robot.press_e_stop(True)
            return
        self.robot.press_e_stop(False)
        if self._resume.service_is_ready():
            self._resume.call_async(self._request)
        self.robot.instruct("go on")

    def _acts_again(self) -> bool:
        # At any time since: a policy that knows nothing may lead out of the workspace at once, and is stopped there.
        if any(status["code"] == "ACTING" for status in self.robot.statuses[self._silent_from :]):
            return True
        self._help()
        time.sleep(0.5)
        return False

    def _until(self, condition: Callable[[], bool], what: str, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            if self.node.poll() is not None:
                raise RuntimeError(f"the node ended with code {self.node.returncode}: {self._tail()}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"not within {timeout_s:g} s: {what}; status {self.robot.code}: {self._tail()}")
            time.sleep(0.01)

    def _tail(self) -> str:
        self._log.flush()
        return Path(self._log.name).read_text(encoding="utf-8", errors="replace")[-2000:]

    def _report(self, messages: int, acting: float, recovery_s: float) -> dict[str, Any]:
        self.node.send_signal(signal.SIGTERM)
        exit_code = self.node.wait(20.0)
        time.sleep(0.5)
        self.judge.send_signal(signal.SIGTERM)
        judged = json.loads(self.judge.communicate(timeout=20.0)[0])
        log = Path(self._log.name).read_text(encoding="utf-8", errors="replace")
        raw = sorted({f"U+{ord(c):04X}" for c in log if not (c.isprintable() or c in "\n\t")})
        return {
            "messages": messages,
            "sent": dict(self.sent),
            "refused_by_the_middleware": self.refused,
            "acting_share": round(acting, 3),
            "recovery_s": round(recovery_s, 2),
            "exit_code": exit_code,
            "tracebacks": log.count("Traceback"),
            "worker_restarts": log.count("a new inference process starts"),
            "raw_characters_in_log": raw,
            "commands": judged,
        }


def failures(report: dict[str, Any]) -> list[str]:
    """What went wrong, one sentence each; empty where nothing unsafe was published and nothing broke."""
    commands = report["commands"]
    conditions = (
        (report["exit_code"] == 0, f"the node ended with exit code {report['exit_code']}"),
        (not report["tracebacks"], f"{report['tracebacks']} tracebacks in the node's log"),
        (not report["raw_characters_in_log"], f"raw characters in the node's log: {report['raw_characters_in_log']}"),
        (report["acting_share"] > 0.0, "the policy never acted while messages came: nothing was at stake"),
        (commands["messages"] > 0, "the judge saw no command"),
        (commands["violations"] == 0, f"{commands['violations']} bad commands: {commands['by_kind']}, such as {commands['examples'][:1]}"),
        (commands["commanders"] <= 1, f"{commands['commanders']} nodes commanded at once: another program is in ROS domain {os.environ.get('ROS_DOMAIN_ID')}, so this run tells nothing"),
        (commands["ended_at_rest"], "the last command was not at rest"),
    )
    return [sentence for is_met, sentence in conditions if not is_met]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one fuzz; returns the exit code."""
    import rclpy

    from vla_ros.core.paths import bundle_dir, robot_config_path
    from vla_ros.processes import free_domain
    from vla_ros.ros.transport import use_fastdds_profile
    from vla_ros.runtime.bundle import load_bundle

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate-hz", type=float, default=400.0, help="messages a second")
    parser.add_argument("--model", default="tabletop", help="policy bundle")
    parser.add_argument("--timeout-s", type=float, default=60.0, help="for the start and for the recovery")
    arguments = parser.parse_args(argv)
    manifest = load_bundle(bundle_dir(arguments.model)).manifest
    os.environ.setdefault("ROS_DOMAIN_ID", str(free_domain()))
    use_fastdds_profile()
    rclpy.init()
    with contextlib.closing(
        Fuzz(bundle_dir(arguments.model), RobotDescription.load(robot_config_path(manifest.robot)), manifest.cameras, arguments.seed)
    ) as fuzz:
        report = fuzz.run(arguments.messages, arguments.rate_hz, arguments.timeout_s)
    rclpy.try_shutdown()
    sys.stdout.write(json.dumps({"failures": failures(report), **report}, indent=2) + "\n")
    return int(bool(failures(report)))


if __name__ == "__main__":
    sys.exit(main())
