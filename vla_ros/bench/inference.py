# SPDX-License-Identifier: Apache-2.0
"""One chunk: our runtime beside PyTorch eager, ``torch.compile``, plain ONNX Runtime, int8, and the floor, all in the same rounds."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from vla_ros.bench import autoregressive, memory
from vla_ros.bench.floor import FP32, INT8, READ, floor_seconds, floor_variants, peaks
from vla_ros.bench.programs import Program
from vla_ros.bench.rounds import Variant, as_results, entry, time_rounds
from vla_ros.bench.samples import answer, graph_inputs, load_policy, random_observation
from vla_ros.core.errors import ConfigError, VlaError
from vla_ros.core.paths import bundle_dir
from vla_ros.extras import how_to_install
from vla_ros.runtime.bundle import load_bundle
from vla_ros.runtime.session import BoundGraph

METRIC = "inference_latency"
EAGER, COMPILED = "PyTorch eager", "torch.compile"
POOL = "onnxruntime, global pool"
PLAIN, GRAPH, WHOLE, QUANTISED = "onnxruntime, defaults", "runtime, graph", "runtime, observation to chunk", "runtime, int8 graph"
FLOOR, FLOOR_INT8 = "floor", "floor, int8"
REST_S = 0.01  # a spinning pool goes to sleep within some milliseconds
TURN_S = 0.06  # a processor that rested needs about 40 ms until it is as fast as it gets
METHOD = "int8"
#: Variant, what it is compared with, its floor and how many times that it may take, and the share of PyTorch's time that it may take, in %.
LIMITS = (
    (GRAPH, EAGER, FLOOR, 1.5, 85.0),
    (QUANTISED, EAGER, FLOOR_INT8, 2.0, 30.0),
    (autoregressive.GRAPH, autoregressive.EAGER, "", 0.0, 55.0),
    (autoregressive.QUANTISED, autoregressive.EAGER, "", 0.0, 30.0),
)


def bench_inference(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Returns ``results``, ``notes`` (what could not be compared, and why), ``floor`` and ``provider_in_use``."""
    notes: list[str] = []
    policy = load_policy(options.model, options.provider, options.threads)
    observation = random_observation(policy)
    inputs = graph_inputs(policy, observation)
    if refused := answer(policy, observation):
        notes.append(f"{WHOLE}: the answer to noise is no motion, its decoding ends early ({refused})")
    variants: list[Variant] = [
        *_plain_variants(policy, inputs, options),
        (GRAPH, lambda: policy.backend.infer(inputs)),
        (WHOLE, lambda: answer(policy, observation)),
        *_torch_variants(policy, inputs, options, notes),
    ]
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vla_bench_")))
        graphs = {FLOOR: policy.bundle.policy_path}
        quantised = _quantised(options, policy, folder, notes)
        if quantised is not None:
            backend, graphs[FLOOR_INT8] = quantised
            variants.append((QUANTISED, lambda: backend.infer(inputs)))
        if options.autoregressive:
            variants += autoregressive.autoregressive_variants(
                options.autoregressive, options.provider, options.threads, folder, lambda path, out: _quantise(path, out, options), notes
            )
        if options.global_pool:
            pool = stack.enter_context(_global_pool(policy, inputs, folder, options.threads))
            variants.append((POOL, lambda: pool.ask("run")))
        costs = _costs(graphs, notes)
        if costs:
            variants += floor_variants(costs[FLOOR], options.threads, FLOOR_INT8 in costs)
        timings = time_rounds(variants, options.rounds, console, "inference", REST_S, TURN_S)
    wall = dict(timings.wall)
    measured = {name: wall.pop(name) for name in (FP32, INT8, READ) if name in wall}
    floors = {name: floor_seconds(cost, measured) for name, cost in costs.items()}
    baseline = EAGER if EAGER in wall else PLAIN
    results = as_results({**wall, **floors}, metric=METRIC, unit="ms", baseline=baseline)
    results += compared(wall, floors)
    first = {name: values for name, values in timings.first.items() if name in wall}
    results += as_results(first, metric="first_call_latency", unit="ms", baseline=baseline)
    cpu = {name: values for name, values in timings.cpu.items() if name in wall and name != POOL}
    results += as_results(cpu, metric="inference_cpu_time", unit="ms", baseline=baseline)
    memory_mb = memory.measure(str(policy.bundle.directory), options.provider, options.threads)
    results.append(entry("runtime process", "peak_memory", "MB", [memory_mb], limit={"max": 600}))
    figures = peaks(costs[FLOOR], measured) if costs else {}
    return {"results": results, "notes": notes, "floor": figures, "provider_in_use": policy.backend.description}


