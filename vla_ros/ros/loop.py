# SPDX-License-Identifier: Apache-2.0
"""A thread that calls a function once a period and says how well it kept the period. Must not import rclpy.

Deadlines are absolute on the monotonic clock: lateness does not add up, a missed period is skipped and counted, never made up for. Only
this thread gets SCHED_FIFO; what it starts does not inherit it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vla_ros.ros.scheduling import be_punctual, set_fifo, set_name

_WINDOW = 3000  # wake-ups that the percentiles cover: one minute at 50 Hz


@dataclass(frozen=True, kw_only=True)
class LoopStatistics:
    """How well the period was kept. Lateness is the wake-up after its deadline, over the last minute at 50 Hz.

    Attributes:
        periods: periods run since the start.
        missed: periods skipped because an earlier one took too long or the thread woke too late.
        errors: exceptions that the step raised.
        rate_hz: periods a second since the previous statistics.
    """

    periods: int
    missed: int
    errors: int
    rate_hz: float
    lateness_p50_us: float
    lateness_p99_us: float
    lateness_max_us: float
    step_p99_us: float
    step_max_us: float


class PeriodicThread:
    """Runs ``step(monotonic_ns)`` every ``period_ns`` until stopped. ``statistics`` may be called from one other thread.

    Attributes:
        on_period: called after each period, in the thread, with the time of the wake-up (monotonic clock), its lateness, the step's duration
            (ns) and the periods missed so far; None for nobody. It must neither block nor raise.
    """

    def __init__(
        self,
        step: Callable[[int], None],
        period_ns: int,
        *,
        name: str,
        sched_fifo_priority: int = 0,
        cpu_affinity: tuple[int, ...] = (),
        on_warning: Callable[[str], None] = lambda _: None,
        on_error: Callable[[Exception], None] = lambda _: None,
    ) -> None:
        """Prepares the thread.

        Args:
            step: called with the present time of the monotonic clock; what it raises is counted and reported, the loop goes on.
            period_ns: period in ns.
            name: thread name, 15 characters at most show up in ``top -H``.
            sched_fifo_priority: 0 keeps the scheduler; where the privilege is missing, ``on_warning`` says so.
            cpu_affinity: cores, empty for all.
            on_warning: told in one sentence what the system refused.
            on_error: told what ``step`` raised, in this thread.
        """
        self._step = step
        self._period_ns = period_ns
        self._priority = sched_fifo_priority
        self._cpus = cpu_affinity
        self._on_warning = on_warning
        self._on_error = on_error
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._lateness_us = np.zeros(_WINDOW)
        self._step_us = np.zeros(_WINDOW)
        self._periods = self._missed = self._errors = 0
        self._last_report = (0, time.monotonic_ns())
        self.on_period: Callable[[int, int, int, int], None] | None = None

    def start(self) -> None:
        """Starts the thread; the first period begins at once."""
        self._thread.start()

    def stop(self, timeout_s: float = 2.0) -> bool:
        """Ends the thread after the present period. Returns whether it ended in time."""
        self._stop.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def statistics(self) -> LoopStatistics:
        """Returns figures up to now; ``rate_hz`` covers the time since the previous call."""
        count, now = self._periods, time.monotonic_ns()
        last_count, last_time = self._last_report
        self._last_report = (count, now)
        n = min(count, _WINDOW)
        lateness = np.sort(self._lateness_us[:n]) if n else np.zeros(1)
        return LoopStatistics(
            periods=count,
            missed=self._missed,
            errors=self._errors,
            rate_hz=(count - last_count) / max((now - last_time) * 1e-9, 1e-9),
            lateness_p50_us=float(np.quantile(lateness, 0.5)),
            lateness_p99_us=float(np.quantile(lateness, 0.99)),
            lateness_max_us=float(lateness[-1]),
            step_p99_us=float(np.quantile(self._step_us[:n], 0.99)) if n else 0.0,
            step_max_us=float(self._step_us[:n].max()) if n else 0.0,
        )

    def _run(self) -> None:
        self._set_up_scheduling()
        deadline = time.monotonic_ns()
        while not self._stop.is_set():
            woke = time.monotonic_ns()
            self._one_period(woke, woke - deadline)
            deadline += self._period_ns
            behind = time.monotonic_ns() - deadline
            if behind > self._period_ns:
                skipped = behind // self._period_ns
                self._missed += skipped
                deadline += skipped * self._period_ns
            delay = deadline - time.monotonic_ns()
            if delay > 0:
                time.sleep(delay * 1e-9)

    def _one_period(self, woke: int, lateness_ns: int) -> None:
        slot = self._periods % _WINDOW
        try:
            self._step(woke)
        except Exception as error:  # the loop must outlive whatever one period meets; it is counted and reported
            self._errors += 1
            self._on_error(error)
        step_ns = time.monotonic_ns() - woke
        self._lateness_us[slot] = lateness_ns * 1e-3
        self._step_us[slot] = step_ns * 1e-3
        self._periods += 1
        on_period = self.on_period
        if on_period is not None:
            on_period(woke, lateness_ns, step_ns, self._missed)

    def _set_up_scheduling(self) -> None:
        set_name(self._thread.name)
        be_punctual()
        if self._cpus:
            try:
                os.sched_setaffinity(0, self._cpus)
            except OSError as error:
                self._on_warning(
                    f"realtime.cpu_affinity {list(self._cpus)} was refused ({error.strerror}): the control thread may run on any core"
                )
        if self._priority:
            try:
                set_fifo(self._priority)
            except OSError as error:
                self._on_warning(
                    f"SCHED_FIFO priority {self._priority} was refused ({error.strerror}): the control period will be less even. "
                    "Allow it with an rtprio line in /etc/security/limits.conf or CAP_SYS_NICE, or set realtime.sched_fifo_priority to 0"
                )
