# SPDX-License-Identifier: Apache-2.0
"""Child processes always end, whatever they or their parent do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vla_ros.processes import Process, free_domain, own_ros_environment, vla_command, wait_until

STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN); signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import signal,time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"])
print(child.pid, flush=True)
time.sleep(60)
"""


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_what_a_process_says_is_in_its_log(tmp_path):
    with Process("hello", python("print('good morning')"), tmp_path / "logs" / "hello.log") as process:
        assert wait_until(lambda: process.exit_code is not None, 30)
    assert process.exit_code == 0 and "good morning" in process.log_tail()


def test_a_process_that_obeys_ends_with_its_own_code(tmp_path):
    code = "import time\nprint('up', flush=True)\ntry:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    raise SystemExit(7)"
    with Process("obedient", python(code), tmp_path / "log") as process:
        assert wait_until(lambda: "up" in process.log_tail(), 30)
        assert process.stop() == 7


def test_a_stubborn_process_and_its_children_are_killed(tmp_path):
    process = Process("stubborn", python(STUBBORN), tmp_path / "log")
    assert wait_until(lambda: process.log_tail().strip().isdigit(), 30)
    child = int(process.log_tail())
    start = time.monotonic()
    assert process.stop(timeout_s=0.3) == -signal.SIGKILL
    assert time.monotonic() - start < 5
    assert wait_until(lambda: not is_alive(child), 5)


def test_nothing_survives_a_killed_parent(tmp_path):
    code = f"""
import sys, time
from pathlib import Path
from vla_ros.processes import Process
process = Process("child", [sys.executable, "-c", "import time; time.sleep(60)"], Path({str(tmp_path / "log")!r}))
print(process.pid, flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen(python(code), stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    assert is_alive(child)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert wait_until(lambda: not is_alive(child), 5)


def test_peak_memory_covers_the_whole_group(tmp_path):
    code = "import subprocess, sys, time\nx = bytearray(50 << 20)\n" + STUBBORN
    with Process("big", python(code), tmp_path / "log") as process:
        assert wait_until(lambda: process.log_tail().strip().isdigit(), 30)
        assert process.peak_memory_mb() > 55
        process.stop(timeout_s=0.1)


def test_the_domain_is_free_and_legal():
    assert 0 <= free_domain() <= 101
    environment = own_ros_environment()
    assert environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
    assert set(environment) >= {"ROS_DOMAIN_ID", "RMW_IMPLEMENTATION"}


def test_vla_command_runs_this_installation():
    done = subprocess.run(vla_command("--version"), capture_output=True, text=True, timeout=60, check=True, env=dict(os.environ))
    assert done.stdout.startswith("vla_ros ")


def test_waiting_ends_at_its_timeout():
    start = time.monotonic()
    assert not wait_until(lambda: False, 0.1)
    assert time.monotonic() - start == pytest.approx(0.1, abs=1.0)
