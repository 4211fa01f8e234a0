# SPDX-License-Identifier: Apache-2.0
"""Which commands are sent. A stream of commands never jumps: it ends at rest, and pauses before one that begins elsewhere."""

from __future__ import annotations

PAUSE_TICKS = 10  # so long a stream is silent before it begins elsewhere; a reader takes a gap of five for its end


class CommandStream:
    """Counts silent control periods. One thread only."""

    def __init__(self) -> None:
        self._silent_ticks, self._pause_ticks, self._has_ended = PAUSE_TICKS, 0, True

    def begin(self, elsewhere: bool) -> None:
        """Begins again; ``elsewhere`` than the last command was."""
        self._pause_ticks = max(PAUSE_TICKS - self._silent_ticks, 0) if elsewhere else 0

    def pauses(self) -> bool:
        """Whether this period belongs to the pause before a new stream: nothing moves. Call once a period."""
        pauses = self._pause_ticks > 0
        self._pause_ticks -= pauses
        return pauses

    def sends(self, *, is_silenced: bool, is_inactive: bool, is_at_rest: bool) -> bool:
        """Whether this period's command is sent. Call once a period.

        Args:
            is_silenced: nothing may be commanded now.
            is_inactive: the node is inactive: the first command at rest is the last.
            is_at_rest: the command stands still.
        """
        is_silent = is_silenced or self._pause_ticks > 0 or (is_inactive and self._has_ended)
        self._has_ended = is_inactive and is_at_rest
        self._silent_ticks = self._silent_ticks + 1 if is_silent else 0
        return not is_silent
