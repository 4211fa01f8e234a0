# SPDX-License-Identifier: Apache-2.0
"""How long a virtual machine's processors were kept by its host: no program can do anything about it, and a period is late all the same."""

from __future__ import annotations

from pathlib import Path

_WORTH_A_NOTE = 0.001
_STOLEN = 7  # user, nice, system, idle, iowait, irq, softirq, steal (proc(5)); what follows is counted in these


class StolenTime:
    """From its making on."""

    def __init__(self, statistics: Path = Path("/proc/stat")) -> None:
        self._statistics = statistics
        self._start = self._times()

    @property
    def share(self) -> float:
        """Of the processors' time, 0 to 1."""
        total, stolen = (now - then for now, then in zip(self._times(), self._start, strict=True))
        return stolen / total if total > 0 else 0.0

    def notes(self, title: str) -> list[str]:
        """A sentence if it is worth one."""
        share = self.share
        return [f"{title}: the host kept the processors from this machine for {share:.1%} of the time"] if share >= _WORTH_A_NOTE else []

    def _times(self) -> tuple[int, int]:
        fields = [int(word) for word in self._statistics.read_text(encoding="ascii").splitlines()[0].split()[1 : _STOLEN + 2]]
        return sum(fields), fields[_STOLEN]
