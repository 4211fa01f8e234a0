# SPDX-License-Identifier: Apache-2.0
"""Notices a camera whose pictures get lost on the way: by gaps between stamps, wherever somebody looked all the time. Must not import rclpy.

Only the newest picture is kept for a reader, so that one who looks away misses some without a loss. A gap counts if no pause between two looks
in it was as long as the camera's period. The period is learned from the gaps.
"""

from __future__ import annotations

from collections import deque

import numpy as np

_GAPS = 60  # that are remembered: two seconds at 30 Hz
_LEARNED = 10  # gaps after which the period is believed
_QUANTILE = 0.2  # of all gaps, a short one: nothing was lost in it, even where half of the pictures get lost
_SINGLE = 1.6  # gaps up to so many short ones are of one period, early or late
_WATCHED = 0.7  # of a period: a longer pause between two looks leaves its gap unjudged
_MANY, _FEW = 0.05, 0.01  # shares of lost pictures at which a camera begins and ends to be one that loses them


class PictureLoss:
    """Of one camera. Call :meth:`looked` at every look and :meth:`arrived` for each picture.

    Attributes:
        is_losing: whether many of the last pictures were lost.
    """

    def __init__(self) -> None:
        self.is_losing = False
        self._gaps_ns: deque[int] = deque(maxlen=_GAPS)
        self._lost: deque[int] = deque(maxlen=_GAPS)
        self._looked_ns: int | None = None
        self._pause_ns = 0
        self._stamp_ns = 0

    @property
    def period_ns(self) -> int:
        """Of the camera, by its stamps; 0 until enough pictures have come."""
        if len(self._gaps_ns) < _LEARNED:
            return 0
        gaps_ns = np.fromiter(self._gaps_ns, dtype=np.int64)
        return int(np.median(gaps_ns[gaps_ns < _SINGLE * np.quantile(gaps_ns, _QUANTILE)]))

    @property
    def share(self) -> float:
        """Of the last pictures, how many were lost, 0 to 1."""
        lost = sum(self._lost)
        return lost / (lost + len(self._lost)) if self._lost else 0.0

    def looked(self, monotonic_ns: int) -> None:
        """Somebody asks for a picture, whether there is one or not."""
        if self._looked_ns is not None:
            self._pause_ns = max(self._pause_ns, monotonic_ns - self._looked_ns)
        self._looked_ns = monotonic_ns

    def arrived(self, stamp_ns: int) -> int:
        """Takes a picture's stamp; returns how many were lost before it. Pictures without a stamp tell nothing."""
        gap_ns, pause_ns = stamp_ns - self._stamp_ns, self._pause_ns
        first, self._stamp_ns, self._pause_ns = self._stamp_ns == 0, stamp_ns, 0
        if first or stamp_ns == 0 or gap_ns <= 0:
            return 0
        period_ns = self.period_ns
        if pause_ns > _WATCHED * (period_ns or gap_ns):
            return 0
        self._gaps_ns.append(gap_ns)
        if period_ns == 0:
            return 0
        lost = max(round(gap_ns / period_ns) - 1, 0)
        self._lost.append(lost)
        if len(self._lost) >= _LEARNED:
            self.is_losing = self.share > (_FEW if self.is_losing else _MANY)
        return lost
