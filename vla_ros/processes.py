# SPDX-License-Identifier: Apache-2.0
"""Child processes that always end: one log file each, a request to stop first, and no survivor even if the parent is killed."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

STOP_TIMEOUT_S = 6.0  # nodes promise to end within five seconds after SIGINT
_PR_SET_PDEATHSIG = 1
_DOMAINS = range(20, 100)  # above 101 the ports meet the ephemeral ones of Linux
_libc = ctypes.CDLL(None, use_errno=True)


class Process:
    """A running command in a process group of its own. Use as a context manager, or call ``stop``.

    Args:
        name: for messages, and of the log file.
        command: arguments.
        log: file that takes stdout and stderr.
        environment: added to this process's.
    """

    def __init__(self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        self.name, self.log = name, log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as stream:
            self._popen = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
                preexec_fn=die_with_parent,
            )

    @property
    def pid(self) -> int:
        """The process id, also of its group."""
        return self._popen.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._popen.poll()

    def log_tail(self, lines: int = 8) -> str:
        """The last lines of the log."""
        with contextlib.suppress(OSError):
            return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
        return ""

    def peak_memory_mb(self) -> float:
        """Peak resident memory of the process and its present children, MB; 0 when it has ended."""
        return sum(_peak_kb(pid) for pid in _group_members(self.pid)) / 1024

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Asks with SIGINT, then kills what is left of the group. Returns the exit code."""
        if self.exit_code is None:
            with contextlib.suppress(ProcessLookupError):
                self._popen.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(timeout_s)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        return self._popen.wait()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


def vla_command(*arguments: str) -> list[str]:
    """A ``vla`` command of this very installation."""
    return [sys.executable, "-m", "vla_ros.cli", *arguments]


def own_ros_environment() -> dict[str, str]:
    """Variables under which a group of nodes meets only each other, and this machine's network is left alone."""
    return {"ROS_DOMAIN_ID": str(free_domain()), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "RMW_IMPLEMENTATION": "rmw_fastrtps_cpp"}


def free_domain() -> int:
    """A ROS domain in which no participant of this machine listens; starts at one that depends on the process id."""
    first = os.getpid() % len(_DOMAINS)
    for domain in (*_DOMAINS[first:], *_DOMAINS[:first]):
        if is_free(domain):
            return domain
    return _DOMAINS[first]


def is_free(domain: int) -> bool:
    """Whether no participant of this machine listens in a ROS domain."""
    port = 7400 + 250 * domain + 10  # unicast discovery port of a domain's first participant (RTPS 9.6.1.1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def child_processes(parent: int) -> dict[str, list[int]]:
    """Processes of this package that ``parent`` started, by module."""
    found: dict[str, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            if int((folder / "stat").read_text().rsplit(") ", 1)[1].split()[1]) == parent:
                words = (folder / "cmdline").read_bytes().split(b"\0")
                module = words[words.index(b"-m") + 1].decode().rsplit(".", 1)[-1]
                found.setdefault(module, []).append(int(folder.name))
    return found


def wait_until(condition, timeout_s: float, period_s: float = 0.05) -> bool:
    """Polls ``condition()`` until it is true; False after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(period_s)
    return True


def die_with_parent() -> None:
    """Runs in the child before exec: SIGTERM when the parent ends, however that happens, and SIGINT is not ignored.

    A shell's background jobs ignore SIGINT and would hand that on, and then nothing but a kill would stop a node.
    """
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _group_members(group: int) -> list[int]:
    members = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if os.getpgid(int(entry.name)) == group:
                    members.append(int(entry.name))
    return members


def _peak_kb(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    return 0
