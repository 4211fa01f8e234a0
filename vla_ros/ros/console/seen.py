# SPDX-License-Identifier: Apache-2.0
"""What the operator page shows, kept with its age. Must not import rclpy: it only reads the messages' fields.

Nothing here is shown without saying how old it is; ages are of receipt, by the monotonic clock.
"""

from __future__ import annotations

import json
import math
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from vla_ros.core.chunk import ActionChunk
from vla_ros.core.errors import VlaError
from vla_ros.ros.plain import from_plain

MAX_HISTORY = 20
_SILENT_S = 3.0  # of a status that comes once a second


class Seen:
    """The newest of everything. Any thread.

    Args:
        node_name: fully qualified name of the policy node.
        now_s: monotonic clock.
    """

    def __init__(self, node_name: str, now_s: Callable[[], float] = time.monotonic) -> None:
        self._node_name = node_name
        self._now_s = now_s
        self._lock = threading.Lock()
        self._at_s: dict[str, float] = {}
        self._status: dict[str, Any] = {}
        self._plan = ""
        self._instruction = ""
        self._history: deque[dict[str, Any]] = deque(maxlen=MAX_HISTORY)
        self._action: dict[str, Any] = {}
        self._decision: dict[str, Any] = {}
        self._diagnostics: dict[str, dict[str, str]] = {}

    @property
    def code(self) -> str:
        """The node's newest status code, empty before the first."""
        with self._lock:
            return self._status.get("code", "")

    def is_silent(self) -> bool:
        """Whether the node has not said its status for too long, or never."""
        with self._lock:
            return (age_s := self._age_s("status")) is None or age_s > _SILENT_S

    def put_status(self, message: Any) -> None:
        """A diagnostic_msgs/DiagnosticStatus of ``~/status``."""
        values = {pair.key: pair.value for pair in message.values}
        with self._lock:
            self._mark("status")
            self._status = {
                "code": values.get("code", ""),
                "state": values.get("state", "inactive"),
                "level": int.from_bytes(message.level, "little"),
                "sentence": message.message,
                "also": [code for code in values.get("also", "").split() if code != values.get("code")],
                "task_done": values.get("task_done") == "True",
            }
            if self._status["task_done"] and self._history and self._history[0]["text"] == self._instruction:
                self._history[0]["outcome"] = "done"

    def put_plan(self, message: Any) -> None:
        """A std_msgs/String of ``~/plan``."""
        with self._lock:
            self._mark("plan")
            self._plan = message.data

    def put_instruction(self, message: Any) -> None:
        """A std_msgs/String of ``instruction``, whoever sent it; blank means hold."""
        text = message.data.strip()
        with self._lock:
            self._mark("instruction")
            if text != self._instruction:
                self._plan = ""
            self._instruction = text
            if text and not (self._history and self._history[0]["text"] == text):
                self._history.appendleft({"text": text, "at": time.strftime("%H:%M:%S"), "outcome": ""})
            elif text:
                self._history[0] |= {"at": time.strftime("%H:%M:%S"), "outcome": ""}

    def put_action(self, message: Any) -> None:
        """A std_msgs/Float64MultiArray of ``~/action``; its layout names the dimensions."""
        values = [value if math.isfinite(value) else None for value in message.data]
        dims = dimensions(message.layout.dim[-1].label if message.layout.dim else "", len(values))
        with self._lock:
            self._mark("action")
            self._action = {"dims": dims, "values": values}

    def put_decision(self, message: Any) -> None:
        """A std_msgs/String of ``~/decision``: how sure the policy was of its newest answer.

        One that cannot be read is passed over: another release may write it differently.
        """
        try:
            answer = from_plain(json.loads(message.data)["answer"])
        except (ValueError, KeyError, TypeError, AttributeError, VlaError):
            return
        with self._lock:
            self._mark("decision")
            number = self._decision.get("number", 0) + 1
            self._decision = {"number": number, "error": answer if isinstance(answer, str) else ""}
            if isinstance(answer, ActionChunk):
                self._decision |= certainty(answer)

    def put_diagnostics(self, message: Any) -> None:
        """A diagnostic_msgs/DiagnosticArray; entries of other nodes are passed over."""
        name = self._node_name.rpartition("/")[2]
        with self._lock:
            for status in message.status:
                if status.name.startswith(f"{name}: "):
                    self._mark("diagnostics")
                    self._diagnostics[status.name.partition(": ")[2]] = {pair.key: pair.value for pair in status.values}

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON; ages in seconds, null for what never came."""
        with self._lock:
            return {
                "node": {"name": self._node_name, "age_s": self._age_s("status"), "silent_after_s": _SILENT_S},
                "status": dict(self._status),
                "plan": self._plan,
                "instruction": self._instruction,
                "history": [dict(entry) for entry in self._history],
                "action": {**self._action, "age_s": self._age_s("action")},
                "decision": {**self._decision, "age_s": self._age_s("decision")},
                "figures": {**self._figures(), "age_s": self._age_s("diagnostics")},
            }

    def _figures(self) -> dict[str, Any]:
        control, inference = self._diagnostics.get("control thread", {}), self._diagnostics.get("inference", {})
        return {
            "control_rate_hz": control.get("rate_hz"),
            "missed_periods": control.get("missed_periods"),
            "inference_ms": inference.get("inference_ms"),
            "provider": inference.get("provider"),
            "bundle": inference.get("bundle"),
        }

    def _mark(self, what: str) -> None:
        self._at_s[what] = self._now_s()

    def _age_s(self, what: str) -> float | None:
        at_s = self._at_s.get(what)
        return None if at_s is None else round(self._now_s() - at_s, 3)


def dimensions(label: str, count: int) -> list[dict[str, str]]:
    """Name and unit of each action dimension from a layout's label, ``x[m],y[m]``; numbers where it does not fit."""
    found = [re.fullmatch(r"(.+?)\[(.*)\]", part) for part in label.split(",")]
    if len(found) != count or not all(found):
        return [{"name": str(i), "unit": ""} for i in range(count)]
    return [{"name": match[1], "unit": "" if match[2] == "1" else match[2]} for match in found if match]


def certainty(chunk: ActionChunk) -> dict[str, Any]:
    """How sure the policy is of a chunk's steps that it chose itself: lowest and mean, and the lowest of each dimension; all in [0, 1]."""
    chosen_HD = np.nan_to_num(chunk.confidence_HD[min(chunk.committed, chunk.horizon - 1) :])
    return {
        "lowest": round(float(chosen_HD.min()), 4),
        "mean": round(float(chosen_HD.mean()), 4),
        "by_dim": [round(float(value), 4) for value in chosen_HD.min(axis=0)],
        "inference_ms": round(chunk.inference_ns * 1e-6, 1),
    }
