# SPDX-License-Identifier: Apache-2.0
"""How a child process answers its parent: one line of JSON each. Must import the standard library only."""

from __future__ import annotations

import json
import sys
from typing import Any

ANSWER = "@"  # begins a line that is an answer; whatever else a library prints is passed over


def reply(**answer: Any) -> None:
    """Says one answer; ``error`` in it is a refusal."""
    sys.stdout.write(f"{ANSWER}{json.dumps(answer)}\n")
    sys.stdout.flush()
