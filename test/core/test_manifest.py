# SPDX-License-Identifier: Apache-2.0
"""The contract is checked completely, and every refusal says where and why."""

from __future__ import annotations

import copy

import pytest

from vla_ros.core import tabletop
from vla_ros.core.errors import BundleError, DecodeError
from vla_ros.core.manifest import Manifest

HASH = "0123456789abcdef" * 4


def make() -> dict:
    joint = [{"name": n, "unit": "m" if "gripper" in n else "rad", "source": "joint"} for n in tabletop.JOINT_NAMES]
    tool = [{"name": n, "unit": "rad" if n == "tool_yaw" else "m", "source": "tool"} for n in tabletop.PROPRIO_NAMES[7:]]
    return {
        "format_version": 1,
        "name": "tabletop",
        "description": "A policy.",
        "robot": "tabletop_arm",
        "cameras": [c.to_dict() for c in tabletop.CAMERAS],
        "proprio": joint + tool,
        "action": tabletop.ACTION_SPEC.to_dict(),
        "vocabulary": {"size": 768, "first_action_token": 512, "num_action_tokens": 256, "pad_token": 0, "tokenizer": "tokenizer.json"},
        "plan": {
            "slots": [
                {"name": "phase", "words": ["reach", "grasp"]},
                {"name": "x", "low": 0.0, "high": 0.512, "unit": "m", "frame": "base_link"},
            ]
        },
        "prompt_template": tabletop.PROMPT_TEMPLATE,
        "decoding": "parallel",
        "context": {"length": 160, "image_tokens": 80, "text_tokens": 24, "state_tokens": 1, "action_tokens": 33},
        "norm_stats": {"proprio": {"mean": [0.0], "std": [1.0]}},
        "files": {"policy": "policy.onnx"},
        "sha256": {"policy.onnx": HASH, "tokenizer.json": HASH},
        "opset": 17,
        "provenance": {"seed": 1},
    }


def test_it_survives_a_dictionary():
    manifest = Manifest.from_dict(make())
    assert Manifest.from_dict(manifest.to_dict()) == manifest
    assert manifest.action == tabletop.ACTION_SPEC and manifest.cameras == tabletop.CAMERAS
    assert manifest.file_names == ("policy.onnx", "tokenizer.json")


def test_a_plan_is_optional_and_tells_words_and_numbers():
    plan = Manifest.from_dict(make()).plan
    assert plan.describe([1, 128]) == "grasp x=0.257 m"
    assert plan.slots[1].encode(0.257) == 128 and plan.slots[0].encode("grasp") == 1
    for tokens in ([2, 0], [0, 256], [0], [-1, 0]):
        with pytest.raises(DecodeError):
            plan.describe(tokens)
    data = make()
    del data["plan"]
    manifest = Manifest.from_dict(data)
    assert manifest.plan is None and "plan" not in manifest.to_dict()


@pytest.mark.parametrize("key", [k for k in make() if k not in ("plan", "norm_stats", "provenance")])
def test_every_key_is_required(key):
    data = make()
    del data[key]
    with pytest.raises(BundleError, match=key):
        Manifest.from_dict(data)


@pytest.mark.parametrize(
    "path, value, words",
    [
        (("format_version",), 3, "this release reads 1 and 2"),
        (("extra",), 1, "unknown keys.*extra"),
        (("name",), 3, "'name' must be a string"),
        (("decoding",), "beam", "parallel"),
        (("files", "policy"), None, "must be the name of a file, got None"),
        (("files", "policy"), ["policy.onnx"], "must be the name of a file"),
        (("cameras",), [], "must not be empty"),
        (("cameras", 0, "height"), 0, "height"),
        (("cameras", 0, "name"), "front/raw", "identifier"),
        (("cameras", 1, "name"), "front", "different names"),
        (("proprio", 0, "unit"), "deg", "unit"),
        (("proprio", 7, "name"), "tool_roll", "tool_yaw"),
        (("proprio", 1, "name"), "shoulder_pan_joint", "different names"),
        (("action", "horizon"), 0, "horizon"),
        (("action", "dims", 1, "low"), float("nan"), "finite"),
        (("action", "dims", 1, "unknown"), 1, "unknown keys"),
        (("vocabulary", "num_action_tokens"), 128, "256 bins"),
        (("vocabulary", "size"), 700, "vocabulary has 700"),
        (("vocabulary", "pad_token"), 600, "pad_token"),
        (("prompt_template",), "Robot:", "exactly once"),
        (("context", "length"), 10, "parts need"),
        (("context", "action_tokens"), 29, "needs 30"),
        (("files",), {"model": "policy.onnx"}, "role 'policy'"),
        (("files", "policy"), "../policy.onnx", "plain name"),
        (("files", "policy"), "/etc/passwd", "plain name"),
        (("files", "policy"), ".hidden", "plain name"),
        (("sha256", "policy.onnx"), "abc", "64 lower-case hex"),
        (("sha256", "other.onnx"), HASH, "other.onnx"),
        (("opset",), "17", "integer"),
        (("opset",), True, "integer"),
        (("plan", "slots"), [], "must not be empty"),
        (("plan", "slots", 1, "high"), -1.0, "low < high"),
    ],
)
def test_what_breaks_the_contract_is_refused(path, value, words):
    data = copy.deepcopy(make())
    at = data
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    with pytest.raises(BundleError, match=words):
        Manifest.from_dict(data)


@pytest.mark.parametrize("data", [None, [], "text", 3])
def test_what_is_no_mapping_is_refused(data):
    with pytest.raises(BundleError, match="mapping"):
        Manifest.from_dict(data)
