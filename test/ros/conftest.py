# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the ROS tests: a tiny policy bundle, an own ROS domain for each test, and waiting for a condition instead of sleeping."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from vla_ros.core import tabletop

_FIRST_ACTION_TOKEN = 300
_BINS = 256


def write_tiny_bundle(folder: Path, action_D: tuple[float, ...] = (0.0, 0.0, 0.05, 0.0, 0.0, 0.042), slow_loops: int = 0) -> Path:
    """A bundle whose graph always answers the same action, whatever it sees.

    Args:
        folder: where to write it.
        action_D: terminate, x, y, z, yaw, gripper of the last step; earlier steps are on the way to it.
        slow_loops: matrix products that cost time, to make inference slow.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _write_graph(folder / "policy.onnx", action_D, slow_loops)
    _write_tokenizer(folder / "tokenizer.json")
    spec = tabletop.ACTION_SPEC
    units = {"gripper_joint": "m", "tool_x": "m", "tool_y": "m", "tool_z": "m"}
    manifest = {
        "format_version": 1,
        "name": "tiny",
        "description": "Answers one constant motion; for tests.",
        "robot": tabletop.ROBOT,
        "cameras": [c.to_dict() for c in tabletop.CAMERAS],
        "proprio": [
            {"name": n, "unit": units.get(n, "rad"), "source": "tool" if n.startswith("tool") else "joint"} for n in tabletop.PROPRIO_NAMES
        ],
        "action": spec.to_dict(),
        "vocabulary": {
            "size": _FIRST_ACTION_TOKEN + _BINS,
            "first_action_token": _FIRST_ACTION_TOKEN,
            "num_action_tokens": _BINS,
            "pad_token": 0,
            "tokenizer": "tokenizer.json",
        },
        "plan": {
            "slots": [
                {"name": "phase", "words": ["wait", "move"]},
                {"name": "x", "low": 0.0, "high": 1.0, "unit": "m", "frame": "base_link"},
            ]
        },
        "prompt_template": tabletop.PROMPT_TEMPLATE,
        "decoding": "parallel",
        "context": {
            "length": 64,
            "image_tokens": 2,
            "text_tokens": tabletop.TEXT_TOKENS,
            "state_tokens": 1,
            "action_tokens": spec.num_tokens,
        },
        "files": {"policy": "policy.onnx"},
        "sha256": {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in ("policy.onnx", "tokenizer.json")},
        "opset": 17,
    }
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest, sort_keys=False), encoding="utf-8")
    return folder


def _constant_logits(action_D: tuple[float, ...]) -> np.ndarray:
    spec = tabletop.ACTION_SPEC
    logits = np.full((1, spec.num_tokens, _BINS), -10.0, np.float32)
    for step in range(spec.horizon):
        for d, dim in enumerate(spec.dims):
            value = action_D[d] * ((step + 1) / spec.horizon if dim.relative else 1.0)
            logits[0, step * spec.num_dims + d, min(int((value - dim.low) / dim.bin_width), _BINS - 1)] = 10.0
    return logits


def _write_graph(path: Path, action_D: tuple[float, ...], slow_loops: int) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    spec = tabletop.ACTION_SPEC
    inputs = [helper.make_tensor_value_info(f"image_{c.name}", TensorProto.UINT8, [1, *c.shape]) for c in tabletop.CAMERAS]
    inputs += [
        helper.make_tensor_value_info("text_ids", TensorProto.INT64, [1, tabletop.TEXT_TOKENS]),
        helper.make_tensor_value_info("proprio", TensorProto.FLOAT, [1, len(tabletop.PROPRIO_NAMES)]),
        helper.make_tensor_value_info("prefix_tokens", TensorProto.INT64, [1, spec.num_tokens]),
    ]
    outputs = [
        helper.make_tensor_value_info("action_logits", TensorProto.FLOAT, [1, spec.num_tokens, _BINS]),
        helper.make_tensor_value_info("plan_tokens", TensorProto.INT64, [1, 2]),
    ]
    nodes, sums = [], []
    for graph_input in inputs:  # every input must reach an output, multiplied by zero
        name = graph_input.name
        nodes.append(helper.make_node("Cast", [name], [f"f_{name}"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("ReduceSum", [f"f_{name}"], [f"s_{name}"], keepdims=0))
        sums.append(f"s_{name}")
    nodes.append(helper.make_node("Sum", sums, ["total"]))
    nodes.append(helper.make_node("Mul", ["total", "zero"], ["nothing0"]))
    for i in range(slow_loops):
        nodes += [
            helper.make_node("Add", ["matrix", f"nothing{i}"], [f"m{i}"]),
            helper.make_node("MatMul", [f"m{i}", f"m{i}"], [f"mm{i}"]),
            helper.make_node("ReduceSum", [f"mm{i}"], [f"ms{i}"], keepdims=0),
            helper.make_node("Mul", [f"ms{i}", "zero"], [f"nothing{i + 1}"]),
        ]
    nodes.append(helper.make_node("Add", ["logits", f"nothing{slow_loops}"], ["action_logits"]))
    nodes.append(helper.make_node("Identity", ["plan"], ["plan_tokens"]))
    constants = {
        "zero": np.zeros((), np.float32),
        "logits": _constant_logits(action_D),
        "plan": np.array([[1, 128]], np.int64),
        **({"matrix": np.ones((512, 512), np.float32)} if slow_loops else {}),
    }
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, [numpy_helper.from_array(v, k) for k, v in constants.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def _write_tokenizer(path: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["pad", *alphabet]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="pad"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(path))


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that answers "5 cm to the right (base y), nothing else"."""
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture
def make_bundle() -> Callable[..., Path]:
    """``write_tiny_bundle``."""
    return write_tiny_bundle


_domains = iter(range(os.getpid() % 60 + 1, 10_000))


@pytest.fixture
def domain(monkeypatch: pytest.MonkeyPatch) -> int:
    """A ROS domain of its own for this test; 101 is the largest that is safe beside Linux's ephemeral ports."""
    number = next(_domains) % 100 + 1
    monkeypatch.setenv("ROS_DOMAIN_ID", str(number))
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    return number


@pytest.fixture
def context(domain: int) -> Iterator[Any]:
    """An initialised rclpy in this test's domain."""
    import rclpy

    from vla_ros.ros.transport import use_fastdds_profile

    use_fastdds_profile()
    rclpy.init()
    try:
        yield None
    finally:
        rclpy.try_shutdown()


@pytest.fixture
def wait_until() -> Callable[..., Any]:
    """``wait_until(condition, what, timeout_s, spin)``: polls until ``condition()`` is true and returns its value."""

    def wait(condition: Callable[[], Any], what: str, timeout_s: float = 10.0, spin: Callable[[], None] | None = None) -> Any:
        deadline = time.monotonic() + timeout_s
        while True:
            value = condition()
            if value:
                return value
            if time.monotonic() > deadline:
                pytest.fail(f"not within {timeout_s} s: {what}")
            if spin is None:
                time.sleep(0.005)
            else:
                spin()

    return wait
