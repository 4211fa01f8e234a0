# SPDX-License-Identifier: Apache-2.0
"""Past frames of an episode, for policies that see more than one. numpy only.

Axes: N rows of a shard, B drawn rows, R frames, newest first.
"""

from __future__ import annotations

import numpy as np


def past_rows(episode_N: np.ndarray, frame_N: np.ndarray, row_B: np.ndarray, frames: int) -> np.ndarray:
    """Rows that hold each drawn frame and the `frames` - 1 before it, int64 [B, R].

    A frame that is not there (the episode begins, or a shard does) is the oldest one there is: the robot had not moved yet.

    Args:
        episode_N: number of each row's episode.
        frame_N: number of each row inside its episode, one more from row to row where nothing is left out.
        row_B: drawn rows.
        frames: R, at least 1.
    """
    past_BR = np.empty((len(row_B), frames), dtype=np.int64)
    past_BR[:, 0] = row_B
    for age in range(1, frames):
        wanted_B = np.asarray(row_B) - age
        before_B = np.maximum(wanted_B, 0)
        there_B = (wanted_B >= 0) & (episode_N[before_B] == episode_N[row_B]) & (frame_N[before_B] == frame_N[row_B] - age)
        past_BR[:, age] = np.where(there_B, before_B, past_BR[:, age - 1])
    return past_BR
