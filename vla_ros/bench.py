# SPDX-License-Identifier: Apache-2.0
"""``vla bench``: how fast, beside what somebody would otherwise use. Variants take turns, in a new order every round.

On a machine that others use too, only the ratios mean something: variants of one round meet the same load. Nothing here
says whether a policy is good (``vla evaluate`` does).
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from vla_ros.core.paths import bundle_dir, robot_config_path
from vla_ros.figures import percentiles
from vla_ros.results import PROVIDERS, machine_facts, write_json

INSTRUCTION = "put the red cube in the blue bowl"
WARM_UP_ROUNDS = 5
PERIOD_NS = 20_000_000

#: A variant: its name, and one call of it.
Variant = tuple[str, Callable[[], Any]]


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0."""
    options = parse(argv)
    console = Console(stderr=True)
    results: list[dict[str, Any]] = []
    if options.what in ("inference", "all"):
        results += bench_inference(options, console)
    if options.what in ("control", "all"):
        results += bench_control(options, console)
    settings = {"rounds": options.rounds, "threads": options.threads, "provider": options.provider}
    show(results, Console(highlight=False))
    if options.json:
        write_json(options.json, {"results": results, **settings, "machine": machine_facts()})
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="vla bench", description="Measure speed beside baselines, in interleaved rounds.")
    parser.add_argument("what", nargs="?", choices=("inference", "control", "all"), default="all", help="default: %(default)s")
    parser.add_argument("--model", default="tabletop", help="policy bundle (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=200, help="rounds, each calls every variant once (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads of one inference on the CPU (default: %(default)s)")
    parser.add_argument("--provider", choices=PROVIDERS, default="cpu", help="where the policy runs (default: %(default)s)")
    parser.add_argument("--checkpoint", type=Path, help="training checkpoint of the same network: also measures torch eager")
    parser.add_argument("--json", metavar="FILE", help="write all figures as JSON")
    options = parser.parse_args(argv)
    if options.rounds < 1 or options.threads < 1:
        parser.error("--rounds and --threads must be at least 1")
    return options


def interleave(variants: Sequence[Variant], rounds: int, console: Console, title: str) -> dict[str, list[float]]:
    """Seconds of every call by variant; the first rounds are not counted.

    Args:
        variants: names and calls.
        rounds: counted rounds.
        console: for the progress bar.
        title: of the bar.
    """
    order, seconds = list(variants), {name: [] for name, _ in variants}
    shuffle = random.Random(0).shuffle
    for index in track(range(rounds + WARM_UP_ROUNDS), description=title, console=console):
        shuffle(order)
        for name, call in order:
            start = time.perf_counter()
            call()
            elapsed = time.perf_counter() - start
            if index >= WARM_UP_ROUNDS:
                seconds[name].append(elapsed)
    return seconds


def as_results(seconds: dict[str, list[float]], *, metric: str, unit: str, baseline: str) -> list[dict[str, Any]]:
    """One entry for each variant; ``ratio`` is the baseline's median over this one's: 2 is twice as fast."""
    scale = {"ms": 1e3, "us": 1e6}[unit]
    figures = {name: percentiles([scale * value for value in values]) for name, values in seconds.items()}
    entries = []
    for name, figure in figures.items():
        rounded = {key: round(value, 4) if key != "n" else value for key, value in figure.items()}
        entry = {"name": name, "metric": metric, "unit": unit, **rounded}
        if name != baseline and figure["p50"] > 0:
            entry |= {"baseline": baseline, "ratio": round(figures[baseline]["p50"] / figure["p50"], 3)}
        entries.append(entry)
    return entries


# ---- inference ----


def bench_inference(options: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    """The runtime beside a plain onnxruntime session, and torch eager where a checkpoint is given."""
    from vla_ros.robot import RobotDescription
    from vla_ros.runtime.bundle import load_bundle
    from vla_ros.runtime.policy import Policy

    bundle = load_bundle(bundle_dir(options.model))
    robot = RobotDescription.load(robot_config_path(bundle.manifest.robot))
    policy = Policy(bundle, robot, provider=options.provider, threads=options.threads)
    policy.warm_up()
    observation = random_observation(bundle.manifest.cameras, robot.home)
    inputs = graph_inputs(policy, observation)
    plain = plain_session(bundle.policy_path, policy.backend.providers_in_use, None)
    plain_threads = plain_session(bundle.policy_path, policy.backend.providers_in_use, options.threads)
    variants: list[Variant] = [
        ("onnxruntime, defaults", lambda: plain.run(None, inputs)),
        (f"onnxruntime, {options.threads} threads", lambda: plain_threads.run(None, inputs)),
        ("runtime, graph", lambda: policy.backend.infer(inputs)),
        ("runtime, observation to chunk", lambda: policy.infer(observation)),
    ]
    if options.checkpoint:
        variants.append(("torch eager", torch_eager(options.checkpoint, inputs, options.threads)))
    seconds = interleave(variants, options.rounds, console, "inference")
    return as_results(seconds, metric="inference_latency", unit="ms", baseline="onnxruntime, defaults")


def random_observation(cameras: Sequence[Any], joint_positions_J: np.ndarray) -> Any:
    """An observation of noise: the time of a network does not depend on what it sees."""
    from vla_ros.core.observation import Observation

    rng = np.random.default_rng(0)
    return Observation(
        images={camera.name: rng.integers(0, 256, camera.shape, dtype=np.uint8) for camera in cameras},
        image_stamp_ns={camera.name: 0 for camera in cameras},
        joint_positions=joint_positions_J,
        joint_stamp_ns=0,
        instruction=INSTRUCTION,
    )


class _Recorder:
    """A policy's back end that remembers what it was given."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.inputs: dict[str, np.ndarray] = {}

    def infer(self, inputs: Any) -> Any:
        self.inputs = {name: array.copy() for name, array in inputs.items()}
        return self._backend.infer(inputs)


def graph_inputs(policy: Any, observation: Any) -> dict[str, np.ndarray]:
    """What the graph is given for an observation."""
    backend, recorder = policy.backend, _Recorder(policy.backend)
    policy.backend = recorder
    try:
        policy.infer(observation)
    finally:
        policy.backend = backend
    return recorder.inputs


def plain_session(path: Path, providers: Sequence[str], threads: int | None) -> Any:
    """What a short script would do: a session with defaults, numpy arrays in and out."""
    import onnxruntime as ort

    settings = ort.SessionOptions()
    if threads is not None:
        settings.intra_op_num_threads = threads
    return ort.InferenceSession(str(path), settings, providers=list(providers))


def torch_eager(checkpoint: Path, inputs: dict[str, np.ndarray], threads: int) -> Callable[[], Any]:
    """The network of a checkpoint in torch, on the same inputs."""
    import torch

    from vla_ros.export import ExportedPolicy
    from vla_ros.train.checkpoint import load_checkpoint, restore_policy

    torch.set_num_threads(threads)
    module = ExportedPolicy(restore_policy(load_checkpoint(checkpoint))).eval()
    tensors = [torch.from_numpy(array) for array in inputs.values()]

    def call() -> Any:
        with torch.inference_mode():
            return module(*tensors)

    return call


# ---- control ----


def bench_control(options: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    """What one control period costs, and how exact periods are beside a loop that sleeps for its period."""
    step = interleave([("control step", control_step())], 10 * options.rounds, console, "control step")
    results = as_results(step, metric="control_step_time", unit="us", baseline="control step")
    errors = {"sleep": sleeping(options.rounds), "control thread": deadlines(options.rounds)}  # one after the other: both want the core
    return results + as_results(errors, metric="period_error", unit="us", baseline="sleep")


def control_step() -> Callable[[], Any]:
    """A control loop that follows a chunk, fed with fresh chunks at the policy's rate."""
    from vla_ros.closed_loop import new_control_loop
    from vla_ros.core.chunk import ActionChunk
    from vla_ros.core.control import Watch
    from vla_ros.robot import RobotDescription

    robot = RobotDescription.load(robot_config_path("tabletop_arm"))
    loop = new_control_loop(robot)
    loop.put_joints(0, robot.home)
    loop.activate(0)
    loop.set_instruction(INSTRUCTION)
    steps, joints = 5, len(robot.home)
    swing = np.zeros((2, steps, joints))
    swing[0, :, 0], swing[1, :, 0] = 0.1, -0.1
    count = 0

    def step() -> Any:
        nonlocal count
        now_ns, measured = count * PERIOD_NS, loop.step(count * PERIOD_NS, Watch())
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


def sleeping(periods: int) -> list[float]:
    """Period errors in s of a loop that sleeps for its period after each step."""
    woken = []
    for _ in range(periods + 1):
        woken.append(time.monotonic_ns())
        time.sleep(PERIOD_NS * 1e-9)
    return period_errors(woken)


def deadlines(periods: int) -> list[float]:
    """Period errors in s of the node's own control thread."""
    from vla_ros.ros.loop import PeriodicThread

    woken: list[int] = []
    thread = PeriodicThread(woken.append, PERIOD_NS, name="vla_bench", sched_fifo_priority=50)
    thread.start()
    time.sleep(periods * PERIOD_NS * 1e-9)
    thread.stop()
    return period_errors(woken)


def period_errors(woken_ns: Sequence[int]) -> list[float]:
    """How far each period, in s, was from what it should have been."""
    return [abs(after - before - PERIOD_NS) * 1e-9 for before, after in zip(woken_ns, woken_ns[1:], strict=False)]


def show(results: Sequence[dict[str, Any]], console: Console) -> None:
    """Prints one table for each metric."""
    for metric in dict.fromkeys(entry["metric"] for entry in results):
        entries = [entry for entry in results if entry["metric"] == metric]
        table = Table(title=Text(f"{metric} [{entries[0]['unit']}]"), title_justify="left", box=SIMPLE_HEAD)
        for column in ("variant", "p50", "p99", "p99.9", "max", "n", "ratio"):
            table.add_column(column, justify="left" if column == "variant" else "right", overflow="fold")
        for entry in entries:
            figures = [f"{entry[key]:.2f}" for key in ("p50", "p99", "p999", "max")]
            table.add_row(entry["name"], *figures, str(entry["n"]), f"{entry['ratio']:.2f}" if "ratio" in entry else "-")
        console.print(table)
