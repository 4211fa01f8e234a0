# SPDX-License-Identifier: Apache-2.0
"""One thing that ``vla doctor`` looked at."""

from __future__ import annotations

from dataclasses import dataclass

OK, WARN, FAIL = "ok", "warn", "fail"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """``state`` is ok, warn or fail; ``remedy`` says what to do, and is there whenever the state is not ok."""

    name: str
    state: str
    found: str
    remedy: str = ""


def last_line(text: str) -> str:
    """The last line that says something."""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"
