# SPDX-License-Identifier: Apache-2.0
"""``ros2 launch`` itself starts policy.launch.py on a robot, and ends it: at Ctrl-C, and at SIGTERM, at which it leaves its processes behind.

What the node's parameters are is written down by a program in its place. The guides' own commands are given as they are written.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys

import pytest
import yaml
from guides import commands

from vla_ros.core import tabletop
from vla_ros.core.paths import robot_config_path, share_dir
from vla_ros.robot import RobotDescription

pytestmark = [pytest.mark.ros, pytest.mark.skipif(shutil.which("ros2") is None, reason="needs the ros2 command, which is not on PyPI")]
_RELAXED = {"max_joint_age_s": 0.4, "max_image_age_s": 0.6, "max_skew_s": 0.6, "realtime.sched_fifo_priority": 0}


@pytest.fixture
def prefix(tmp_path):
    """An ament prefix in which vla_ros is this clone."""
    prefix = tmp_path / "prefix"
    marker = prefix / "share" / "ament_index" / "resource_index" / "packages" / "vla_ros"
    for folder in (marker.parent, prefix / "lib" / "vla_ros", prefix / "share" / "vla_ros" / "launch"):
        folder.mkdir(parents=True)
    marker.touch()
    for file in (share_dir() / "launch").glob("*.py"):
        (prefix / "share" / "vla_ros" / "launch" / file.name).symlink_to(file)
    for name, function in {"vla": "main", "vla_policy": "policy_main", "vla_sim": "sim_main"}.items():
        program = prefix / "lib" / "vla_ros" / name
        program.write_text(f"#!{sys.executable}\nimport sys\nfrom vla_ros.cli import {function}\nsys.exit({function}())\n", encoding="utf-8")
        program.chmod(0o755)
    return prefix


RECORDER = """#!{python}
import json, sys
from pathlib import Path
files = [Path(b).read_text() for a, b in zip(sys.argv, sys.argv[1:]) if a == "--params-file"]
Path({record!r}).write_text(json.dumps(files))
"""


def launched(prefix, tmp_path):
    """Environment of a ``ros2 launch`` that finds vla_ros in ``prefix``."""
    return {
        **os.environ,
        "AMENT_PREFIX_PATH": f"{prefix}:{os.environ.get('AMENT_PREFIX_PATH', '')}",
        "PYTHONPATH": f"{share_dir()}:{os.environ.get('PYTHONPATH', '')}",
        "ROS_LOG_DIR": str(tmp_path / "log"),
    }


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], {"control_rate_hz": 100.0, "model": "mine", "execution_provider": "cuda", "use_sim_time": True}),
        (
            ["control_rate_hz:=25", "model:=other", "use_sim_time:=false"],
            {"control_rate_hz": 25.0, "model": "other", "execution_provider": "cuda", "use_sim_time": False},
        ),
    ],
)
def test_a_parameter_file_counts_where_no_argument_is_given(prefix, tmp_path, arguments, expected):
    program, record, params = prefix / "lib" / "vla_ros" / "vla_policy", tmp_path / "record.json", tmp_path / "params.yaml"
    program.write_text(RECORDER.format(python=sys.executable, record=str(record)), encoding="utf-8")
    mine = {"control_rate_hz": 100.0, "model": "mine", "execution_provider": "cuda", "use_sim_time": True}
    params.write_text(yaml.safe_dump({"vla_policy": {"ros__parameters": mine}}), encoding="utf-8")
    command = ["ros2", "launch", str(share_dir() / "launch" / "policy.launch.py"), f"params_file:={params}", *arguments]
    done = subprocess.run(command, env=launched(prefix, tmp_path), capture_output=True, text=True, timeout=60, check=False)
    assert record.is_file(), done.stdout + done.stderr
    merged = {}
    for text in json.loads(record.read_text(encoding="utf-8")):
        for node in yaml.safe_load(text).values():
            merged |= node["ros__parameters"]
    assert merged == expected


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_launched_policy_moves_the_robot_and_holds_when_the_launch_is_ended(context, tiny_bundle, prefix, tmp_path, wait_until, number):
    from vla_ros.ros.fake_robot import FakeRobot

    params = tmp_path / "params.yaml"
    params.write_text(yaml.safe_dump({"/**": {"ros__parameters": _RELAXED}}), encoding="utf-8")
    command = ["ros2", "launch", str(share_dir() / "launch" / "policy.launch.py"), f"model:={tiny_bundle}", f"params_file:={params}"]
    robot = FakeRobot(RobotDescription.load(robot_config_path("tabletop_arm")), tabletop.CAMERAS)
    with (tmp_path / "launch.log").open("w") as log:
        launch = subprocess.Popen(command, env=launched(prefix, tmp_path), stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            wait_until(lambda: robot.hears_instructions and robot.code == "IDLE", "the node is active", 60.0)
            robot.instruct("go")
            wait_until(lambda: robot.code == "ACTING" and robot.speed() > 0.01, "the robot moves")
            found = subprocess.run(["pgrep", "-P", str(launch.pid)], capture_output=True, text=True, check=True).stdout.split()
            nodes = [int(pid) for pid in found]
            launch.send_signal(number)
            launch.wait(30.0)
            wait_until(lambda: not any(is_alive(pid) for pid in nodes), "no node is left")
            wait_until(lambda: robot.speed() < 1e-6, "the last command is at rest")
            assert nodes
        finally:
            launch.kill()
            robot.close()


class Terminals:
    """Gives commands as the guides write them, each in a terminal of its own, with some more options where one would not end."""

    def __init__(self, environment, folder, wait_until):
        self._environment, self._folder, self._wait_until = environment, folder, wait_until
        self._written = {line.partition("  #")[0].strip() for _, line, _ in commands()}
        self._logs, self.processes = {}, []

    def open(self, line, *more):
        """Starts a command that goes on; :meth:`sees` waits for what it says."""
        assert line in self._written, f"no guide has {line}"
        log = self._folder / f"terminal_{len(self.processes)}.log"
        with log.open("w") as said:
            options = {"env": self._environment, "cwd": self._folder, "stdout": said, "stderr": subprocess.STDOUT, "start_new_session": True}
            self.processes.append(subprocess.Popen([*shlex.split(line), *more], stdin=subprocess.DEVNULL, **options))
        self._logs[self.processes[-1]] = log
        return self.processes[-1]

    def sees(self, process, words, timeout_s=60.0):
        self._wait_until(lambda: words in self._logs[process].read_text(errors="replace"), f"{words!r} after {process.args}", timeout_s)

    def ends(self, process):
        """Ctrl-C: ``ros2 run`` leaves it to the program that it has started, and ``ros2 launch`` without a keyboard passes it on."""
        give = os.kill if process.args[1] == "launch" else os.killpg
        give(process.pid, signal.SIGINT)
        assert process.wait(30.0) == 0, self._logs[process].read_text(errors="replace")

    def call(self, line, *more):
        """Gives a command that ends, as often as it takes until the ``ros2`` command has found the nodes, and returns what it said."""

        def said():
            process = self.open(line, *more)
            status = process.wait(60.0)
            return status == 0 and self._logs[process].read_text(errors="replace")

        return self._wait_until(said, f"status 0 of {line}", 60.0)


@pytest.fixture
def terminals(domain, prefix, tmp_path, wait_until):
    environment = launched(prefix, tmp_path)
    terminals = Terminals(environment, tmp_path, wait_until)
    yield terminals
    for process in terminals.processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    subprocess.run(["ros2", "daemon", "stop"], env=environment, capture_output=True, timeout=60, check=False)


def test_what_is_said_in_a_second_terminal_moves_the_arm(terminals):
    launch = terminals.open("ros2 launch vla_ros mujoco.launch.py")
    terminals.sees(launch, "active: the robot may move")
    terminals.sees(launch, "Objects here: ")
    record = terminals.open("ros2 run vla_ros vla record --out run.mcap")
    terminals.call("""ros2 topic pub --once /instruction std_msgs/msg/String "{data: 'pick up the red brick'}\"""")
    terminals.sees(launch, "success: 'lift up the red brick'", 120.0)
    assert "TASK_DONE" in terminals.call("ros2 topic echo /vla_policy/status", "--once", "--filter", "m.values[0].value == 'TASK_DONE'")
    assert "real_time_factor" in terminals.call("ros2 topic echo /diagnostics", "--once", "--filter", "'simulation' in m.status[0].name")
    terminals.ends(record)
    assert "success=True" in terminals.call("ros2 service call /vla_policy/stop std_srvs/srv/Trigger")
    assert "latched" in terminals.call("ros2 topic echo /vla_policy/status", "--once", "--filter", "m.values[0].value == 'STOPPED'")
    assert "success=True" in terminals.call("ros2 service call /vla_policy/resume std_srvs/srv/Trigger")
    terminals.ends(launch)
    assert " 0 different" in terminals.call("ros2 run vla_ros vla replay run.mcap")


def test_the_first_motion_of_ones_own_robot(terminals):
    """As far as it goes without a robot: activating says what is missing."""
    node = terminals.open("ros2 launch vla_ros policy.launch.py model:=tabletop autostart:=false")
    terminals.sees(node, "process started")
    other = terminals.open(
        "ros2 run vla_ros vla_policy --model tabletop --ros-args -r command:=/joint_trajectory_controller/joint_trajectory", "-r", "__ns:=/other"
    )
    terminals.sees(other, "ready: bundle tabletop")
    terminals.ends(other)
    terminals.call("ros2 param set /vla_policy control_rate_hz 100.0")
    terminals.call("ros2 lifecycle set /vla_policy configure")
    terminals.sees(node, "control at 100 Hz")
    terminals.sees(terminals.open("ros2 lifecycle set /vla_policy activate"), "Transitioning failed")
    terminals.sees(node, "start the robot's driver")
    terminals.ends(node)
