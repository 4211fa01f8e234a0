# SPDX-License-Identifier: Apache-2.0
"""A small bundle that keeps the whole contract: constant logits, of which a bright front picture raises one bin."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers

from vla_ros.core import tabletop
from vla_ros.core.paths import robot_config_path
from vla_ros.robot import RobotDescription
from vla_ros.runtime.bundle import file_sha256

OPSET = 17
FIRST = 300  # action tokens follow the text's 257 ids, with a gap
BRIGHT_BIN = 200


def make_graph(logits_NB: np.ndarray, *, extra_input: bool = False) -> onnx.ModelProto:
    """logits + mean(front picture) / 255 * 100 at BRIGHT_BIN; plan token k = text id k modulo 4."""
    count = tabletop.ACTION_SPEC.num_tokens
    ramp = np.zeros((1, 1, 256), np.float32)
    ramp[0, 0, BRIGHT_BIN] = 100.0 / 255.0
    initializers = {
        "table": logits_NB[None].astype(np.float32),
        "ramp": ramp,
        "four": np.array([4], np.int64),
        "zero": np.array([0], np.int64),
        "three": np.array([3], np.int64),
        "one": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["image_front"], ["front"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["front"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["ramp", "mean"], ["raised"]),
        helper.make_node("Add", ["table", "raised"], ["action_logits"]),
        helper.make_node("Slice", ["text_ids", "zero", "three", "one"], ["head"]),
        helper.make_node("Mod", ["head", "four"], ["plan_tokens"]),
    ]
    inputs = [
        helper.make_tensor_value_info("image_front", TensorProto.UINT8, [1, 128, 128, 3]),
        helper.make_tensor_value_info("image_wrist", TensorProto.UINT8, [1, 64, 64, 3]),
        helper.make_tensor_value_info("text_ids", TensorProto.INT64, [1, tabletop.TEXT_TOKENS]),
        helper.make_tensor_value_info("proprio", TensorProto.FLOAT, [1, 11]),
        helper.make_tensor_value_info("prefix_tokens", TensorProto.INT64, [1, count]),
    ]
    if extra_input:
        inputs.append(helper.make_tensor_value_info("depth", TensorProto.FLOAT, [1, 4]))
    outputs = [
        helper.make_tensor_value_info("action_logits", TensorProto.FLOAT, [1, count, 256]),
        helper.make_tensor_value_info("plan_tokens", TensorProto.INT64, [1, 3]),
    ]
    graph = helper.make_graph(nodes, "policy", inputs, outputs, [numpy_helper.from_array(v, k) for k, v in initializers.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = 9
    return model


def make_tokenizer() -> Tokenizer:
    """Bytes only: id 0 pads, ids 1..256 are bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={"<pad>": 0, **{c: i + 1 for i, c in enumerate(alphabet)}}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return tokenizer


def make_manifest(directory: Path) -> dict:
    joint = [{"name": n, "unit": "m" if n == "gripper_joint" else "rad", "source": "joint"} for n in tabletop.JOINT_NAMES]
    tool = [{"name": n, "unit": "rad" if n == "tool_yaw" else "m", "source": "tool"} for n in tabletop.PROPRIO_NAMES[7:]]
    place = {"unit": "m", "frame": "base_link", "low": -0.5, "high": 0.5}
    return {
        "format_version": 1,
        "name": "tiny",
        "description": "A constant policy for tests.",
        "robot": "tabletop_arm",
        "cameras": [c.to_dict() for c in tabletop.CAMERAS],
        "proprio": joint + tool,
        "action": tabletop.ACTION_SPEC.to_dict(),
        "vocabulary": {"size": 600, "first_action_token": FIRST, "num_action_tokens": 256, "pad_token": 0, "tokenizer": "tokenizer.json"},
        "plan": {"slots": [{"name": "phase", "words": ["a", "b", "c", "d"]}, {"name": "x", **place}, {"name": "y", **place}]},
        "prompt_template": "{instruction}>",
        "decoding": "parallel",
        "context": {"length": 200, "image_tokens": 80, "text_tokens": tabletop.TEXT_TOKENS, "state_tokens": 1, "action_tokens": 30},
        "files": {"policy": "policy.onnx"},
        "sha256": {name: file_sha256(directory / name) for name in ("policy.onnx", "tokenizer.json")},
        "opset": OPSET,
        "provenance": {"seed": 0},
    }


def write_bundle(directory: Path, model: onnx.ModelProto, change=None) -> Path:
    """Writes the bundle; ``change`` edits the manifest's dictionary before it is written."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "policy.onnx").write_bytes(model.SerializeToString())
    make_tokenizer().save(str(directory / "tokenizer.json"))
    manifest = make_manifest(directory)
    if change is not None:
        change(manifest)
    (directory / "manifest.yaml").write_text(yaml.safe_dump(manifest, sort_keys=False), encoding="utf-8")
    return directory


def logits_for(bins_HD: np.ndarray) -> np.ndarray:
    """Logits whose most probable bins are these: 10 at the bin, 5 at its neighbours."""
    bins_N = np.asarray(bins_HD).reshape(-1)
    logits_NB = np.zeros((len(bins_N), 256), np.float32)
    for row, bin_index in enumerate(bins_N):
        logits_NB[row, max(bin_index - 1, 0) : bin_index + 2] = 5.0
        logits_NB[row, bin_index] = 10.0
    return logits_NB


def still_bins() -> np.ndarray:
    """A chunk that stands still: done 0, relative motions 128 (half a bin above zero), gripper open."""
    return np.tile(np.array([0, 128, 128, 128, 128, 255]), (5, 1))


@pytest.fixture(scope="session")
def robot() -> RobotDescription:
    return RobotDescription.load(robot_config_path("tabletop_arm"))


@pytest.fixture
def bundle_writer(tmp_path):
    """Writes a bundle for bins [H, D] (or logits [N, B]) and returns its folder."""

    def write(bins_HD=None, *, logits_NB=None, change=None, extra_input=False, name="tiny") -> Path:
        logits_NB = logits_for(still_bins() if bins_HD is None else bins_HD) if logits_NB is None else logits_NB
        return write_bundle(tmp_path / name, make_graph(logits_NB, extra_input=extra_input), change)

    return write
