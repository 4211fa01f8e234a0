# SPDX-License-Identifier: Apache-2.0
"""What the kernel is asked for reaches it, for the thread that asks and for no other."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import signal
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from vla_ros.core.paths import robot_config_path
from vla_ros.robot import RobotDescription
from vla_ros.ros import scheduling


def in_a_thread(function):
    """Its result, from a thread of its own."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


def in_a_process(code):
    """What a Python program prints."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def time_slice_ns():
    """Of this thread, as the kernel has it."""
    numbers = {"x86_64": 315, "aarch64": 275}
    if platform.machine() not in numbers:
        pytest.skip("no number of sched_getattr for this processor")
    attributes = ctypes.create_string_buffer(48)
    assert ctypes.CDLL(None).syscall(numbers[platform.machine()], 0, attributes, 48, 0) == 0
    return struct.unpack("=IIQiIQQQ", attributes.raw)[5]


def kernel_has_time_slices():
    """Linux 6.12 and newer."""
    return tuple(int(word) for word in platform.release().split(".")[:2]) >= (6, 12)


@pytest.mark.skipif(not kernel_has_time_slices() or os.sched_getscheduler(0) != os.SCHED_OTHER, reason="the kernel has no time slices for this thread")
def test_a_punctual_thread_has_a_short_slice_and_others_keep_theirs():
    before = time_slice_ns()

    def punctual():
        nice = scheduling.niceness()
        scheduling.be_punctual()
        return time_slice_ns(), scheduling.niceness() - nice

    assert in_a_thread(punctual) == (scheduling.TIME_SLICE_NS, 0)
    assert time_slice_ns() == before != scheduling.TIME_SLICE_NS


def test_a_thread_is_made_nicer_alone():
    before = scheduling.niceness()

    def nicer():
        scheduling.set_niceness(before + 1)
        return scheduling.niceness()

    if before < 19:
        assert in_a_thread(nicer) == before + 1
    assert scheduling.niceness() == before


def test_fifo_is_for_the_asking_thread_or_refused():
    def ask():
        try:
            scheduling.set_fifo(10)
        except OSError as error:
            return error.errno
        return os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK

    before = os.sched_getscheduler(0)
    assert in_a_thread(ask) in (os.SCHED_FIFO, errno.EPERM)
    assert os.sched_getscheduler(0) == before


def test_locked_memory_is_locked_until_it_is_not():
    code = """
from vla_ros.ros import scheduling
def locked():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmLck"))
try:
    scheduling.lock_memory()
    print(locked() > 1000, end=" ")
    scheduling.unlock_memory()
    print(locked())
except OSError as error:
    print("refused:", error.strerror)
"""
    answer = in_a_process(code)
    assert answer == "True 0" or answer.startswith("refused: ")


def test_a_finite_limit_refuses_what_could_fail_later(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (8 * 1024 * 1024, 8 * 1024 * 1024))
    monkeypatch.setattr(scheduling, "_has_capability", lambda _: False)
    with pytest.raises(OSError) as refusal:
        scheduling.lock_memory()
    assert refusal.value.strerror == "at most 8192 KiB may be locked"


def may_be_preferred():
    """Whether this process may ask for SCHED_FIFO and for less niceness."""
    code = "import os; os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10)); os.setpriority(os.PRIO_PROCESS, 0, -20)"
    return os.sched_getscheduler(0) == os.SCHED_OTHER and subprocess.run([sys.executable, "-c", code], stderr=subprocess.DEVNULL, check=False).returncode == 0


def threads_of(pid):
    """Name, scheduler and niceness of each thread of a process."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        fields = (task / "stat").read_text().rsplit(") ", 1)[1].split()
        yield int(task.name), (task / "comm").read_text().strip(), os.sched_getscheduler(int(task.name)) & ~os.SCHED_RESET_ON_FORK, int(fields[16])


@pytest.mark.ros
@pytest.mark.skipif(not may_be_preferred(), reason="needs RLIMIT_RTPRIO and RLIMIT_NICE, or CAP_SYS_NICE")
def test_the_node_prefers_the_threads_that_its_period_needs_and_no_others(context, tiny_bundle, wait_until):
    from vla_ros.core import tabletop
    from vla_ros.processes import child_processes
    from vla_ros.ros.fake_robot import FakeRobot

    def worker():
        found = child_processes(process.pid).get("worker", [])
        return found[0] if len(found) == 1 else None

    def is_as_it_should_be():
        rows = list(threads_of(worker()))
        first = {nice for thread, _, _, nice in rows if thread == worker()}
        return first == {base + 10} and {policy for _, _, policy, _ in rows} == {os.SCHED_OTHER} and min(nice for *_, nice in rows) == base

    base = scheduling.niceness()
    robot = FakeRobot(RobotDescription.load(robot_config_path("tabletop_arm")), tabletop.CAMERAS)
    relaxed = ("-p", "max_joint_age_s:=0.4", "-p", "max_image_age_s:=0.6", "-p", "max_skew_s:=0.6", "-p", "realtime.lock_memory:=true")
    process = subprocess.Popen([sys.executable, "-m", "vla_ros.ros.run", "--model", str(tiny_bundle), "--ros-args", *relaxed])
    try:
        wait_until(lambda: robot.hears_instructions and robot.code == "IDLE", "the node is active", 40.0)
        rows = list(threads_of(process.pid))
        assert [name for _, name, policy, _ in rows if policy == os.SCHED_FIFO] == ["vla_control"]
        assert [nice for thread, *_, nice in rows if thread == process.pid] == [-20]
        assert "VmLck:\t       0 kB" not in Path(f"/proc/{process.pid}/status").read_text() or not scheduling._has_capability(14)
        wait_until(is_as_it_should_be, "the worker is nice, its middleware is not", 10.0)
        killed = worker()
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: worker() not in (None, killed) and is_as_it_should_be(), "a new worker inherits nothing from the thread that starts it", 40.0)
    finally:
        process.terminate()
        process.wait()
        robot.close()
