# SPDX-License-Identifier: Apache-2.0
"""How many 640x480 pictures at 30 Hz arrive from one process in another, and how late: shipped profile, Fast DDS's defaults, UDP only.

The three take turns. With another middleware only its own defaults are measured: a Fast DDS profile is nothing to it.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from vla_ros.bench.nodes import require_ros, ros_environment
from vla_ros.bench.programs import Program
from vla_ros.bench.rounds import entry
from vla_ros.ros.transport import PROFILE_VARIABLES, profile_path

MODULE = "vla_ros.ros.bench_images"
RATE_HZ = 30.0
PICTURES_A_TURN = 150
SHIPPED, DEFAULT, UDP = "shipped profile", "default", "UDP only"
MIN_SHARE = 99.0  # per cent, of the shipped profile

Environment = Mapping[str, str | None]


def bench_transport(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Returns ``results`` and ``rmw``."""
    require_ros()
    environment = ros_environment()
    rmw = environment["RMW_IMPLEMENTATION"]
    profiles = profiles_of(rmw)
    sizes = [PICTURES_A_TURN] * (options.pictures // PICTURES_A_TURN)
    sizes += [rest] if (rest := options.pictures % PICTURES_A_TURN) else []
    turns, shuffle = [], random.Random(0).shuffle
    for size in sizes:
        order = list(profiles)
        shuffle(order)
        turns += [(name, size) for name in order]
    latencies_ms: dict[str, list[float]] = {name: [] for name in profiles}
    with tempfile.TemporaryDirectory(prefix="vla_bench_") as folder:
        for name, size in track(turns, description="transport", console=console):
            latencies_ms[name] += send_pictures(size, {**environment, **profiles[name]}, Path(folder))
    results = []
    for name, values in latencies_ms.items():
        results += entries_of(name, values, options.pictures)
    return {"results": results, "rmw": rmw, "notes": [] if "fastrtps" in rmw else [f"{rmw} reads no Fast DDS profile: only its defaults were measured"]}


def profiles_of(rmw: str) -> dict[str, Environment]:
    """What to change in the environment for each way of transport; None removes a variable."""
    none: Environment = {**dict.fromkeys(PROFILE_VARIABLES), "FASTDDS_BUILTIN_TRANSPORTS": None}
    if "fastrtps" not in rmw:
        return {DEFAULT: none}
    return {
        SHIPPED: {**none, **dict.fromkeys(PROFILE_VARIABLES, str(profile_path()))},
        DEFAULT: none,
        UDP: {**none, "FASTDDS_BUILTIN_TRANSPORTS": "UDPv4"},
    }


def send_pictures(count: int, environment: Environment, folder: Path) -> list[float]:
    """Sends ``count`` pictures from a new process to another new one; returns the latencies of those that arrived, ms."""
    with Program(MODULE, ["receive"], folder / "receive.log", environment) as receiver:
        receiver.answer(60.0)
        with Program(MODULE, ["send", str(count), str(RATE_HZ)], folder / "send.log", environment) as sender:
            sender.answer(90.0 + 2.0 * count / RATE_HZ)
        return [1e-6 * latency for latency in receiver.ask("count")["latencies_ns"]]


def entries_of(name: str, latencies_ms: list[float], sent: int) -> list[dict[str, Any]]:
    """Share of pictures that were lost, and the latency of the others."""
    lost = 100.0 * (1.0 - len(latencies_ms) / sent)
    limit = {"limit": {"max": 100.0 - MIN_SHARE}} if name == SHIPPED else {}
    rows = [entry(name, "pictures_lost", "%", [lost], sent=sent, received=len(latencies_ms), **limit)]
    return [*rows, entry(name, "picture_latency", "ms", latencies_ms)] if latencies_ms else rows
