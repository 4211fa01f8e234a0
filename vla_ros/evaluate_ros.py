# SPDX-License-Identifier: Apache-2.0
"""Episodes through the real nodes over DDS, in real time: what ``vla evaluate --ros`` plays.

Scenes have the same seeds as in the in-process evaluation (where its scene had no task of the wanted family, it laid out another one), and
the verdict is the simulator's own check. What differs is everything in between: messages, two processes, the machine's own inference time.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vla_ros.closed_loop import POLICY_DONE, SUCCESS, TIME_LIMIT, EpisodeResult, EpisodeSpec, choose_other_task
from vla_ros.core.errors import InputError, VlaError
from vla_ros.processes import Process, own_ros_environment, vla_command

READY_S = 120.0
AFTER_DONE_S = 2.0
SETTLE_S = 0.3  # joint states of the new scene reach the node
ACTIVE_S = 20.0
_TICK_S = 0.02
_DIAGNOSTICS_S = 1.5  # the node tells its counts once a second


def play_over_ros(specs: Sequence[EpisodeSpec], bundle: Path, *, limit_s: float, provider: str = "cpu") -> Iterator[EpisodeResult]:
    """Starts both nodes once and plays the episodes one after the other.

    Args:
        specs: the episodes.
        bundle: folder of the policy bundle.
        limit_s: time limit of an episode; the simulator runs in real time.
        provider: execution provider.

    Raises:
        VlaError: a node did not come up or died; with the end of its log.
    """
    from vla_ros.ros.observer import Observer
    from vla_ros.sim.env import TabletopEnv

    os.environ.update(own_ros_environment())
    logs = Path(tempfile.mkdtemp(prefix="vla_evaluate_"))
    policy = ("--model", str(Path(bundle).resolve()), "--execution-provider", provider, "--autostart", "false")
    with contextlib.ExitStack() as stack:
        commands = {"vla_sim": vla_command("sim"), "vla_policy": vla_command("run", *policy)}
        processes = [stack.enter_context(Process(name, command, logs / f"{name}.log")) for name, command in commands.items()]
        observer = Observer(("front",), keep_pictures=False)
        stack.callback(observer.close)
        observer.spin_until(lambda: observer.has_pictures() or _dead(processes), READY_S)
        _check(processes)
        planner = TabletopEnv()  # draws tasks and words; the robot lives in the simulator's process
        for spec in specs:
            yield _play(observer, planner, spec, limit_s)
            _check(processes)


def _play(observer: Any, planner: Any, spec: EpisodeSpec, limit_s: float) -> EpisodeResult:
    """One episode: new scene, instruction, verdict. The node is inactive while the arm is put back: it takes jumps for a fault."""
    observer.reset_scene(spec.seed)
    draw_task(planner, spec)
    observer.spin_until(lambda: False, SETTLE_S)
    observer.activate_policy(READY_S)
    observer.spin_until(lambda: observer.is_connected() and not observer.seen.success and observer.seen.code == "IDLE", ACTIVE_S)
    counted = _counted(observer)
    observer.give(planner.instruction)
    start_ns, done_ns = observer.node.get_clock().now().nanoseconds, []

    def elapsed_s(since_ns: int) -> float:
        return (observer.node.get_clock().now().nanoseconds - since_ns) * 1e-9

    def ended() -> bool:
        seen = observer.seen
        if seen.task_done and not done_ns:
            done_ns.append(observer.node.get_clock().now().nanoseconds)
        return seen.success or observer.is_stopped or (bool(done_ns) and elapsed_s(done_ns[0]) > AFTER_DONE_S)

    in_time = observer.spin_until(ended, limit_s)
    seconds, seen = elapsed_s(start_ns), observer.seen
    heard = len(seen.inference_ms)
    observer.spin_until(lambda: len(seen.inference_ms) > heard, _DIAGNOSTICS_S)  # the node's counts of this episode
    inferences, rejected = (int(after - before) for before, after in zip(counted, _counted(observer)))
    result = EpisodeResult(
        spec=spec,
        family=planner.task.family,
        instruction=planner.instruction,
        success=seen.success,
        reason=_reason(seen, in_time),
        steps=round(seconds / _TICK_S),
        seconds=round(seconds, 3),
        inferences=inferences,
        inference_ms=round(float(np.mean(seen.inference_ms)), 2) if seen.inference_ms else 0.0,
        rejected=rejected,
    )
    observer.deactivate_policy()
    return result


def _counted(observer: Any) -> tuple[float, float]:
    """The node's own counts so far: answers of the policy, and those that were no action."""
    return observer.diagnostic("inference", "inferences") or 0.0, observer.diagnostic("inference", "rejected") or 0.0


def _reason(seen: Any, in_time: bool) -> str:
    """Why the episode ended; a robot that was stopped is told from one that was slow."""
    if seen.success:
        return SUCCESS
    if in_time and seen.task_done:
        return POLICY_DONE
    return TIME_LIMIT if seen.code == "ACTING" else seen.sentence


def draw_task(planner: Any, spec: EpisodeSpec) -> None:
    """Puts the scene of a spec before ``planner`` and draws task and words as the in-process evaluation does.

    Raises:
        InputError: ``no_task`` where the scene has none of the wanted family.
    """
    from vla_ros.sim.tasks import sample_task

    planner.reset(spec.seed)
    drawn = sample_task(np.random.default_rng([spec.seed, 2]), planner.feasible_tasks(), spec.split, spec.family)
    drawn = drawn or sample_task(np.random.default_rng([spec.seed, 2]), planner.feasible_tasks(), spec.split)
    if drawn is None:
        raise InputError(f"the scene of seed {spec.seed} allows no task", code="no_task")
    planner.set_task(*drawn)
    if spec.other_task:
        choose_other_task(planner, spec)


def _dead(processes: Sequence[Process]) -> Process | None:
    return next((process for process in processes if process.exit_code is not None), None)


def _check(processes: Sequence[Process]) -> None:
    dead = _dead(processes)
    if dead is not None:
        raise VlaError(f"{dead.name} ended with code {dead.exit_code}; the end of {dead.log}:\n{dead.log_tail()}")
