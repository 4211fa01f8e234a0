# SPDX-License-Identifier: Apache-2.0
"""How smooth the commands are where one chunk takes over from another, beside everywhere else. Axes: J joints."""

from __future__ import annotations

import numpy as np

from vla_ros.core.chunk import ActionChunk

_SEAM_PERIODS = 3  # control periods after a takeover in which the motion generator answers to it


class Smoothness:
    """Jerk of the commands, just after a takeover and otherwise.

    Args:
        limit_J: jerk limits.
        period_s: control period.
    """

    def __init__(self, limit_J: np.ndarray, period_s: float) -> None:
        self._limit_J, self._period_s = limit_J, period_s
        self._last_J = np.zeros(len(limit_J))
        self._chunk: ActionChunk | None = None
        self._since_takeover = 0
        self._squares = {True: [0.0, 0], False: [0.0, 0]}

    def add(self, acceleration_J: np.ndarray, chunk: ActionChunk | None) -> None:
        """Takes a command's acceleration and the chunk that it follows."""
        jerk = float((np.abs(acceleration_J - self._last_J) / (self._period_s * self._limit_J)).max())
        self._last_J = acceleration_J
        self._since_takeover = 0 if chunk is not self._chunk else self._since_takeover + 1
        self._chunk = chunk
        if chunk is not None:
            sums = self._squares[self._since_takeover < _SEAM_PERIODS]
            sums[0], sums[1] = sums[0] + jerk * jerk, sums[1] + 1

    def rms(self, *, boundary: bool) -> float:
        """Root mean square of the largest joint jerk relative to its limit, 0 if there was none."""
        total, count = self._squares[boundary]
        return (total / count) ** 0.5 if count else 0.0
