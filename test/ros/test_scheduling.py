# SPDX-License-Identifier: Apache-2.0
"""What the kernel is asked for reaches it, for the thread that asks and for no other."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import struct
import subprocess
import sys
import threading

import pytest

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


@pytest.mark.skipif(not kernel_has_time_slices(), reason="the kernel has no time slices for normal threads")
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

    assert in_a_thread(ask) in (os.SCHED_FIFO, 1)
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


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
