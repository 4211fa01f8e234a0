# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vla_ros.train.history import past_rows


def test_past_frames_stay_in_their_episode():
    episode, frame = np.array([7, 7, 7, 8, 8]), np.array([0, 1, 2, 0, 1])
    assert past_rows(episode, frame, np.array([2, 3, 4, 0]), 3).tolist() == [[2, 1, 0], [3, 3, 3], [4, 3, 3], [0, 0, 0]]


def test_a_gap_ends_the_past():
    """Frames 1 and 4 of one episode lie side by side, as after a shard that left some out."""
    assert past_rows(np.array([5, 5, 5]), np.array([0, 1, 4]), np.array([2]), 3).tolist() == [[2, 2, 2]]


@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), st.integers(1, 4))
def test_each_past_row_is_the_one_of_that_age_or_the_first(lengths, frames):
    episode = np.repeat(np.arange(len(lengths)), lengths)
    frame = np.concatenate([np.arange(length) for length in lengths])
    rows = np.arange(len(episode))
    past = past_rows(episode, frame, rows, frames)
    for row in rows:
        for age in range(frames):
            assert episode[past[row, age]] == episode[row]
            assert frame[past[row, age]] == max(frame[row] - age, 0)
