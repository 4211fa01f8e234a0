# SPDX-License-Identifier: Apache-2.0
"""Starts, watches and replaces the inference process. Must not import rclpy. Use from one thread: the one that makes it.

The process dies with its parent (``PR_SET_PDEATHSIG``, set by the child) and is not reached by a Ctrl-C in the terminal: the node ends it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field

from vla_ros.ros.scheduling import niceness, set_niceness

_KILL_AFTER_S = 1.0


@dataclass(frozen=True, kw_only=True)
class CameraTopic:
    """One camera of the worker: its name in the manifest and its fully resolved topic."""

    name: str
    topic: str


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """Everything the inference process needs; travels as JSON on its command line. Ages and times are in ns.

    Attributes:
        bundle: folder of the policy bundle.
        robot: path of the robot description.
        exchange: name of the shared memory.
        node_name: name of its ROS node.
        namespace: namespace of its ROS node.
        cameras: in the manifest's order.
        parent_pid: the process with which it dies.
        clock_offset_ns: of the node's steady time to the monotonic clock; None: a time of its own.
    """

    bundle: str
    robot: str
    exchange: str
    node_name: str
    namespace: str
    use_sim_time: bool
    cameras: tuple[CameraTopic, ...]
    transport: str
    max_pixels: int
    provider: str
    allow_cpu: bool
    threads: int
    nice: int
    min_period_ns: int
    max_image_age_ns: int
    max_joint_age_ns: int
    max_future_ns: int
    max_skew_ns: int
    frozen_timeout_ns: int
    log_level: str = "info"
    parent_pid: int = field(default_factory=os.getpid)
    clock_offset_ns: int | None = None

    def to_json(self) -> str:
        """Text for the command line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> WorkerConfig:
        """The inverse of :meth:`to_json`."""
        data = json.loads(text)
        return cls(**{**data, "cameras": tuple(CameraTopic(**c) for c in data["cameras"])})


class WorkerProcess:
    """One inference process at a time, and how often it had to be replaced."""

    def __init__(self, config: WorkerConfig) -> None:
        """Does not start it."""
        self._config = config
        self._niceness = niceness()  # of the first process and all others, whatever this thread has become by then
        self._process: subprocess.Popen | None = None
        self.started_ns = 0
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        """Process id, None while there is none."""
        return None if self._process is None else self._process.pid

    @property
    def exit_code(self) -> int | None:
        """How it ended, None while it runs or was not started; negative for a signal."""
        return None if self._process is None else self._process.poll()

    @property
    def running_ns(self) -> int:
        """Since the start, monotonic clock."""
        return time.monotonic_ns() - self.started_ns

    def start(self) -> None:
        """Starts the process with this one's environment (the ROS wheels need its library path)."""
        command = [sys.executable, "-m", "vla_ros.ros.worker", self._config.to_json()]
        present = niceness()
        set_niceness(self._niceness)
        try:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        finally:
            set_niceness(present)
        self.started_ns = time.monotonic_ns()

    def stop(self, grace_s: float = _KILL_AFTER_S) -> None:
        """Ends the process: by SIGTERM, and after ``grace_s`` by SIGKILL."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        if grace_s > 0:
            process.terminate()
            try:
                process.wait(grace_s)
                return
            except subprocess.TimeoutExpired:
                pass
        process.kill()
        process.wait()
