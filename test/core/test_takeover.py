# SPDX-License-Identifier: Apache-2.0
"""Takeover by temporal ensembling, against the formula written out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_ros.core.chunk import ActionChunk, ChunkBuffer
from vla_ros.core.takeover import TemporalEnsemble

DT_NS = 100_000_000


def chunk(obs_ns, positions_H):
    steps = len(positions_H)
    return ActionChunk(
        obs_stamp_ns=obs_ns,
        generation=0,
        dt_ns=DT_NS,
        actions_HD=np.zeros((steps, 1)),
        tokens_HD=np.zeros((steps, 1), dtype=np.int32),
        confidence_HD=np.ones((steps, 1)),
        joint_positions_HJ=np.array(positions_H, dtype=float)[:, None],
        terminate_H=np.zeros(steps, dtype=bool),
    )


def test_a_first_chunk_is_taken_as_it_is():
    said_HJ = TemporalEnsemble().waypoints(chunk(0, [1.0, 2.0, 3.0]))
    assert said_HJ[:, 0].tolist() == [1.0, 2.0, 3.0]


def test_the_same_moments_are_averaged_with_the_oldest_weighing_most():
    ensemble = TemporalEnsemble()
    ensemble.waypoints(chunk(0, [0.0, 0.0, 0.0]))  # due at 1, 2 and 3 steps
    said_HJ = ensemble.waypoints(chunk(DT_NS, [1.0, 1.0, 1.0]))  # due at 2, 3 and 4: the last is nobody else's
    new = np.exp(-0.01) / (1.0 + np.exp(-0.01))
    np.testing.assert_allclose(said_HJ[:, 0], [new, new, 1.0])


def test_between_its_steps_an_older_chunk_is_interpolated():
    ensemble = TemporalEnsemble()
    ensemble.waypoints(chunk(0, [0.0, 4.0, 8.0]))
    said_HJ = ensemble.waypoints(chunk(DT_NS // 4, [1.0, 5.0, 100.0]))  # what the older one says of these moments as well
    np.testing.assert_allclose(said_HJ[:2, 0], [1.0, 5.0])
    assert said_HJ[2, 0] == 100.0  # after the older one's last step


@given(st.lists(st.tuples(st.integers(1, 300_000_000), st.lists(st.floats(-2, 2), min_size=4, max_size=4)), min_size=1, max_size=6))
def test_an_average_lies_between_what_was_said(chunks):
    ensemble, obs_ns, everything = TemporalEnsemble(), 0, []
    for gap_ns, positions_H in chunks:
        obs_ns += gap_ns
        everything += positions_H
        said_HJ = ensemble.waypoints(chunk(obs_ns, positions_H))
        assert said_HJ.min() >= min(everything) - 1e-9 and said_HJ.max() <= max(everything) + 1e-9


@pytest.mark.parametrize("generation", [None, 7])
def test_a_flush_forgets_older_chunks(generation):
    buffer = ChunkBuffer(TemporalEnsemble())
    still = np.zeros(1)
    buffer.put(chunk(0, [0.0] * 4), 0, still, still)
    buffer.flush(generation)
    newer = chunk(DT_NS, [1.0] * 4)
    object.__setattr__(newer, "generation", buffer.generation)
    buffer.put(newer, DT_NS, still, still)
    assert buffer.reference.positions_KJ[-1, 0] == 1.0 and buffer.reference.positions_KJ[1, 0] == 1.0
