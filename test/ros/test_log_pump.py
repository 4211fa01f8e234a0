# SPDX-License-Identifier: Apache-2.0
"""Python goes on while nobody reads the log; without the pump it does not (rclpy logs with the interpreter's lock held)."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.ros
_SCRIPT = """
import os, sys, threading, time
import rclpy.logging
from vla_ros.ros.log_pump import LogPump

def talk():
    log = rclpy.logging.get_logger("talker")
    for _ in range({lines}):
        log.warning("word " * 200)

with LogPump():
    thread = threading.Thread(target=talk, daemon=True)
    thread.start()
    thread.join(60.0)
    sys.stdout.write("ended" if not thread.is_alive() else "stuck")
    sys.stdout.flush()
{end}
"""


def test_a_log_that_nobody_reads_holds_nobody_up():
    read_end, write_end = os.pipe()
    script = _SCRIPT.format(lines=1200, end="    os._exit(0)")  # 1.2 megabytes, more than all pipes hold
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=write_end, timeout=120)
    os.close(write_end)
    os.close(read_end)
    assert done.stdout == b"ended"


def test_what_is_said_arrives_to_the_last_word():
    script = _SCRIPT.format(lines=20, end="sys.stderr.write('after the pump')")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=120)
    assert done.stdout == b"ended" and done.stderr.count(b"word") == 4000 and done.stderr.endswith(b"after the pump")
