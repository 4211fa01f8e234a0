# SPDX-License-Identifier: Apache-2.0
"""How even the control period of the real node is: idle, under load, and under a flood of instructions; with SCHED_FIFO and without.

``load`` means two cameras of 640x480 at 30 Hz over DDS and inference back to back in the worker process; ``flood`` adds 1,000 instructions a
second. The conditions take turns in one running node.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console

from vla_ros.bench.nodes import record_conditions, require_ros, running
from vla_ros.bench.rounds import as_results, entry, interleave
from vla_ros.bench.stalls import StallWatch, missed_without_stalls, stalls_within
from vla_ros.bench.stolen import StolenTime

#: Of the wake-up error under load, us; without SCHED_FIFO only p99.
LIMITS_FIFO, LIMITS_NORMAL = {"p99": 250.0, "p999": 2000.0}, {"p99": 4000.0}
FLOOD_LIMIT = 1.1  # the flood's p99 over the load's
STEP_PERIOD_NS = 20_000_000


def bench_control(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Returns ``results``, ``notes`` and ``rmw``."""
    require_ros()
    step = interleave([("control step", control_step())], min(options.cycles, 2000), console, "control step")
    results, notes, rmw = as_results(step, metric="control_step_time", unit="us", baseline="control step"), [], ""
    for scheduler in options.scheduler:
        for rate_hz in options.rate:
            title = f"{rate_hz} Hz, {'SCHED_FIFO' if scheduler == 'fifo' else 'normal scheduler'}"
            with running(options.model, rate_hz=rate_hz, fifo=scheduler == "fifo", threads=options.threads, provider=options.provider) as bench:
                state = bench.wait_active()
                rmw = state["rmw"]
                if scheduler == "fifo" and not state["fifo"]:
                    notes.append(f"{title}: refused by the system and left out; vla doctor says what to do")
                    continue
                settings = {"cycles": options.cycles, "segments": options.segments, "rate_hz": rate_hz, "console": console, "title": title}
                stolen = StolenTime()
                with StallWatch() if scheduler == "fifo" else contextlib.nullcontext() as watch:
                    rows = record_conditions(bench, options.conditions, notes=notes, **settings)
                notes += resumed_note(title, bench.state()) + stolen.notes(title)
            results += entries_of(rows, title, rate_hz, scheduler, None if watch is None else watch.stalls_ns)
    return {"results": results, "notes": notes, "rmw": rmw}


def entries_of(
    rows: Mapping[str, Sequence[np.ndarray]], title: str, rate_hz: float, scheduler: str, stalls_ns: np.ndarray | None = None
) -> list[dict[str, Any]]:
    """Entries of one run of the node.

    Args:
        rows: condition to the recorded parts.
        title: rate and scheduler in words.
        rate_hz: control rate.
        scheduler: ``fifo`` or ``normal``.
        stalls_ns: when a core stalled, [N, 2]; None where nobody watched.
    """
    results = []
    for condition, parts in rows.items():
        name = f"{title}, {condition}"
        more = {"rate_hz": rate_hz, "condition": condition, "scheduler": scheduler, "missed_periods": sum(map(missed_periods, parts))}
        whole = np.concatenate(parts)
        limit = {} if condition == "idle" else {"limit": LIMITS_FIFO if scheduler == "fifo" else LIMITS_NORMAL}
        results += [
            entry(name, "wake_up_error", "us", 1e-3 * whole["lateness_ns"], **more, **limit),
            entry(name, "period_error", "us", 1e6 * np.concatenate([period_errors_s(part, rate_hz) for part in parts]), **more),
            entry(name, "execution_time", "us", 1e-3 * whole["step_ns"], **more),
            entry(name, "missed_periods", "", [more["missed_periods"]], **more, **({"limit": {"max": 0}} if scheduler == "fifo" else {})),
        ]
        if stalls_ns is not None:
            own = sum(missed_without_stalls(part, stalls_ns, round(1e9 / rate_hz)) for part in parts)
            lengths_ns = np.concatenate([stalls_within(part, stalls_ns) for part in parts])
            results.append(entry(name, "missed_without_stalls", "", [own], **more, limit={"max": 0}))
            results.append(entry(name, "stalls_of_the_machine", "ms", 1e-6 * lengths_ns if len(lengths_ns) else [0.0], **more))
        ages_ms = 1e-6 * whole["age_ns"][whole["age_ns"] > 0]
        if len(ages_ms):
            results.append(entry(name, "observation_to_action_age", "ms", ages_ms, **more))
    return results + flood_ratio(results, title)


def flood_ratio(results: Sequence[Mapping[str, Any]], title: str) -> list[dict[str, Any]]:
    """How much the flood moves the p99 of the wake-up error: one entry, where both conditions were recorded."""
    p99 = {row["condition"]: row["p99"] for row in results if row["metric"] == "wake_up_error"}
    if not p99.get("load") or "flood" not in p99:
        return []
    ratio = p99["flood"] / p99["load"]
    return [entry(title, "flood_over_load_p99", "", [ratio], limit={"max": FLOOD_LIMIT})]


def period_errors_s(rows: np.ndarray, rate_hz: float) -> np.ndarray:
    """How far each period, s, was from what it should have been; over a missed period it is a whole one and more."""
    return np.abs(np.diff(rows["woke_ns"]) * 1e-9 - 1.0 / rate_hz) if len(rows) > 1 else np.zeros(1)


def missed_periods(rows: np.ndarray) -> int:
    """Periods that were skipped while these rows were recorded."""
    return int(rows["missed"][-1] - rows["missed"][0])


def resumed_note(title: str, state: Mapping[str, Any]) -> list[str]:
    """Says how often the node latched: noise is no scene, and an answer that no arm can follow is rejected."""
    return [f"{title}: the node latched {state['resumed']} times on pictures of noise and was resumed"] if state["resumed"] else []


def control_step() -> Callable[[], Any]:
    """The node's control loop in this process, which follows a chunk and is fed with fresh ones at the policy's rate."""
    from vla_ros.bench.samples import INSTRUCTION
    from vla_ros.core.chunk import ActionChunk
    from vla_ros.core.control import Watch
    from vla_ros.core.paths import robot_config_path
    from vla_ros.robot import RobotDescription
    from vla_ros.ros.parameters import PolicyNodeParameters
    from vla_ros.ros.session import make_loop

    robot = RobotDescription.load(robot_config_path("tabletop_arm"))
    loop = make_loop(robot, PolicyNodeParameters())
    loop.put_joints(0, robot.home)
    loop.activate(0)
    loop.set_instruction(INSTRUCTION)
    steps, joints = 5, len(robot.home)
    swing = np.zeros((2, steps, joints))
    swing[0, :, 0], swing[1, :, 0] = 0.1, -0.1
    count = 0

    def step() -> Any:
        nonlocal count
        now_ns, measured = count * STEP_PERIOD_NS, loop.step(count * STEP_PERIOD_NS, Watch())
        loop.put_joints(now_ns, measured.positions_J)
        if count % 8 == 0:
            loop.put_chunk(
                ActionChunk(
                    obs_stamp_ns=now_ns,
                    generation=loop.generation,
                    dt_ns=200_000_000,
                    actions_HD=np.zeros((steps, 6)),
                    tokens_HD=np.zeros((steps, 6), dtype=np.int32),
                    confidence_HD=np.ones((steps, 6), dtype=np.float32),
                    joint_positions_HJ=robot.home + swing[count // 200 % 2],
                    terminate_H=np.zeros(steps, dtype=bool),
                ),
                now_ns,
            )
        count += 1
        return measured

    return step
