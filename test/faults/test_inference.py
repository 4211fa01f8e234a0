# SPDX-License-Identifier: Apache-2.0
"""Rows 32, 47, 48 and 49: what the policy is asked, and answers that are late, missing or slow. A node of its own for each."""

from __future__ import annotations

import hashlib
import os
import signal
import time

import numpy as np
import pytest
import yaml

pytestmark = pytest.mark.ros


def test_row_32_pictures_and_joints_too_far_apart_are_not_used_together(make_rig):
    """The joints of the last half second are remembered, so that a late picture finds its own: only an older one has none."""
    rig = make_rig(max_image_age_s=3.0, max_skew_s=0.1)
    assert rig.configure() == "inactive" and rig.activate() == "active"

    def age(_, message):
        message.header.stamp.sec -= 2

    rig.robot.alter_image = age
    time.sleep(0.5)  # pictures that were on their way are gone
    rig.robot.instruct("go")
    rig.until_code("WAITING")
    time.sleep(0.5)
    assert rig.robot.code == "WAITING" and not rig.robot.tokens and rig.robot.speed() < 1e-6
    rig.robot.alter_image = lambda _, __: None
    rig.until_code("ACTING")


def test_row_47_a_chunk_that_is_used_up_ends_at_rest(make_rig):
    rig = make_rig(inference__timeout_s=30.0)
    robot = rig.start()
    pid = rig.node.session.worker.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        rig.until_code("CHUNK_USED_UP")
        rig.until_at_rest()
        count = len(robot.commands)
        rig.until(lambda: len(robot.commands) > count + 10, "the robot is held")
        assert all(np.abs(c.velocity_J).max() < 1e-6 for c in robot.commands[count:]), "no velocity is repeated"
    finally:
        os.kill(pid, signal.SIGCONT)
    rig.until_code("ACTING")


def test_row_48_a_chunk_whose_steps_have_all_elapsed_never_acts(make_rig, make_bundle, tmp_path):
    rig = make_rig(make_bundle(tmp_path / "slow", slow_loops=60), inference__timeout_s=30.0)
    rig.start()
    pid, counts = rig.node.session.worker.pid, lambda: rig.node.session.runner.counts["chunk_too_late"]

    def delay():
        """Stops the worker for longer than a chunk's horizon; most of its time it is in the middle of an inference."""
        os.kill(pid, signal.SIGSTOP)
        time.sleep(1.3)
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.5)
        return counts() > 0

    rig.until(delay, "an answer came too late and was dropped", 60.0)
    rig.until_code("ACTING")


def test_row_49_the_first_inference_happens_while_configuring(make_rig, make_bundle, tmp_path, capfd):
    """A graph that loads but cannot run: it is refused before anybody asks it anything."""
    rig = make_rig(failing_bundle(make_bundle(tmp_path / "failing")))
    assert rig.configure() == "unconfigured"
    assert "cannot configure" in capfd.readouterr().err and rig.node.session is None


def failing_bundle(folder):
    """Lets the graph look up a row that is not there; where, depends on an input, so that nobody can know before."""
    import onnx
    from onnx import helper, numpy_helper

    path = folder / "policy.onnx"
    model = onnx.load(path)
    graph = model.graph
    last = next(node for node in graph.node if "action_logits" in node.output)
    last.output[0] = "whole"
    graph.initializer.append(numpy_helper.from_array(np.array(9999, np.int64), "beyond"))
    graph.node.extend(
        [
            helper.make_node("Cast", ["total"], ["total_i"], to=onnx.TensorProto.INT64),
            helper.make_node("Abs", ["total_i"], ["total_a"]),
            helper.make_node("Max", ["total_a", "beyond"], ["row"]),
            helper.make_node("Gather", ["whole", "row"], ["picked"], axis=1),
            helper.make_node("Mul", ["picked", "zero"], ["nothing_picked"]),
            helper.make_node("ReduceSum", ["nothing_picked"], ["one_picked"], keepdims=0),
            helper.make_node("Add", ["whole", "one_picked"], ["action_logits"]),
        ]
    )
    path.write_bytes(model.SerializeToString())
    manifest = yaml.safe_load((folder / "manifest.yaml").read_text())
    manifest["sha256"]["policy.onnx"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest, sort_keys=False))
    return folder
