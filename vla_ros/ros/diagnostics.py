# SPDX-License-Identifier: Apache-2.0
"""Status and diagnostics messages from plain figures. Builds them, publishes nothing.

``~/status`` says in one code and one sentence what the node does; ``/diagnostics`` is for people once a second, and no keep-alive.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from vla_ros.core.control import ControlOutput
from vla_ros.core.safety import Level, StatusCode
from vla_ros.ros.loop import LoopStatistics
from vla_ros.ros.sim_messages import time_message


class DropCounter:
    """Counts dropped messages by code and says which of them to log: the first of its kind, or the first after a good one.

    A source that flickers between good and bad is said once in ``quiet_s``. Each source belongs to one thread.
    """

    def __init__(self, quiet_s: float = 5.0, now_s: Callable[[], float] = time.monotonic) -> None:
        self.counts: Counter[str] = Counter()
        self._quiet_s = quiet_s
        self._now_s = now_s
        self._bad: dict[str, str] = {}
        self._said: dict[str, bool] = {}
        self._said_s: dict[tuple[str, str], float] = {}

    def dropped(self, source: str, code: str) -> bool:
        """Counts a drop; True on an edge: log it."""
        self.counts[f"{source}.{code}"] += 1
        if self._bad.get(source) == code:
            return False
        self._bad[source] = code
        key, now_s = (source, code), self._now_s()
        if now_s - self._said_s.get(key, -self._quiet_s) < self._quiet_s:
            return False
        self._said_s[key], self._said[source] = now_s, True
        return True

    def accepted(self, source: str) -> bool:
        """Notes a good message; True if the last one of this source was dropped and that was said."""
        self._bad.pop(source, None)
        return self._said.pop(source, False)


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one ``/diagnostics`` message reports.

    Attributes:
        loop: the control thread's figures, None while unconfigured.
        drops: dropped messages by source and code.
        counts: the control loop's own counts.
        worker: the inference process's figures, as key and text.
        bundle: name and hash of the policy bundle, empty while unconfigured.
    """

    loop: LoopStatistics | None
    drops: Mapping[str, int]
    counts: Mapping[str, int]
    worker: Mapping[str, Any]
    bundle: Mapping[str, Any]


def status_message(node_name: str, output: ControlOutput | None, extra: Iterable[StatusCode], robot: str, detail: str = "") -> DiagnosticStatus:
    """One code with its sentence: the most severe of the loop's code, its warnings and ``extra``; the loop's own on a tie.

    ``detail`` is a clause about the loop's own code.
    """
    code = StatusCode.INACTIVE if output is None else output.code
    others = (*(() if output is None else output.warnings), *extra)
    worst = max((code, *others), key=lambda c: c.level.value)
    message = DiagnosticStatus(level=_level(worst.level), name=f"{node_name}: control", message=worst.sentence, hardware_id=robot)
    values: dict[str, Any] = {"code": worst.name}
    if output is not None:
        values |= {
            "state": output.state.value,
            "control_code": output.code.name,
            "task_done": output.task_done,
            "generation": output.generation,
            "also": " ".join(c.name for c in others),
            "detail": detail,
        }
    message.values = _values(values)
    return message


def diagnostics_message(node_name: str, status: DiagnosticStatus, figures: Figures, stamp_ns: int) -> DiagnosticArray:
    """The status and one entry each for control thread, inference and drops."""
    message = DiagnosticArray(
        status=[status, _loop_status(node_name, figures), _worker_status(node_name, figures), _drop_status(node_name, figures)]
    )
    message.header.stamp = time_message(stamp_ns)
    return message


def _loop_status(node_name: str, figures: Figures) -> DiagnosticStatus:
    entry = DiagnosticStatus(level=DiagnosticStatus.OK, name=f"{node_name}: control thread")
    loop = figures.loop
    if loop is None:
        entry.message = "not configured"
        return entry
    entry.message = f"{loop.rate_hz:.1f} Hz"
    entry.values = _values(
        {
            "rate_hz": f"{loop.rate_hz:.2f}",
            "periods": loop.periods,
            "missed_periods": loop.missed,
            "step_errors": loop.errors,
            "jitter_p50_us": f"{loop.lateness_p50_us:.0f}",
            "jitter_p99_us": f"{loop.lateness_p99_us:.0f}",
            "jitter_max_us": f"{loop.lateness_max_us:.0f}",
            "step_p99_us": f"{loop.step_p99_us:.0f}",
            "step_max_us": f"{loop.step_max_us:.0f}",
        }
    )
    return entry


def _worker_status(node_name: str, figures: Figures) -> DiagnosticStatus:
    entry = DiagnosticStatus(
        level=DiagnosticStatus.OK, name=f"{node_name}: inference", message=str(figures.worker.get("state", "not configured"))
    )
    entry.values = _values({**figures.bundle, **figures.worker})
    return entry


def _drop_status(node_name: str, figures: Figures) -> DiagnosticStatus:
    total = sum(figures.drops.values())
    entry = DiagnosticStatus(level=DiagnosticStatus.OK, name=f"{node_name}: messages", message=f"{total} dropped")
    entry.values = _values(
        {**{f"dropped.{k}": v for k, v in sorted(figures.drops.items())}, **{f"control.{k}": v for k, v in sorted(figures.counts.items())}}
    )
    return entry


def _level(level: Level) -> bytes:
    return bytes([level.value])


def _values(values: Mapping[str, Any]) -> list[KeyValue]:
    return [KeyValue(key=k, value=str(v)) for k, v in values.items()]
