# SPDX-License-Identifier: Apache-2.0
"""Messages survive the shared memory bit for bit."""

from __future__ import annotations

from dataclasses import replace
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_ros.core.chunk import ActionChunk, Reference
from vla_ros.core.errors import InputError
from vla_ros.core.safety import StatusCode
from vla_ros.runtime.messages import MAX_HISTORY, MAX_INSTRUCTION_BYTES, Exchange, Snapshot, WorkerReport

SIZES = {"horizon": 5, "num_dims": 6, "num_joints": 7}


@pytest.fixture
def ends():
    name = f"vla_test_{os.getpid()}"
    with Exchange(name, **SIZES, create=True) as control, Exchange(name, **SIZES, create=False) as worker:
        yield control, worker


def snapshot(text="push the red cube", stamp_ns=10**18, joints=None) -> Snapshot:
    joints = np.arange(7.0) if joints is None else joints
    facts = {"generation": 3, "wants_inference": True, "now_ns": 10**18 + 1}
    return Snapshot(instruction=text, joint_positions=joints, joint_stamp_ns=stamp_ns, **facts)


def test_snapshot(ends):
    control, worker = ends
    assert worker.read_snapshot() is None
    control.write_snapshot(snapshot("größer 赤い"))
    got = worker.read_snapshot()
    assert (got.generation, got.wants_inference, got.instruction, got.joint_stamp_ns) == (3, True, "größer 赤い", 10**18)
    np.testing.assert_array_equal(got.joint_positions, np.arange(7.0))
    assert worker.read_snapshot() is None


@pytest.mark.parametrize("knots", [0, 1, 6])
def test_the_motion_that_goes_on(ends, knots):
    control, worker = ends
    motion = np.random.default_rng(0).random((2, knots, 7))
    control.write_snapshot(replace(snapshot(), reference=Reference(knots_ns=tuple(range(6)), positions_KJ=np.ones((6, 7)), velocities_KJ=np.ones((6, 7)))))
    reference = Reference(knots_ns=tuple(range(10**18, 10**18 + knots)), positions_KJ=motion[0], velocities_KJ=motion[1]) if knots else None
    control.write_snapshot(replace(snapshot(), reference=reference))
    got = worker.read_snapshot().reference
    if reference is None:
        assert got is None
        return
    assert got.knots_ns == reference.knots_ns
    np.testing.assert_array_equal(got.positions_KJ, reference.positions_KJ)
    np.testing.assert_array_equal(got.velocities_KJ, reference.velocities_KJ)


def test_a_shorter_text_leaves_nothing_of_a_longer_one(ends):
    control, worker = ends
    for text in ("a long instruction", "short", ""):
        control.write_snapshot(snapshot(text))
        assert worker.read_snapshot().instruction == text


def test_an_instruction_without_room_is_refused_and_never_cut(ends):
    with pytest.raises(InputError) as error:
        ends[0].write_snapshot(snapshot("ä" * MAX_INSTRUCTION_BYTES))
    assert error.value.code == "instruction_too_long"


PERIOD = 20_000_000


def test_joints_are_given_for_the_time_of_the_picture(ends):
    control, worker = ends
    for k in range(MAX_HISTORY + 10):
        control.write_snapshot(snapshot(stamp_ns=PERIOD * k, joints=np.full(7, 0.1 * k)))
    got = worker.read_snapshot()
    newest = MAX_HISTORY + 9
    assert len(got.history_stamps_N) == MAX_HISTORY
    stamp_ns, joints = got.joints_at(PERIOD * (newest - 3) + PERIOD // 2)
    assert stamp_ns == PERIOD * (newest - 3) + PERIOD // 2
    np.testing.assert_allclose(joints, 0.1 * (newest - 2.5))
    np.testing.assert_allclose(got.joints_at(PERIOD * newest)[1], 0.1 * newest)
    np.testing.assert_allclose(got.joints_at(10**12)[1], 0.1 * newest)
    assert got.joints_at(0)[0] == PERIOD * 10


def test_a_fast_control_loop_does_not_shorten_the_history(ends):
    control, worker = ends
    for k in range(1000):
        control.write_snapshot(snapshot(stamp_ns=2_000_000 * k, joints=np.full(7, 0.1 * k)))
    got = worker.read_snapshot()
    assert got.history_stamps_N[-1] - got.history_stamps_N[0] >= 500_000_000
    np.testing.assert_allclose(got.joints_at(2_000_000 * 850)[1], 85.0)
    np.testing.assert_allclose(got.joints_at(2_000_000 * 999)[1], 99.9)


def test_a_clock_that_goes_back_begins_a_new_history(ends):
    control, worker = ends
    control.write_snapshot(snapshot(stamp_ns=5000))
    control.write_snapshot(snapshot(stamp_ns=100, joints=np.ones(7)))
    got = worker.read_snapshot()
    assert got.history_stamps_N.tolist() == [100] and got.joints_at(5000)[1].tolist() == [1.0] * 7


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), plan=st.text(max_size=60), stamp=st.integers(0, 2**62))
def test_chunk(seed, plan, stamp):
    rng = np.random.default_rng(seed)
    chunk = ActionChunk(
        obs_stamp_ns=stamp,
        generation=seed,
        dt_ns=200_000_000,
        actions_HD=rng.normal(size=(5, 6)),
        tokens_HD=rng.integers(0, 600, (5, 6), dtype=np.int32),
        confidence_HD=rng.random((5, 6), dtype=np.float32),
        joint_positions_HJ=rng.normal(size=(5, 7)),
        terminate_H=rng.random(5) < 0.5,
        plan=plan.encode("utf-8", "replace").decode(),
        inference_ns=17,
    )
    name = f"vla_test_chunk_{os.getpid()}"
    with Exchange(name, **SIZES, create=True) as control, Exchange(name, **SIZES, create=False) as worker:
        worker.write_chunk(chunk)
        got = control.read_chunk()
    for field in ("obs_stamp_ns", "generation", "dt_ns", "inference_ns", "plan"):
        assert getattr(got, field) == getattr(chunk, field)
    for field in ("actions_HD", "tokens_HD", "confidence_HD", "joint_positions_HJ", "terminate_H"):
        np.testing.assert_array_equal(getattr(got, field), getattr(chunk, field))
        assert getattr(got, field).dtype == getattr(chunk, field).dtype
    got.validate(7)


def test_report(ends):
    control, worker = ends
    counts = {"inferences": 3, "rejected": 1, "rejected_generation": 2}
    report = WorkerReport(heartbeat_ns=5, generation=2, code=StatusCode.IMAGE_LOST, detail="x" * 9999, is_ready=True, **counts)
    worker.write_report(report)
    got = control.read_report()
    assert got.code is StatusCode.IMAGE_LOST and got.detail == "x" * 512 and got.is_ready
    assert (got.heartbeat_ns, got.generation, got.inferences, got.rejected, got.rejected_generation) == (5, 2, 3, 1, 2)
