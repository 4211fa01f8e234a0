# SPDX-License-Identifier: Apache-2.0
"""The control loop's view of a ROS clock that may be sparse, paused or set back."""

from __future__ import annotations

from enum import Enum


class ClockState(Enum):
    """What the clock did since the last period."""

    RUNNING = "running"
    PAUSED = "paused"
    JUMPED_BACK = "jumped back"


class ControlClock:
    """Turns readings into a time that goes on between them.

    A simulator may publish its clock more rarely than the control rate: a reading that stands still is
    carried on by one period a tick, up to ``max_gap_ns``; after that the clock counts as paused and time
    stands. Steps back up to the same gap are the carried-on time being corrected, not a jump.
    """

    def __init__(self, period_ns: int, max_gap_ns: int) -> None:
        self._period_ns = period_ns
        self._max_gap_ns = max_gap_ns
        self._reading_ns: int | None = None
        self._carried_ns = 0
        self._ticks_since_pause: int | None = None

    def reset(self) -> None:
        """Forgets the last reading."""
        self._reading_ns = None
        self._carried_ns = 0
        self._ticks_since_pause = None

    def advance(self, now_ns: int) -> ClockState:
        """Takes one reading a control period; ``time_ns`` holds the time to use."""
        last_ns = self._reading_ns
        if last_ns is None or now_ns > last_ns:
            self._reading_ns, self._carried_ns = now_ns, 0
        elif now_ns < last_ns - self._max_gap_ns:
            self.reset()
            self._reading_ns = now_ns
            return ClockState.JUMPED_BACK
        elif self._carried_ns + self._period_ns > self._max_gap_ns:
            self._ticks_since_pause = 0
            return ClockState.PAUSED
        else:
            self._carried_ns += self._period_ns
        if self._ticks_since_pause is not None:
            self._ticks_since_pause += 1
        return ClockState.RUNNING

    @property
    def time_ns(self) -> int:
        """The last reading, carried on; 0 before the first."""
        return (self._reading_ns or 0) + self._carried_ns

    def since_pause_ns(self, age_ns: int) -> int:
        """An age by a monotonic clock, without the time before the end of the last pause (counted in periods)."""
        if self._ticks_since_pause is None:
            return age_ns
        return min(age_ns, self._ticks_since_pause * self._period_ns)
