# SPDX-License-Identifier: Apache-2.0
"""Bad messages by the thousand, bad bundles by the hundred. The long run: ``python -m vla_ros.ros.fuzzing --messages 100000``."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import zlib

import hypothesis.strategies as st
import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings

from vla_ros.core import tabletop
from vla_ros.core.errors import VlaError
from vla_ros.core.paths import robot_config_path
from vla_ros.robot import RobotDescription
from vla_ros.runtime.bundle import file_sha256, load_bundle

_ROBOT = RobotDescription.load(robot_config_path("tabletop_arm"))
_MESSAGES = int(os.environ.get("VLA_FUZZ_MESSAGES", "5000"))


@pytest.mark.ros
@pytest.mark.slow
def test_thousands_of_bad_messages_neither_break_the_node_nor_let_a_bad_command_out(context, tiny_bundle):
    from vla_ros.ros.fuzzing import Fuzz, failures

    with contextlib.closing(Fuzz(tiny_bundle, _ROBOT, tabletop.CAMERAS, seed=1)) as fuzz:
        report = fuzz.run(_MESSAGES, rate_hz=400.0, timeout_s=60.0)
    assert not failures(report), json.dumps({"failures": failures(report), **report}, indent=1)
    assert sum(report["sent"].values()) == _MESSAGES and len(report["sent"]) == 10  # five topics, whole and damaged


@pytest.mark.ros
def test_the_same_seed_makes_the_same_messages():
    from sensor_msgs.msg import Image

    from vla_ros.ros.fuzzing import MessageFuzzer

    def content(message):
        if isinstance(message, bytes):
            return len(message)  # serialized messages have padding that nobody sets: the rest follows from the seed as their length does
        if isinstance(message, Image):
            return message.encoding, message.height, message.width, message.step, message.header.stamp.sec, zlib.crc32(message.data)
        return repr(message)

    def some(seed):  # a storm, a calm, and the beginning of the next storm
        fuzzer = MessageFuzzer(seed, _ROBOT, tabletop.CAMERAS, lambda: 10**18)
        return [(topic, content(message)) for (topic, _, message), _ in zip(fuzzer, range(1000))]

    assert some(4) == some(4) != some(5)


# ---- bundles ----


@pytest.fixture(scope="module")
def whole_bundle(tiny_bundle, tmp_path_factory):
    """A copy that tests damage and mend again."""
    return shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("fuzz") / "bundle")


def refuses_or_loads(folder):
    """Loads as configuring does, parity with the graph included. Anything but a bundle or a reason is a fault."""
    from vla_ros.runtime.policy import Policy

    try:
        Policy(load_bundle(folder), _ROBOT, threads=1).warm_up()
    except VlaError as error:
        assert str(error)
        return False
    return True


def places(value, path=()):
    """Every place in nested mappings and lists."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63),
    st.floats(allow_nan=True),
    st.text(max_size=20),
    st.sampled_from(["../../etc/passwd", "/dev/zero", "policy.onnx", [], {}, [[]], {"a": 1}, -1, 0, 1e308]),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_changed_manifest_is_refused_with_a_reason_or_loads(whole_bundle, data):
    path = whole_bundle / "manifest.yaml"
    text = path.read_text(encoding="utf-8")
    manifest = yaml.safe_load(text)
    for _ in range(data.draw(st.integers(1, 3))):
        *way, last = data.draw(st.sampled_from([p for p in places(manifest) if p]))
        inner = manifest
        for key in way:
            inner = inner[key]
        if data.draw(st.booleans()):
            inner[last] = data.draw(_SCALARS)
        else:
            del inner[last]
    try:
        path.write_text(yaml.safe_dump(manifest, sort_keys=False), encoding="utf-8")
        refuses_or_loads(whole_bundle)
    finally:
        path.write_text(text, encoding="utf-8")


@settings(max_examples=100, deadline=None)
@given(text=st.one_of(st.text(max_size=200), st.binary(max_size=200)))
def test_any_text_for_a_manifest_is_refused_with_a_reason(whole_bundle, text):
    path = whole_bundle / "manifest.yaml"
    whole = path.read_bytes()
    try:
        path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
        assert not refuses_or_loads(whole_bundle)
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("name", ["policy.onnx", "tokenizer.json"])
@pytest.mark.parametrize("seed", range(4))
def test_altered_files_with_fitting_hashes_are_refused_with_a_reason_or_load(whole_bundle, name, seed):
    """The hash is right, so that the bytes get as far as they can: to ONNX Runtime and to the tokenizer."""
    rng, path, manifest = np.random.default_rng(seed), whole_bundle / name, whole_bundle / "manifest.yaml"
    data, text = path.read_bytes(), manifest.read_text(encoding="utf-8")
    outcomes = set()
    try:
        for _ in range(15):
            changed = bytearray(data)
            for _ in range(rng.integers(1, 6)):
                changed[rng.integers(len(changed))] = rng.integers(256)
            if rng.random() < 0.4:
                del changed[rng.integers(len(changed)) :]
            path.write_bytes(changed)
            facts = yaml.safe_load(text)
            facts["sha256"][name] = file_sha256(path)
            manifest.write_text(yaml.safe_dump(facts, sort_keys=False), encoding="utf-8")
            outcomes.add(refuses_or_loads(whole_bundle))
    finally:
        path.write_bytes(data)
        manifest.write_text(text, encoding="utf-8")
    assert False in outcomes