def _costs(graphs: Mapping[str, Path], notes: list[str]) -> dict[str, Any]:
    """What each graph must compute and read at the least; nothing without the package that reads graphs."""
    if importlib.util.find_spec("onnx") is None:
        notes.append(f"no floor: {how_to_install('train')}")
        return {}
    import onnx

    from vla_ros.onnx_cost import graph_cost

    return {name: graph_cost(onnx.load(path)) for name, path in graphs.items()}


def compared(wall: Mapping[str, Sequence[float]], floors: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    """How many times its floor each graph took, and which share of PyTorch's time: round by round, with the limits that were set."""
    rows = []
    for name, eager, floor, times, share in LIMITS:
        if name in wall and floor in floors:
            values = [value / least for value, least in zip(wall[name], floors[floor], strict=True)]
            rows.append(entry(name, "times_the_floor", "", values, limit={"p50": times}))
        if name in wall and eager in wall:
            values = [100.0 * value / base for value, base in zip(wall[name], wall[eager], strict=True)]
            rows.append(entry(name, "share_of_pytorch_eager", "%", values, limit={"p50": share}))
    return rows


# ---- plain ONNX Runtime ----


def _plain_variants(policy: Any, inputs: Mapping[str, np.ndarray], options: argparse.Namespace) -> list[Variant]:
    """What a short script would do, with the default number of threads and with ours."""
    path, providers = policy.bundle.policy_path, policy.backend.providers_in_use
    sessions = {PLAIN: plain_session(path, providers, None), f"onnxruntime, {options.threads} threads": plain_session(path, providers, options.threads)}
    return [(name, _runner(session, dict(inputs))) for name, session in sessions.items()]


def plain_session(path: Path, providers: Sequence[str], threads: int | None) -> Any:
    """A session with defaults, for numpy arrays in and out."""
    import onnxruntime as ort

    settings = ort.SessionOptions()
    if threads is not None:
        settings.intra_op_num_threads = threads
    return ort.InferenceSession(str(path), settings, providers=list(providers))


def _runner(session: Any, inputs: dict[str, np.ndarray]) -> Callable[[], Any]:
    return lambda: session.run(None, inputs)


def _global_pool(policy: Any, inputs: Mapping[str, np.ndarray], folder: Path, threads: int) -> Program:
    """A child process: a process with a global pool can have no other. The time of a call holds a message there and back, about 0.1 ms."""
    path = folder / "inputs.npz"
    np.savez(path, **inputs)
    program = Program("vla_ros.bench.global_pool", [str(policy.bundle.policy_path), str(path), str(threads)], folder / "pool.log")
    program.answer(60.0)
    return program


# ---- PyTorch ----


def _torch_variants(policy: Any, inputs: Mapping[str, np.ndarray], options: argparse.Namespace, notes: list[str]) -> list[Variant]:
    if importlib.util.find_spec("torch") is None:
        notes.append(f"no PyTorch baseline: {how_to_install('train')}")
        return []
    from vla_ros.bench import torch_policy
    from vla_ros.runtime.contract import ACTION_LOGITS

    variants: list[Variant] = []
    try:
        if options.checkpoint:
            module = torch_policy.from_checkpoint(options.checkpoint)
            torch_policy.check(module, inputs, policy.backend.infer(inputs)[ACTION_LOGITS])
        else:
            module = torch_policy.from_bundle(policy.bundle)
            notes.append("PyTorch: a network of the same shape with random weights; --checkpoint takes the same weights")
        variants.append((EAGER, torch_policy.call(module, inputs, options.threads)))
        if not options.no_compile:
            variants.append((COMPILED, torch_policy.compiled(module, inputs, options.threads)))
    except VlaError as error:
        notes.append(f"PyTorch: {error}")
    return variants


# ---- int8 ----


def _quantised(options: argparse.Namespace, policy: Any, folder: Path, notes: list[str]) -> tuple[Any, Path] | None:
    """The graph of ``--int8``, or one quantised here (for its speed; only ``vla quantize`` judges what it answers)."""
    try:
        if options.int8:
            path = load_bundle(bundle_dir(options.int8)).policy_path
            return BoundGraph(path, options.provider, options.threads), path
        path = folder / "int8.onnx"
        backend = _quantise(policy.bundle.policy_path, path, options)
        notes.append("int8: quantised for this run, its answers were not judged; vla quantize does that")
        return backend, path
    except (ConfigError, ModuleNotFoundError) as error:
        notes.append(f"int8: {error}")
        return None


def _quantise(path: Path, out: Path, options: argparse.Namespace) -> BoundGraph:
    """Writes the int8 form of a graph and opens it."""
    from vla_ros.quantized_graph import METHODS, write_graph

    write_graph(path, out, METHODS[METHOD], [])
    return BoundGraph(out, options.provider, options.threads)
