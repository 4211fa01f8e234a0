# SPDX-License-Identifier: Apache-2.0
"""Rows 30 and 61 with the node as a process: its clock is set, and its log has nowhere to go."""

from __future__ import annotations

import fcntl
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vla_ros.core import tabletop
from vla_ros.core.paths import robot_config_path
from vla_ros.robot import RobotDescription

pytestmark = pytest.mark.ros
_ROBOT = RobotDescription.load(robot_config_path("tabletop_arm"))
_RELAXED = ("-p", "max_joint_age_s:=0.4", "-p", "max_image_age_s:=0.6", "-p", "max_skew_s:=0.6", "-p", "realtime.sched_fifo_priority:=0")


@pytest.fixture
def start_node(context, tiny_bundle, wait_until):
    """Starts the node as a process with further arguments of ``Popen`` beside a fake robot, and has it act: (process, robot)."""
    from vla_ros.ros.fake_robot import FakeRobot

    robot, processes = FakeRobot(_ROBOT, tabletop.CAMERAS), []

    def start(**options):
        command = [sys.executable, "-m", "vla_ros.ros.run", "--model", str(tiny_bundle), "--ros-args", *_RELAXED]
        processes.append(subprocess.Popen(command, **options))
        wait_until(lambda: robot.hears_instructions and robot.code == "IDLE", "the node is active", 40.0)
        robot.instruct("go")
        wait_until(lambda: robot.code == "ACTING" and robot.speed() > 0.01, "the robot moves")
        return processes[-1], robot

    yield start
    robot.close()  # while its peers live: one that is killed may leave the shared memory of both half written
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
def stepping_clock(tmp_path):
    """(environment, set_s): a library to preload, and what sets the clock of the processes that have it."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    library, offset = tmp_path / "stepping_clock.so", tmp_path / "offset"
    source = Path(__file__).with_name("stepping_clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(source), "-ldl"], check=True)
    offset.write_bytes(bytes(8))

    def set_s(step_s):
        with offset.open("r+b") as file:
            file.write(struct.pack("<q", round(step_s * 1e9)))

    return {**os.environ, "LD_PRELOAD": str(library), "STEPPING_CLOCK": str(offset)}, set_s


@pytest.mark.parametrize("step_s", [-1000, 1000])
def test_row_30_a_step_of_the_system_clock_has_no_effect(start_node, stepping_clock, wait_until, step_s):
    """Node, worker and drivers live on one machine: all their clocks are set at once."""
    environment, set_s = stepping_clock
    process, robot = start_node(env=environment)
    tokens, statuses = len(robot.tokens), len(robot.statuses)

    def restamp(message):
        message.header.stamp.sec += step_s

    robot.alter_joints, robot.alter_image = restamp, lambda _, message: restamp(message)
    set_s(step_s)
    wait_until(lambda: len(robot.tokens) > tokens + 10, "inference goes on", 20.0)
    since = {s["code"] for s in robot.statuses[statuses:]}
    assert since <= {"ACTING"}, since
    assert process.poll() is None


def fill(pipe_end):
    """Leaves no room in a pipe; whoever writes to it next waits."""
    end = os.open(f"/proc/self/fd/{pipe_end}", os.O_WRONLY | os.O_NONBLOCK)
    for size in (512, 1):
        try:
            while True:
                os.write(end, b"x" * size)
        except BlockingIOError:
            pass
    os.close(end)


def test_row_61_a_blocked_log_does_not_stop_the_loop_or_the_emergency_stop(start_node, wait_until):
    read_end, write_end = os.pipe()
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 65536)
    process, robot = start_node(stdout=write_end, stderr=write_end)
    fill(write_end)
    robot.alter_joints = lambda message: setattr(message, "name", message.name[1:])  # the node says so, and the sentence gets stuck
    time.sleep(0.3)
    robot.alter_joints = lambda _: None
    time.sleep(0.5)
    count = len(robot.commands)
    wait_until(lambda: len(robot.commands) > count + 50, "commands go on", 5.0)
    robot.press_e_stop(True)
    wait_until(lambda: robot.speed() < 1e-6, "the robot stops")
    count = len(robot.commands)
    wait_until(lambda: len(robot.commands) > count + 25, "and is held", 5.0)
    assert all(abs(c.velocity_J).max() < 1e-6 for c in robot.commands[count:]) and process.poll() is None
    os.close(write_end)
    process.send_signal(signal.SIGKILL)
    os.close(read_end)


def test_row_61_a_full_disk_does_not_stop_the_loop(start_node, tmp_path, wait_until):
    """No file may grow any more, as on a full disk: the log cannot be written."""
    environment = {**os.environ, "ROS_LOG_DIR": str(tmp_path)}
    process, robot = start_node(env=environment)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1, 1))
    robot.alter_joints = lambda message: setattr(message, "name", message.name[1:])
    time.sleep(0.3)
    robot.alter_joints = lambda _: None
    wait_until(lambda: robot.code == "ACTING", "the robot goes on", 10.0)
    count = len(robot.commands)
    wait_until(lambda: len(robot.commands) > count + 50, "commands go on", 5.0)
    assert process.poll() is None
