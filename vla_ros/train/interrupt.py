# SPDX-License-Identifier: Apache-2.0
"""Ends a training run on SIGINT and SIGTERM after the step at hand, so that it can save."""

from __future__ import annotations

import signal
from typing import Any, Protocol


class Stoppable(Protocol):
    """A run that looks at `stop_requested` after each step."""

    stop_requested: bool


class StopOnSignal:
    """Turns the first signal into a request; a second one interrupts at once. A context manager, main thread only."""

    def __init__(self, run: Stoppable) -> None:
        self._run = run
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._request)

    def __exit__(self, *unused: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: object) -> None:
        if self._run.stop_requested:
            raise KeyboardInterrupt
        self._run.stop_requested = True


class StoppableStudy:
    """Several runs, one after the other: a request to stop reaches the one at hand."""

    def __init__(self) -> None:
        self._stop = False
        self._at_hand: Stoppable | None = None

    @property
    def stop_requested(self) -> bool:
        """Set to true to end after the step at hand; what is trained so far is saved."""
        return self._stop

    @stop_requested.setter
    def stop_requested(self, value: bool) -> None:
        self._stop = value
        if self._at_hand:
            self._at_hand.stop_requested = value
