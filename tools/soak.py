# SPDX-License-Identifier: Apache-2.0
"""Hours of faults: ``python tools/soak.py --minutes 60 --seed 0 --json soak.json``, or ``make soak``.

The node with its inference process and flight recorder, a fake robot, and the independent judge of the command. One random fault after the
other, from the list of ``tools/faults.py``; after each the node has to act again. Memory, descriptors and threads are counted whenever it does.
The same seed draws the same faults. Exit code 0 if every command was good, every fault was survived, and nothing grew.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from std_srvs.srv import Trigger

from vla_ros.core import tabletop
from vla_ros.core.observation import CameraSpec
from vla_ros.core.paths import bundle_dir, robot_config_path
from vla_ros.processes import child_processes, free_domain
from vla_ros.robot.description import RobotDescription
from vla_ros.ros import qos
from vla_ros.ros.fake_robot import FakeRobot
from vla_ros.ros.fuzzing import MessageFuzzer
from vla_ros.ros.sim_messages import time_message
from vla_ros.ros.transport import use_fastdds_profile

_START_S, _RECOVERY_S = 120.0, 60.0  # wide: the machine may be busy
_STOP_S = 0.5  # longer than any stop of the arm takes
_AT_HOME = 0.06  # rad or m
_KEPT_FLIGHTS = 20  # the flight recorder's own default
_WARM_UP_S = 90.0  # whose samples are not judged: the flight recorder's half minute, caches and arenas fill
_MEMORY_SLACK = (0.05, 8.0)  # a share, and MiB, whichever is more: what the allocator's arenas vary by
_PAGE = os.sysconf("SC_PAGE_SIZE")


def _joints(change: Callable[[Any], None]) -> Callable[[Soak], None]:
    return lambda soak: setattr(soak.robot, "alter_joints", change)


def _images(change: Callable[[Any], None]) -> Callable[[Soak], None]:
    return lambda soak: setattr(soak.robot, "alter_image", lambda _, message: change(message))


def _shift_stamp(message: Any, seconds: float) -> None:
    message.header.stamp = time_message(message.header.stamp.sec * 10**9 + message.header.stamp.nanosec + round(seconds * 1e9))


def _set(name: str, value: Any) -> Callable[[Any], None]:
    return lambda message: setattr(message, name, value)


def _spoil(message: Any, index: int, value: float) -> None:
    message.position[index] = value


#: Each begins a fault, which ends when the robot behaves well again. Numbers are rows of ``tools/faults.py``.
FAULTS: dict[str, Callable[[Soak], None]] = {
    "1 joints not finite": _joints(lambda m: _spoil(m, 2, float("nan"))),
    "2 a joint is missing": _joints(lambda m: (m.name.pop(), m.position.pop(), m.velocity.pop(), m.effort.pop())),
    "5 lengths differ": _joints(lambda m: m.position.pop()),
    "7 a name twice": _joints(lambda m: m.name.__setitem__(0, m.name[1])),
    "9 joints jump": _joints(lambda m: _spoil(m, 0, m.position[0] + 0.5)),
    "25 stale joints": _joints(lambda m: _shift_stamp(m, -5.0)),
    "26 joints from the future": _joints(lambda m: _shift_stamp(m, 5.0)),
    "12 unknown encoding": _images(_set("encoding", "rgb9")),
    "15 step too small": _images(_set("step", 3)),
    "16 picture cut short": _images(lambda m: m.data.__delitem__(slice(100, None))),
    "17 no height": _images(_set("height", 0)),
    "22 black pictures": _images(lambda m: setattr(m, "data", type(m.data)(m.data.typecode, bytes(len(m.data))))),
    "23 a camera is gone": lambda soak: soak.robot.cameras_on.clear(),
    "25 stale pictures": _images(lambda m: _shift_stamp(m, -5.0)),
    "33 blank instruction": lambda soak: soak.robot.instruct("  "),
    "34 long instruction": lambda soak: soak.robot.instruct("word " * 5000),
    "36 control characters": lambda soak: soak.robot.instruct("go\x07\x1b[31m \u202eon"),
    "37 flood of instructions": lambda soak: [soak.robot.instruct(f"go {n}") for n in range(500)],
    "45 inference stalls": lambda soak: soak.signal_worker(signal.SIGSTOP),
    "50 emergency stop": lambda soak: soak.robot.press_e_stop(True),
    "52 inference killed": lambda soak: soak.signal_worker(signal.SIGKILL),
    "54 partition": lambda soak: (setattr(soak.robot, "joints_on", False), soak.robot.cameras_on.clear()),
    "62 deactivated": lambda soak: soak.change_state(Transition.TRANSITION_DEACTIVATE),
    "stop requested": lambda soak: soak.ask(soak.stop),
    "any bad messages": lambda soak: soak.fuzz(300),
}


class Soak:
    """Node, judge and robot; one thread. rclpy must be initialised."""

    def __init__(self, bundle: Path, robot: RobotDescription, cameras: tuple[CameraSpec, ...], seed: int, folder: Path, recovery_s: float = _RECOVERY_S) -> None:
        self._recovery_s = recovery_s
        self._rng, self._robot, self._cameras, self._folder = np.random.default_rng(seed), robot, cameras, folder
        self._fuzzer = MessageFuzzer(seed, robot, cameras, lambda: self.robot.node.get_clock().now().nanoseconds)
        self.robot = FakeRobot(robot, cameras)
        node = self.robot.node
        self.stop, self.resume = (node.create_client(Trigger, f"vla_policy/{name}") for name in ("stop", "resume"))
        self._lifecycle = node.create_client(ChangeState, "vla_policy/change_state")
        self._log = (folder / "node.log").open("w+", encoding="utf-8", errors="replace")
        ages = ("-p", "max_joint_age_s:=0.4", "-p", "max_image_age_s:=0.6", "-p", "max_skew_s:=0.6")
        self._node = self._start("run", "--model", str(bundle), "--flight-recorder", str(folder / "flights"), "--ros-args", *ages, stderr=self._log)
        self._judge = self._start("command_observer", "--urdf", str(robot.urdf_path), stdout=subprocess.PIPE)
        self.faults: Counter[str] = Counter()
        self.recoveries_s: list[tuple[float, str]] = []
        self.samples: dict[str, list[dict[str, float]]] = {"node": [], "flight_recorder": [], "soak": []}

    @staticmethod
    def _start(module: str, *arguments: str, **options: Any) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, "-m", f"vla_ros.ros.{module}", *arguments], text=True, **options)

    # ---- what faults do ----

    def signal_worker(self, number: int) -> None:
        """Sends a signal to the inference process."""
        for pid in child_processes(self._node.pid).get("worker", ()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def ask(self, client: Any) -> None:
        """Calls a trigger without waiting."""
        if client.service_is_ready():
            client.call_async(Trigger.Request())

    def change_state(self, transition: int) -> None:
        """Asks for a lifecycle transition."""
        if self._lifecycle.service_is_ready():
            self._lifecycle.call_async(ChangeState.Request(transition=Transition(id=transition)))

    def fuzz(self, messages: int) -> None:
        """Sends so many bad messages, from publishers of their own that leave again."""
        node, publishers = self.robot.node, {}
        for _ in range(messages):
            topic, kind, message = next(self._fuzzer)
            if topic not in publishers:
                profile = qos.SENSOR_SOURCE if topic.endswith(("states", "raw")) else qos.COMMAND
                publishers[topic] = node.create_publisher(kind, topic, profile)
            with contextlib.suppress(RuntimeError):  # the middleware refuses some damaged bytes itself
                publishers[topic].publish(message)
            time.sleep(0.002)
        self.robot.run(lambda: [node.destroy_publisher(publisher) for publisher in publishers.values()])

    # ---- the run ----

    def run(self, seconds: float, progress: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
        """Faults for so long, or until the robot does not recover from one; returns the report."""
        begin, failure = time.monotonic(), None
        try:
            self._until(lambda: self.robot.hears_instructions and self.robot.node.count_subscribers("command") > 1, "the node is active", _START_S)
            self._recover("start")
            self._soak(seconds, progress)
        except RuntimeError as error:
            failure = str(error)
        return self._report(time.monotonic() - begin, failure)

    def _soak(self, seconds: float, progress: Callable[[str], None]) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            name = str(self._rng.choice(list(FAULTS)))
            lasts_s = float(self._rng.uniform(0.2, 3.0))
            progress(f"{max(end - time.monotonic(), 0.0):5.0f} s to go, {sum(self.faults.values())} faults, now: {name}")
            self.faults[name] += 1
            FAULTS[name](self)
            time.sleep(lasts_s)
            self._recover(name)
            self._sample()

    def _recover(self, name: str) -> None:
        """Behaves well, at home, until the node acts; a patient person helps."""
        robot, begin = self.robot, time.monotonic()
        robot.alter_joints, robot.alter_image = (lambda _: None), (lambda _, __: None)
        robot.joints_on, robot.cameras_on = True, {c.name for c in self._cameras}
        self.signal_worker(signal.SIGCONT)
        robot.press_e_stop(True)
        time.sleep(_STOP_S)
        robot.follows, robot.position_J = False, self._robot.home.copy()
        said = len(robot.statuses)

        def acts() -> bool:
            nonlocal said
            command_J = robot.commands[-1].position_J if robot.commands else np.full_like(self._robot.home, np.inf)
            if not robot.follows and np.abs(command_J - self._robot.home).max() < _AT_HOME:
                robot.follows, said = True, len(robot.statuses)
            # At any time since: where processors are short an answer may be used up before the next one comes.
            if robot.follows and robot.commands[-1].time_s > begin and "acting" in (robot.state, *(s.get("state") for s in robot.statuses[said:])):
                return True
            if not robot.follows and robot.state in ("acting", "holding"):  # resumed before it saw the arm at home
                robot.press_e_stop(True)
                time.sleep(_STOP_S)
                return False
            if robot.state == "inactive":
                self.change_state(Transition.TRANSITION_ACTIVATE)
            robot.press_e_stop(False)
            self.ask(self.resume)
            robot.instruct("go on")
            time.sleep(0.2)
            return False

        self._until(acts, f"the robot acts again after: {name}", self._recovery_s)
        self.recoveries_s.append((time.monotonic() - begin, name))
        del robot.commands[:-1], robot.statuses[:-1], robot.actions[:], robot.tokens[:], robot.plans[:]

    def _sample(self) -> None:
        found = child_processes(self._node.pid)
        pids = {"node": self._node.pid, "soak": os.getpid(), **{name: pids[0] for name, pids in found.items() if name in self.samples}}
        for name, pid in pids.items():
            self.samples[name].append({"time_s": round(time.monotonic(), 1), **footprint(pid)})

    def _until(self, condition: Callable[[], bool], what: str, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            if self._node.poll() is not None:
                raise RuntimeError(f"the node ended with code {self._node.returncode}: {self._read_log()[-2000:]}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"not within {timeout_s:g} s: {what}; status {self.robot.code}: {self._read_log()[-2000:]}")
            time.sleep(0.02)

    def _read_log(self) -> str:
        self._log.flush()
        return Path(self._log.name).read_text(encoding="utf-8", errors="replace")

    def _report(self, seconds: float, failure: str | None) -> dict[str, Any]:
        self._node.send_signal(signal.SIGTERM)
        exit_code = self._node.wait(60.0)
        time.sleep(0.5)
        self._judge.send_signal(signal.SIGTERM)
        log = self._read_log()
        return {
            "seconds": round(seconds, 1),
            "failure": failure,
            "faults": dict(sorted(self.faults.items())),
            "recovery_s": recoveries(self.recoveries_s[1:]),
            "exit_code": exit_code,
            "tracebacks": log.count("Traceback"),
            "raw_characters_in_log": sorted({f"U+{ord(c):04X}" for c in log if not (c.isprintable() or c in "\n\t")}),
            "worker_restarts": log.count("a new inference process starts"),
            "flights": len(list((self._folder / "flights").glob("*.mcap"))),
            "growth": {name: growth(samples) for name, samples in self.samples.items()},
            "commands": json.loads(self._judge.communicate(timeout=20.0)[0]),
        }

    def close(self) -> None:
        """Ends what was started."""
        for process in (self._node, self._judge):
            if process.poll() is None:
                process.kill()
            process.wait()
        self.robot.close()
        self._log.close()


def recoveries(times_s: Sequence[tuple[float, str]]) -> dict[str, Any]:
    """Median and longest time until the robot acted again, and after what."""
    if not times_s:
        return {}
    longest_s, name = max(times_s)
    return {"p50": round(statistics.median(seconds for seconds, _ in times_s), 2), "max": [round(longest_s, 2), name]}


def footprint(pid: int) -> dict[str, float]:
    """Memory in MiB, descriptors and threads of a process."""
    folder = Path(f"/proc/{pid}")
    return {
        "memory_mib": round(int((folder / "statm").read_text().split()[1]) * _PAGE / 2**20, 1),
        "descriptors": len(list((folder / "fd").iterdir())),
        "threads": len(list((folder / "task").iterdir())),
    }


def growth(samples: Sequence[dict[str, float]]) -> dict[str, list[float]]:
    """Medians of the first and of the last third of the samples after the warm-up, by quantity; nothing where there are too few."""
    judged = [sample for sample in samples if sample["time_s"] - samples[0]["time_s"] >= _WARM_UP_S]
    third = len(judged) // 3
    if third < 3:
        return {}
    names = [name for name in judged[0] if name != "time_s"]
    return {name: [statistics.median(s[name] for s in part) for part in (judged[:third], judged[-third:])] for name in names}


def failures(report: dict[str, Any]) -> list[str]:
    """What went wrong, one sentence each."""
    commands, found = report["commands"], []
    conditions = (
        (report["failure"] is None, f"it ended early: {report['failure']}"),
        (report["exit_code"] == 0, f"the node ended with exit code {report['exit_code']}"),
        (not report["tracebacks"], f"{report['tracebacks']} tracebacks in the node's log"),
        (not report["raw_characters_in_log"], f"raw characters in the node's log: {report['raw_characters_in_log']}"),
        (commands["messages"] > 0, "the judge saw no command"),
        (commands["violations"] == 0, f"{commands['violations']} bad commands: {commands['by_kind']}, such as {commands['examples'][:1]}"),
        (commands["commanders"] <= 1, f"{commands['commanders']} nodes commanded at once: another program is in ROS domain {os.environ.get('ROS_DOMAIN_ID')}, so this run tells nothing"),
        (commands["ended_at_rest"], "the last command was not at rest"),
        (report["flights"] <= _KEPT_FLIGHTS, f"{report['flights']} flights are kept"),
    )
    found += [sentence for is_met, sentence in conditions if not is_met]
    for process in ("node", "flight_recorder"):
        for quantity, (before, after) in report["growth"].get(process, {}).items():
            slack = max(_MEMORY_SLACK[0] * before, _MEMORY_SLACK[1]) if quantity == "memory_mib" else 1
            if after > before + slack:
                found.append(f"{quantity} of the {process} grew from {before:g} to {after:g}")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Soaks; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="tabletop", help="policy bundle of the tabletop arm")
    parser.add_argument("--recovery-s", type=float, default=_RECOVERY_S, help="longest time until the robot acts again after a fault")
    parser.add_argument("--json", type=Path, help="where the report goes")
    arguments = parser.parse_args(argv)
    os.environ.setdefault("ROS_DOMAIN_ID", str(free_domain()))
    use_fastdds_profile()
    rclpy.init()
    robot = RobotDescription.load(robot_config_path(tabletop.ROBOT))
    with tempfile.TemporaryDirectory(prefix="vla_soak_") as folder:
        with contextlib.closing(Soak(bundle_dir(arguments.model), robot, tabletop.CAMERAS, arguments.seed, Path(folder), arguments.recovery_s)) as soak:
            report = soak.run(arguments.minutes * 60.0, lambda text: sys.stderr.write(f"\r{text}\x1b[K"))
    rclpy.try_shutdown()
    report = {"failures": failures(report), "seed": arguments.seed, **report}
    text = json.dumps(report, indent=2)
    sys.stdout.write(text + "\n")
    if arguments.json is not None:
        arguments.json.write_text(text + "\n", encoding="utf-8")
    return int(bool(report["failures"]))


if __name__ == "__main__":
    sys.exit(main())
