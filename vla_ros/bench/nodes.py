# SPDX-License-Identifier: Apache-2.0
"""The node and its robot as processes of their own on a ROS domain of their own, recorded condition by condition."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from vla_ros.bench.programs import Program
from vla_ros.core.paths import bundle_dir
from vla_ros.processes import own_ros_environment

START_S, ACT_S, SETTLE_S = 150.0, 20.0, 1.0
WORKER_START_S = 120.0  # another program may keep the machine busy
FIFO_PRIORITY = 50
INFERENCES_A_SECOND = 1000  # no pause between inferences: the pictures set the pace


def require_ros() -> None:
    """Raises ModuleNotFoundError without rclpy, for which the command line knows what to install."""
    if importlib.util.find_spec("rclpy") is None:
        raise ModuleNotFoundError("No module named 'rclpy'", name="rclpy")


def ros_environment() -> dict[str, str]:
    """A domain of its own; a middleware that the user chose is kept."""
    environment = own_ros_environment()
    if os.environ.get("RMW_IMPLEMENTATION"):
        environment["RMW_IMPLEMENTATION"] = os.environ["RMW_IMPLEMENTATION"]
    return environment


class Bench:
    """One running node with one robot. Made by :func:`running`."""

    def __init__(self, node: Program, robot: Program, folder: Path) -> None:
        self._node, self._robot, self._folder = node, robot, folder

    def state(self) -> dict[str, Any]:
        """What the node says of itself."""
        return self._node.ask("state")

    def wait_active(self) -> dict[str, Any]:
        """Waits until the node may move the robot.

        Raises:
            VlaError: it does not come up.
        """
        deadline = time.monotonic() + START_S
        while (state := self._node.ask("state", START_S)).get("label") != "active" or "state" not in state:
            if time.monotonic() > deadline:
                raise self._node.failure(f"is {state.get('label')} after {START_S:.0f} s")
            time.sleep(0.2)
        return state

    def set_condition(self, condition: str) -> bool:
        """Changes what the robot does; returns whether the node acts if it should."""
        self._robot.ask(condition)
        time.sleep(SETTLE_S)
        if condition == "idle":
            return True
        deadline = time.monotonic() + ACT_S
        while self.state().get("state") != "acting":
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True

    def record(self, cycles: int, rate_hz: float) -> np.ndarray:
        """Rows of the next control periods, as ``vla_ros.ros.bench_node`` describes them."""
        path = self._folder / "rows.npy"
        self._node.ask(f"record {path} {cycles}", 30.0 + 6.0 * cycles / rate_hz)
        return np.load(path)


@contextlib.contextmanager
def running(model: str, *, rate_hz: float, fifo: bool, threads: int = 1, provider: str = "cpu") -> Iterator[Bench]:
    """Starts node and robot; both have ended afterwards.

    Args:
        model: policy bundle.
        rate_hz: of the control loop.
        fifo: ask for SCHED_FIFO and for memory that is not swapped out.
        threads: of one inference.
        provider: execution provider.
    """
    require_ros()
    options = {
        "model": bundle_dir(model).resolve(),
        "control-rate-hz": float(rate_hz),
        "sched-fifo-priority": FIFO_PRIORITY if fifo else 0,
        "inference-threads": threads,
        "worker-start-timeout-s": WORKER_START_S,
        "inference-max-rate-hz": float(INFERENCES_A_SECOND),
        "execution-provider": provider,
    }
    environment = ros_environment()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vla_bench_")))
        robot = Program("vla_ros.ros.bench_robot", ["--model", str(options["model"])], folder / "robot.log", environment)
        stack.enter_context(robot)
        arguments = [word for name, value in options.items() for word in (f"--{name}", str(value))] + ["--lock-memory"] * fifo
        node = stack.enter_context(Program("vla_ros.ros.bench_node", arguments, folder / "node.log", environment))
        yield Bench(node, robot, folder)


def record_conditions(
    bench: Bench, conditions: Sequence[str], *, cycles: int, segments: int, rate_hz: float, console: Console, title: str, notes: list[str]
) -> dict[str, list[np.ndarray]]:
    """Records every condition in ``segments`` parts; the conditions take turns, in a new order each time."""
    rows: dict[str, list[np.ndarray]] = {condition: [] for condition in conditions}
    segments = min(segments, cycles)
    sizes = [cycles // segments + (index < cycles % segments) for index in range(segments)]
    shuffle, turns = random.Random(0).shuffle, []
    for size in sizes:
        order = list(conditions)
        shuffle(order)
        turns += [(condition, size) for condition in order]
    for condition, size in track(turns, description=title, console=console):
        if not bench.set_condition(condition):
            notes.append(f"{title}, {condition}: the policy did not act within {ACT_S:.0f} s, recorded all the same ({bench.state().get('code')})")
        rows[condition].append(bench.record(size, rate_hz))
    return rows
