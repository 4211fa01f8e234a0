# SPDX-License-Identifier: Apache-2.0
"""How soon the real node stops, as the robot sees it over DDS (``vla_ros.ros.bench_stops``): e-stop, joint states or pictures that end, an
inference process that is killed, which is replaced by another until the arm is led again.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from vla_ros.bench.nodes import START_S, require_ros, ros_environment
from vla_ros.bench.programs import Program
from vla_ros.bench.rounds import entry
from vla_ros.core.paths import bundle_dir
from vla_ros.processes import Process

MAX_JOINT_AGE_S, MAX_IMAGE_AGE_S = 0.1, 0.5
STOP, BACK = "stop_begins", "back_in_operation"
#: Limits of the longest, ms: one control period for the e-stop; inputs after they expired; a new inference process.
LIMITS_MS = {("e-stop", STOP): 20.0, ("joint states end", STOP): 100.0, ("pictures end", STOP): 100.0, ("inference killed", BACK): 5000.0}
FAULTS = ("e-stop", "joint states end", "pictures end", "inference killed")


def bench_stops(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Returns ``results``."""
    require_ros()
    draw = random.Random(0).sample
    found: dict[tuple[str, str], list[float]] = {}
    for _ in track(range(options.stops), description="stops", console=console):
        with _running(options.model) as robot:  # anew: a process that is killed again and again is started later and later
            for fault in draw(FAULTS, len(FAULTS)):
                for metric, milliseconds in robot.ask(fault, 3 * START_S).items():
                    found.setdefault((fault, metric), []).append(milliseconds)
    order = [(fault, metric) for metric in (STOP, BACK) for fault in FAULTS if (fault, metric) in found]
    limits = {key: {"limit": {"max": limit}} for key, limit in LIMITS_MS.items()}
    return {"results": [entry(*key, "ms", found[key], **limits.get(key, {})) for key in order]}


@contextlib.contextmanager
def _running(model: str) -> Iterator[Program]:
    """The node as `vla run` starts it, and the robot that breaks something."""
    environment = ros_environment()
    ages = {"max_joint_age_s": MAX_JOINT_AGE_S, "max_image_age_s": MAX_IMAGE_AGE_S, "max_skew_s": MAX_IMAGE_AGE_S}
    settings = [word for name, value in ages.items() for word in ("-p", f"{name}:={value}")]
    command = [sys.executable, "-m", "vla_ros.ros.run", "--model", str(bundle_dir(model).resolve()), "--ros-args", *settings]
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vla_bench_")))
        node = stack.enter_context(Process("vla_policy", command, folder / "node.log", environment))
        limits = ["--max-joint-age-s", str(MAX_JOINT_AGE_S), "--max-image-age-s", str(MAX_IMAGE_AGE_S)]
        yield stack.enter_context(Program("vla_ros.ros.bench_stops", ["--node-pid", str(node.pid), *limits], folder / "robot.log", environment))
