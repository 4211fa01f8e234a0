# SPDX-License-Identifier: Apache-2.0
"""What the safety filter costs in a control period: following the reference inside the limits, its stop, and the checks of the whole stop.

Real motions are replayed: what the scripted expert answered in the embedded simulator, chunk by chunk, with stops in between; and the same
pressed into the table, where paths are refused. Neither policy nor simulator runs meanwhile.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from vla_ros.bench.rounds import entry
from vla_ros.core.chunk import ActionChunk
from vla_ros.core.control import ControlLoop, Watch
from vla_ros.core.errors import VlaError
from vla_ros.robot import RobotDescription

LIMIT_US = {"p99": 500.0}
_PERIOD_NS = 20_000_000
_DELAY_NS = 120_000_000  # from an observation to its chunk
_EPISODES = 8
_EPISODE_LIMIT_S = 12.0
_STOP_EVERY, _STOP_TICKS = 200, 30
_PRESS_RAD = 0.12  # of the shoulder, downwards: 4 to 6 cm at the tool


@dataclass
class Motion:
    """One episode: the robot's start and the chunks, each with the time of its observation since the start."""

    robot: RobotDescription
    chunks: list[tuple[int, ActionChunk]]
    seconds: float


def bench_filter(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Returns ``results`` and ``notes``."""
    from vla_ros.ros.parameters import PolicyNodeParameters
    from vla_ros.ros.session import make_loop

    motions = record_motions(_EPISODES, console)
    results, notes = [], []
    for name, press_rad in (("motions of the expert", 0.0), ("the same, pressed into the table", _PRESS_RAD)):
        times_us: dict[str, list[float]] = {"filter_time": [], "filter_cpu_time": [], "control_step_time": []}
        codes: dict[str, int] = {}
        for motion in track(motions, description=name, console=console):
            loop = make_loop(motion.robot, PolicyNodeParameters())
            replay(loop, motion, press_rad, times_us)
            for code in ("status_workspace", "status_collision"):
                codes[code] = codes.get(code, 0) + loop.counts[code]
        results += [entry(name, metric, "us", values, **({} if metric == "control_step_time" else {"limit": LIMIT_US})) for metric, values in times_us.items()]
        notes.append(f"{name}: {codes['status_workspace']} times refused for the workspace, {codes['status_collision']} for a collision")
    return {"results": results, "notes": notes}


def record_motions(episodes: int, console: Console | None = None) -> list[Motion]:
    """Plays the expert in the embedded simulator and keeps its answers."""
    from vla_ros.closed_loop import ClosedLoop, EpisodeSpec
    from vla_ros.expert_policy import ExpertPolicy
    from vla_ros.sim.env import TabletopEnv

    env = TabletopEnv()
    policy = _Recorded(ExpertPolicy(env))
    loop = ClosedLoop(env=env, policy=policy, cameras=(), limit_s=_EPISODE_LIMIT_S)
    motions = []
    for seed in track(range(episodes), description="recording motions", console=console) if console else range(episodes):
        policy.answers = []
        result = loop.run(EpisodeSpec(seed=seed))
        start_ns = policy.answers[0].obs_stamp_ns
        motions.append(Motion(env.robot, [(chunk.obs_stamp_ns - start_ns, chunk) for chunk in policy.answers], result.seconds))
    return motions


class _Recorded:
    """A policy whose answers are kept."""

    def __init__(self, policy: Any) -> None:
        self._policy, self.answers = policy, []
        self.commit = policy.commit

    def infer(self, observation: Any, prefix_HD: np.ndarray | None = None) -> ActionChunk:
        """As the policy's."""
        self.answers.append(self._policy.infer(observation, prefix_HD))
        return self.answers[-1]


def replay(loop: ControlLoop, motion: Motion, press_rad: float, times_us: dict[str, list[float]]) -> None:
    """Runs the loop through one motion with a perfect servo; appends what each period took.

    Args:
        loop: fresh.
        motion: what to follow.
        press_rad: added to the shoulder's waypoints.
        times_us: by metric.
    """
    filtered = _Stopwatch(loop)
    start_ns, chunks = 10**12, list(motion.chunks)
    loop.put_joints(start_ns, motion.robot.home)
    loop.activate(0)
    loop.set_instruction("go")
    offset_J = np.zeros(len(motion.robot.home))
    offset_J[motion.robot.joint_names.index("shoulder_lift_joint")] = press_rad
    for tick in range(round(motion.seconds / (_PERIOD_NS * 1e-9))):
        now_ns = start_ns + tick * _PERIOD_NS
        _stop_and_go(loop, tick)
        while chunks and chunks[0][0] + _DELAY_NS <= tick * _PERIOD_NS:
            since_ns, chunk = chunks.pop(0)
            _put(loop, replace(chunk, obs_stamp_ns=start_ns + since_ns, joint_positions_HJ=chunk.joint_positions_HJ + offset_J), now_ns)
        filtered.wall_ns = filtered.cpu_ns = 0
        begin_ns = time.perf_counter_ns()
        output = loop.step(now_ns, Watch())
        times_us["control_step_time"].append((time.perf_counter_ns() - begin_ns) * 1e-3)
        times_us["filter_time"].append(filtered.wall_ns * 1e-3)
        times_us["filter_cpu_time"].append(filtered.cpu_ns * 1e-3)
        loop.put_joints(now_ns, output.positions_J)


def _stop_and_go(loop: ControlLoop, tick: int) -> None:
    if tick % _STOP_EVERY == _STOP_EVERY - _STOP_TICKS:
        loop.stop()
    elif tick % _STOP_EVERY == 0 and tick:
        loop.resume()


def _put(loop: ControlLoop, chunk: ActionChunk, now_ns: int) -> None:
    try:
        loop.put_chunk(replace(chunk, generation=loop.generation), now_ns)
    except VlaError:  # pressed beyond a joint's limit: refused and counted by the loop, as in the node
        pass


class _Stopwatch:
    """Times every call of the loop's guard: all that is between a reference and the command."""

    def __init__(self, loop: ControlLoop) -> None:
        self.wall_ns = self.cpu_ns = 0
        guard = loop._guard
        for name in ("follow", "stop"):
            setattr(guard, name, self._timed(getattr(guard, name)))

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            begin_ns, begin_cpu_ns = time.perf_counter_ns(), time.thread_time_ns()
            try:
                return function(*arguments)
            finally:
                self.cpu_ns += time.thread_time_ns() - begin_cpu_ns
                self.wall_ns += time.perf_counter_ns() - begin_ns

        return timed
