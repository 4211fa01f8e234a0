# SPDX-License-Identifier: Apache-2.0
"""What all tests share: rendering without a screen, and a policy bundle that answers without having learned anything."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import settings
import pytest
import yaml

settings.register_profile("untimed", deadline=None)  # a shared machine decides how long an example takes
settings.load_profile("untimed")

os.environ.setdefault("MUJOCO_GL", "egl")  # before anything imports MuJoCo
sys.path.append(str(Path(__file__).parent))  # for guides.py; last, since folders here are called like packages

#: What these tests and their fixtures import when they are collected. A skip in a folder's conftest.py would end the whole collection.
NEEDS = {
    "dataset": ("pyarrow", "av", "mcap_ros2"),
    "importers": ("torch", "onnx", "onnxscript", "safetensors"),
    "model": ("torch",),
    "robot": ("mujoco",),
    "ros/test_flight_recorder.py": ("mcap",),
    "runtime": ("onnx", "onnxruntime"),
    "test_bundle_checkpoint.py": ("torch", "onnx"),
    "test_export.py": ("torch", "onnx", "onnxruntime"),
    "train": ("torch", "onnx"),
}
LEFT_OUT = {part: missing for part, needs in NEEDS.items() if (missing := [name for name in needs if importlib.util.find_spec(name) is None])}
collect_ignore = list(LEFT_OUT)


def pytest_report_header() -> list[str]:
    """Says which tests are left out for want of which packages."""
    return [f"left out: test/{part} (not installed: {', '.join(missing)})" for part, missing in LEFT_OUT.items()]


OPSET = 18
PLAN = {
    "slots": [
        {"name": "phase", "words": ["reach", "grasp", "lift", "move", "release", "push", "done"]},
        {"name": "x", "low": 0.1, "high": 0.7, "unit": "m", "frame": "base_link"},
        {"name": "y", "low": -0.4, "high": 0.4, "unit": "m", "frame": "base_link"},
    ]
}


@pytest.fixture(scope="session")
def still_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the tabletop robot whose graph always answers: stay where you are, gripper open, not done."""
    return make_constant_bundle(tmp_path_factory.mktemp("bundles") / "still", [0.0, 0.0, 0.0, 0.0, 0.0, 0.042])


def make_constant_bundle(folder: Path, action_D: list[float]) -> Path:
    """Writes a bundle whose graph gives ``action_D`` at every step, whatever it sees.

    Args:
        folder: made if absent.
        action_D: terminate, x, y, z, yaw, gripper in their units.
    """
    onnx = pytest.importorskip("onnx")
    from vla_ros.core.manifest import Manifest
    from vla_ros.runtime.bundle import file_sha256
    from vla_ros.runtime.contract import expected_inputs, expected_outputs

    folder.mkdir(parents=True, exist_ok=True)
    _write_tokenizer(folder / "tokenizer.json")
    manifest = Manifest.from_dict(_manifest({"policy.onnx": "0" * 64, "tokenizer.json": file_sha256(folder / "tokenizer.json")}))
    answers = {"action_logits": _logits(manifest, action_D), "plan_tokens": np.array([[0, 128, 128]], dtype=np.int64)}
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    types = {np.uint8: onnx.TensorProto.UINT8, np.int64: onnx.TensorProto.INT64, np.float32: onnx.TensorProto.FLOAT}
    graph = helper.make_graph(
        [helper.make_node("Identity", [f"{name}_constant"], [name]) for name in answers],
        "constant_policy",
        [helper.make_tensor_value_info(n, types[s.dtype], s.shape) for n, s in expected_inputs(manifest).items()],
        [helper.make_tensor_value_info(n, types[s.dtype], s.shape) for n, s in expected_outputs(manifest).items()],
        [numpy_helper.from_array(value, f"{name}_constant") for name, value in answers.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    onnx.save(model, folder / "policy.onnx")
    manifest.sha256["policy.onnx"] = file_sha256(folder / "policy.onnx")
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest.to_dict(), sort_keys=False), encoding="utf-8")
    return folder


def _logits(manifest: Any, action_D: list[float]) -> np.ndarray:
    from vla_ros.core.action_tokens import ActionTokenizer

    spec = manifest.action
    tokenizer = ActionTokenizer(spec, first_token_id=0)
    tokens_HD = tokenizer.encode(np.tile(np.asarray(action_D, dtype=np.float64), (spec.horizon, 1)))
    logits = np.full((1, spec.num_tokens, spec.num_bins), -10.0, dtype=np.float32)
    logits[0, np.arange(spec.num_tokens), tokens_HD.reshape(-1)] = 10.0
    return logits


def _write_tokenizer(path: Path) -> None:
    """One token a byte: ids 0 to 255 in the order of the byte-level alphabet."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.save(str(path))


def _unit(name: str) -> str:
    return "m" if name in ("gripper_joint", "tool_x", "tool_y", "tool_z") else "rad"


def _manifest(sha256: dict[str, str]) -> dict[str, Any]:
    from vla_ros.core import tabletop

    spec = tabletop.ACTION_SPEC
    text_tokens = 96  # a token a byte needs more of them than the real bundle has
    return {
        "format_version": 1,
        "name": "constant",
        "description": "Answers every observation with the same action. For tests.",
        "robot": tabletop.ROBOT,
        "cameras": [camera.to_dict() for camera in tabletop.CAMERAS],
        "proprio": [{"name": n, "unit": _unit(n), "source": "tool" if n.startswith("tool") else "joint"} for n in tabletop.PROPRIO_NAMES],
        "action": spec.to_dict(),
        "vocabulary": {"size": 513, "first_action_token": 256, "num_action_tokens": 256, "pad_token": 512, "tokenizer": "tokenizer.json"},
        "plan": PLAN,
        "prompt_template": tabletop.PROMPT_TEMPLATE,
        "decoding": "parallel",
        "context": {"length": 200, "image_tokens": 20, "text_tokens": text_tokens, "state_tokens": 11, "action_tokens": spec.num_tokens},
        "norm_stats": {},
        "files": {"policy": "policy.onnx"},
        "sha256": sha256,
        "opset": OPSET,
        "provenance": {"made_by": "test/conftest.py"},
    }
