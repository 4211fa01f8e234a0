# SPDX-License-Identifier: Apache-2.0
"""What a chunk costs when pictures, cameras, chunk or network grow: random weights, through the export's own path, beside int8 and the floor.

The time of a network depends on its shape and not on its weights. All graphs take turns in the same rounds.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from rich.console import Console
from rich.progress import track

from vla_ros.bench.floor import READ, floor_seconds, floor_variants
from vla_ros.bench.rounds import Variant, entry, time_rounds
from vla_ros.core.observation import CameraSpec
from vla_ros.export import export_graph
from vla_ros.model.config import PolicyConfig
from vla_ros.model.policy import Policy
from vla_ros.onnx_cost import Cost, graph_cost
from vla_ros.quantized_graph import METHODS, write_graph
from vla_ros.runtime.contract import FREE_TOKEN, PREFIX_TOKENS, PROPRIO, TEXT_IDS, image_input
from vla_ros.runtime.session import BoundGraph

METRIC = "scale_latency"
FLOAT, QUANTISED, FLOOR = "float32", "int8", "floor"
MAX_ROUNDS = 50
BASE = PolicyConfig(vocab_size=658, first_action_token=402, seen_tokens=tuple(range(1, 15)))
IMAGE_SIDES, CAMERA_COUNTS, HORIZONS = (64, 96, 128, 192, 256), (1, 2, 3, 4), (1, 5, 10, 20, 40)
NETWORKS = ((96, 4, 4), (192, 6, 6), (256, 8, 8), (384, 8, 8), (512, 12, 8))  # width, depth, heads


@dataclass(frozen=True, kw_only=True)
class Point:
    """One network: ``x`` is its place on the axis."""

    axis: str
    x: float
    config: PolicyConfig


def bench_scale(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Returns ``results``: for each point the medians of float32, int8 and the floor, with the parameters and operations behind them."""
    points = [point for axis in options.axes for point in AXES[axis]()]
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(prefix="vla_bench_") as folder:
        built = [build(point, Path(folder) / f"{index}", options.threads) for index, point in enumerate(track(points, "exporting", console=console))]
        variants: list[Variant] = [variant for network in built for variant in network.variants]
        largest = max((network.cost for network in built), key=lambda cost: cost.weight_bytes)
        seconds = time_rounds([*variants, *floor_variants(largest, options.threads, False)], min(options.rounds, MAX_ROUNDS), console, "scale").wall
    results = [row for network in built for row in network.entries(seconds, largest)]
    return {"results": results}


@dataclass(frozen=True, kw_only=True)
class Network:
    """One exported point and what is called in each round."""

    point: Point
    parameters: int
    cost: Cost
    variants: tuple[Variant, ...]

    def entries(self, seconds: Mapping[str, Sequence[float]], largest: Cost) -> list[dict[str, Any]]:
        """One entry a series; ``ratio`` is the time over the floor's."""
        point, share = self.point, self.cost.weight_bytes / largest.weight_bytes
        measured = {**seconds, READ: [share * value for value in seconds[READ]]}
        series = {name.rpartition(": ")[2]: seconds[name] for name, _ in self.variants}
        series[FLOOR] = floor_seconds(self.cost, measured)
        more = {"axis": point.axis, "x": point.x, "parameters": self.parameters, "operations": self.cost.operations}
        rows = [
            entry(f"{point.axis} {point.x:g}: {name}", METRIC, "ms", [1e3 * value for value in values], series=name, **more)
            for name, values in series.items()
        ]
        floor = rows[-1]["p50"]
        return [row if row["series"] == FLOOR else {**row, "baseline": rows[-1]["name"], "ratio": round(floor / row["p50"], 3)} for row in rows]


def build(point: Point, stem: Path, threads: int) -> Network:
    """Exports a network of random weights, and the same one in int8."""
    torch.manual_seed(0)
    policy = Policy(point.config).eval()
    inputs = sample_inputs(point.config)
    plain, quantised = stem.with_suffix(".onnx"), stem.with_suffix(".int8.onnx")
    export_graph(policy, inputs, plain)
    write_graph(plain, quantised, METHODS["int8"], [])
    calls = []
    for name, path in ((FLOAT, plain), (QUANTISED, quantised)):
        graph = BoundGraph(path, threads=threads)
        calls.append((f"{point.axis} {point.x:g}: {name}", lambda graph=graph: graph.infer(inputs)))
    parameters = sum(tensor.numel() for tensor in policy.parameters())
    return Network(point=point, parameters=parameters, cost=graph_cost(onnx.load(plain)), variants=tuple(calls))


def sample_inputs(config: PolicyConfig) -> dict[str, np.ndarray]:
    """Noise for the graph of a network, in its order."""
    rng = np.random.default_rng(0)
    images = {image_input(c.name): rng.integers(0, 256, (1, *c.shape), dtype=np.uint8) for c in config.cameras}
    return {
        **images,
        TEXT_IDS: rng.integers(1, config.first_action_token, (1, config.text_tokens), dtype=np.int64),
        PROPRIO: rng.standard_normal((1, config.proprio_dim)).astype(np.float32),
        PREFIX_TOKENS: np.full((1, config.num_action_tokens), FREE_TOKEN, dtype=np.int64),
    }


def image_points() -> Iterator[Point]:
    """Both cameras' pictures grow; the second keeps half the first one's side."""
    front, wrist = BASE.cameras[:2]
    for side in IMAGE_SIDES:
        half = max(side // 2 // 16 * 16, 16)
        cameras = (replace(front, height=side, width=side), replace(wrist, height=half, width=half))
        yield Point(axis="image side [pixels]", x=side, config=replace(BASE, cameras=cameras))


def camera_points() -> Iterator[Point]:
    """Cameras of the first one's size."""
    first = BASE.cameras[0]
    for count in CAMERA_COUNTS:
        cameras: tuple[CameraSpec, ...] = (first, *(replace(first, name=f"camera_{index}") for index in range(1, count)))
        yield Point(axis="cameras", x=count, config=replace(BASE, cameras=cameras))


def chunk_points() -> Iterator[Point]:
    """Steps of a chunk."""
    for horizon in HORIZONS:
        yield Point(axis="steps of a chunk", x=horizon, config=replace(BASE, action=replace(BASE.action, horizon=horizon)))


def model_points() -> Iterator[Point]:
    """Width and depth; the place on the axis is the number of parameters."""
    for width, depth, heads in NETWORKS:
        config = replace(BASE, width=width, depth=depth, heads=heads, vision_depth=depth // 2)
        parameters = sum(tensor.numel() for tensor in Policy(config).parameters())
        yield Point(axis="parameters [million]", x=round(1e-6 * parameters, 2), config=config)


AXES = {"image": image_points, "cameras": camera_points, "chunk": chunk_points, "model": model_points}
