# SPDX-License-Identifier: Apache-2.0
"""``ros2 launch`` itself starts policy.launch.py on a robot, and ends it: at Ctrl-C, and at SIGTERM, at which it leaves its processes behind.

What the node's parameters are is written down by a program in its place.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import yaml

from vla_ros.core import tabletop
from vla_ros.core.paths import robot_config_path, share_dir
from vla_ros.robot import RobotDescription

pytestmark = [pytest.mark.ros, pytest.mark.skipif(shutil.which("ros2") is None, reason="needs the ros2 command, which is not on PyPI")]
_RELAXED = {"max_joint_age_s": 0.4, "max_image_age_s": 0.6, "max_skew_s": 0.6, "realtime.sched_fifo_priority": 0}


@pytest.fixture
def prefix(tmp_path):
    """An ament prefix in which vla_ros is this clone."""
    marker = tmp_path / "prefix" / "share" / "ament_index" / "resource_index" / "packages" / "vla_ros"
    program = tmp_path / "prefix" / "lib" / "vla_ros" / "vla_policy"
    for path in (marker, program):
        path.parent.mkdir(parents=True)
    marker.touch()
    program.write_text(f"#!{sys.executable}\nimport sys\nfrom vla_ros.cli import policy_main\nsys.exit(policy_main())\n", encoding="utf-8")
    program.chmod(0o755)
    return tmp_path / "prefix"


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
        ([], {"control_rate_hz": 100.0, "model": "mine", "execution_provider": "cuda"}),
        (["control_rate_hz:=25", "model:=other"], {"control_rate_hz": 25.0, "model": "other", "execution_provider": "cuda"}),
    ],
)
def test_a_parameter_file_counts_where_no_argument_is_given(prefix, tmp_path, arguments, expected):
    program, record, params = prefix / "lib" / "vla_ros" / "vla_policy", tmp_path / "record.json", tmp_path / "params.yaml"
    program.write_text(RECORDER.format(python=sys.executable, record=str(record)), encoding="utf-8")
    mine = {"control_rate_hz": 100.0, "model": "mine", "execution_provider": "cuda"}
    params.write_text(yaml.safe_dump({"vla_policy": {"ros__parameters": mine}}), encoding="utf-8")
    command = ["ros2", "launch", str(share_dir() / "launch" / "policy.launch.py"), f"params_file:={params}", *arguments]
    done = subprocess.run(command, env=launched(prefix, tmp_path), capture_output=True, text=True, timeout=60, check=False)
    assert record.is_file(), done.stdout + done.stderr
    merged = {}
    for text in json.loads(record.read_text(encoding="utf-8")):
        for node in yaml.safe_load(text).values():
            merged |= node["ros__parameters"]
    assert merged == {**expected, "use_sim_time": False}


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
