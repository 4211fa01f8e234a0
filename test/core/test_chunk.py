# SPDX-License-Identifier: Apache-2.0
"""The buffer's reference: continuous at takeover, through the waypoints, never past them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_ros.core.chunk import ChunkBuffer, PutResult, Reference
from vla_ros.core.errors import DecodeError
from vla_ros.core.testing import DT_NS, J, make_chunk

ZERO = np.zeros(J)
MS = 1_000_000


def buffer_with(chunk, now_ns, position=ZERO, velocity=ZERO):
    buffer = ChunkBuffer()
    assert buffer.put(chunk, now_ns, position, velocity) is PutResult.TAKEN
    return buffer


@pytest.mark.parametrize("left_ms", [200, 150, 100, 60, 20])
def test_the_reference_meets_every_waypoint_at_its_time_but_the_one_that_is_a_step_away_or_less(left_ms):
    """However much of the step is left when the chunk arrives: 100 ms once made another motion than 80."""
    chunk = make_chunk(0, 0)
    buffer = buffer_with(chunk, chunk.due_ns(0) - left_ms * MS)
    assert len(buffer.reference.knots_ns) == 5
    for step in range(1, 5):
        position, _ = buffer.sample(chunk.due_ns(step))
        np.testing.assert_allclose(position, chunk.joint_positions_HJ[step], atol=1e-12)


def test_it_starts_at_the_commanded_state_and_ends_at_rest():
    position, velocity = np.full(J, 0.3), np.full(J, -0.2)
    chunk = make_chunk(0, 0)
    buffer = buffer_with(chunk, 90 * MS, position, velocity)
    np.testing.assert_allclose(buffer.sample(90 * MS), [position, velocity])
    np.testing.assert_allclose(buffer.sample(chunk.due_ns(4))[1], 0.0, atol=1e-12)
    assert buffer.sample(chunk.due_ns(4) + 1) is None


def test_the_reference_outlasts_its_knots_at_rest():
    chunk = make_chunk(0, 0)
    reference = buffer_with(chunk, 0).reference
    for time_ns in (chunk.due_ns(4), chunk.due_ns(4) + 10**9):
        np.testing.assert_array_equal(reference.sample(time_ns), [chunk.joint_positions_HJ[4], ZERO])
    np.testing.assert_array_equal(reference.sample(-(10**9))[0], ZERO)
    still = Reference.at_rest(0, np.full(J, 0.2))
    for time_ns in (-5, 0, 10**9):
        np.testing.assert_array_equal(still.sample(time_ns), [np.full(J, 0.2), ZERO])


def test_the_next_free_step_is_neither_over_nor_committed():
    chunk = replace(make_chunk(0, 0), committed=2)
    assert [chunk.next_free_step(now_ns) for now_ns in (0, 2 * DT_NS, 3 * DT_NS, 9 * DT_NS)] == [2, 2, 3, 4]


def test_committed_steps_keep_the_motion_itself_however_they_were_rounded():
    """A hundred takeovers whose committed steps are half a bin off: no drift."""
    goal = np.full((5, J), 0.1)
    buffer = buffer_with(make_chunk(0, 0, goal), 0)
    for now_ns in range(20 * MS, 2000 * MS, 20 * MS):
        position, velocity = buffer.sample(now_ns)
        ahead = [buffer.reference.sample(now_ns + step * DT_NS)[0] for step in (1, 2)]
        rounded = np.vstack([np.array(ahead) + 0.002, goal[2:]])
        assert buffer.put(replace(make_chunk(now_ns, 0, rounded), committed=2), now_ns, position, velocity) is PutResult.TAKEN
        np.testing.assert_allclose(buffer.reference.sample(now_ns + 2 * DT_NS)[0], ahead[1], atol=1e-9)
    np.testing.assert_allclose(buffer.sample(2000 * MS)[0], 0.1, atol=1e-3)


def test_elapsed_steps_are_dropped():
    chunk = make_chunk(0, 0)
    buffer = buffer_with(chunk, 3 * DT_NS, np.full(J, 9.0))
    np.testing.assert_allclose(buffer.sample(chunk.due_ns(4))[0], chunk.joint_positions_HJ[4])
    assert buffer.step_index(3 * DT_NS) == 3
    assert ChunkBuffer().put(chunk, 5 * DT_NS, ZERO, ZERO) is PutResult.TOO_LATE


def test_a_waypoint_almost_due_is_passed_over():
    buffer = buffer_with(make_chunk(0, 0), DT_NS - 10 * MS)
    speeds = [np.abs(buffer.sample(DT_NS + t * MS)[1]).max() for t in range(-10, 200)]
    assert max(speeds) < 1.0  # aiming at it would take 0.05 rad in 10 ms


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), start_ms=st.integers(0, 600))
def test_velocity_is_the_derivative_and_inner_segments_never_overshoot(seed, start_ms):
    waypoints = np.random.default_rng(seed).uniform(-1, 1, (5, J))
    chunk = make_chunk(0, 0, waypoints)
    buffer = buffer_with(chunk, start_ms * MS)
    end = chunk.due_ns(4)
    times = np.linspace(start_ms * MS, end, 200).astype(int)
    for t in times[1:-1]:
        before, after = buffer.sample(int(t) - 1000)[0], buffer.sample(int(t) + 1000)[0]
        np.testing.assert_allclose((after - before) / 2e-6, buffer.sample(int(t))[1], atol=5e-3)
    knots = np.vstack([ZERO, waypoints])
    positions = np.array([buffer.sample(int(t))[0] for t in times])
    assert (positions <= knots.max(axis=0) + 1e-9).all() and (positions >= knots.min(axis=0) - 1e-9).all()


def test_only_newer_chunks_of_this_generation_are_taken():
    buffer = buffer_with(make_chunk(1000, 0), 1000)
    assert buffer.put(make_chunk(1000, 0), 2000, ZERO, ZERO) is PutResult.NOT_NEWER
    assert buffer.put(make_chunk(5000, 1), 6000, ZERO, ZERO) is PutResult.OLD_GENERATION
    buffer.flush()
    assert buffer.sample(1000) is None
    assert buffer.put(make_chunk(1000, 0), 2000, ZERO, ZERO) is PutResult.NOT_NEWER
    buffer.flush(1)
    assert buffer.put(make_chunk(500, 1), 2000, ZERO, ZERO) is PutResult.TAKEN


@pytest.mark.parametrize("field", ["actions_HD", "confidence_HD", "joint_positions_HJ"])
def test_a_chunk_that_is_not_finite_is_refused(field):
    chunk = make_chunk(0, 0)
    array = getattr(chunk, field).copy()
    array[1, 1] = np.nan
    with pytest.raises(DecodeError, match=field):
        replace(chunk, **{field: array}).validate(J)


def test_a_chunk_of_another_width_is_refused():
    with pytest.raises(DecodeError, match="joint_positions_HJ"):
        make_chunk(0, 0).validate(J + 1)
    with pytest.raises(DecodeError, match="tokens_HD"):
        replace(make_chunk(0, 0), tokens_HD=np.zeros((5, 3), np.int32)).validate(J)
