# SPDX-License-Identifier: Apache-2.0
"""How a new chunk takes over from the one before. Axes: N chunks, H steps, J joints.

``prefix``: the policy is told what the robot will do until the answer arrives, and its chunk goes on from there (real-time chunking, Black
et al. 2025; for token policies by forcing the prefix). ``ensemble``: all chunks that say something of a moment are averaged (temporal
ensembling, Zhao et al. 2023). ``replace``: the newest chunk as it is.
"""

from __future__ import annotations

from enum import Enum

import numpy as np

from vla_ros.core.chunk import ActionChunk

_DECAY = 0.01  # Zhao et al. 2023: w_i = exp(-0.01 i), the oldest first


class Takeover(Enum):
    """What happens at the seam of two chunks."""

    PREFIX = "prefix"
    ENSEMBLE = "ensemble"
    REPLACE = "replace"


class TemporalEnsemble:
    """Averages what the chunks of one generation say of the same moments. One thread only."""

    def __init__(self) -> None:
        self._recent: list[ActionChunk] = []

    def forget(self) -> None:
        """A new generation begins."""
        self._recent.clear()

    def waypoints(self, chunk: ActionChunk) -> np.ndarray:
        """The waypoints [H, J] of a new chunk, each averaged with what older chunks say of its moment.

        An older chunk says nothing of moments before its first step or after its last.
        """
        self._recent = [old for old in self._recent if old.due_ns(old.horizon - 1) > chunk.due_ns(0)] + [chunk]
        due_ns_H = np.array([chunk.due_ns(step) for step in range(chunk.horizon)])
        said_NHJ, weights_NH = zip(*(_said(old, due_ns_H) for old in self._recent), strict=True)
        weights_NH = np.array(weights_NH) * np.exp(-_DECAY * np.arange(len(self._recent)))[:, None]
        return np.einsum("nh,nhj->hj", weights_NH / weights_NH.sum(axis=0), np.array(said_NHJ))


def _said(chunk: ActionChunk, due_ns_H: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where a chunk wants the joints at these moments [H, J], linear between its steps, and whether it says so [H]."""
    steps_H = (due_ns_H - chunk.due_ns(0)) / chunk.dt_ns
    lower_H = np.clip(np.floor(steps_H).astype(int), 0, chunk.horizon - 1)
    upper_H = np.minimum(lower_H + 1, chunk.horizon - 1)
    part_H1 = np.clip(steps_H - lower_H, 0.0, 1.0)[:, None]
    said_HJ = (1.0 - part_H1) * chunk.joint_positions_HJ[lower_H] + part_H1 * chunk.joint_positions_HJ[upper_H]
    return said_HJ, ((steps_H >= 0.0) & (steps_H <= chunk.horizon - 1)).astype(float)
