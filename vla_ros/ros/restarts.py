# SPDX-License-Identifier: Apache-2.0
"""When a process that died is started again: at once, then later and later, then not any more. Pure; must not import rclpy."""

from __future__ import annotations

MAX_SILENT_LIVES = 5  # in a row, each without an answer
_STABLE_S = 60.0  # a life this long makes up for the short ones before it
_FIRST_DELAY_S = 0.5
_LONGEST_DELAY_S = 30.0


class RestartPolicy:
    """Counts short lives. A process that answers once and dies, again and again, would otherwise be started for ever at full speed."""

    def __init__(self) -> None:
        self._silent = self._short = 0

    def delay_s(self, lived_s: float, has_answered: bool) -> float | None:
        """How long to wait before the next start; None: give up.

        Args:
            lived_s: how long the process lived that has just ended.
            has_answered: whether it ever did its work.
        """
        self._silent = 0 if has_answered else self._silent + 1
        self._short = 0 if has_answered and lived_s >= _STABLE_S else self._short + 1
        if self._silent > MAX_SILENT_LIVES:
            return None
        return 0.0 if self._short <= 1 else min(_FIRST_DELAY_S * 2.0 ** (self._short - 2), _LONGEST_DELAY_S)
