# SPDX-License-Identifier: Apache-2.0
"""The control thread keeps absolute deadlines, counts what it misses and outlives its step's errors."""

from __future__ import annotations

import threading
import time

from vla_ros.ros.loop import PeriodicThread

_MS = 1_000_000


def run(step, periods, period_ns=5 * _MS, **options):
    """Runs until ``step`` was called ``periods`` times."""
    done = threading.Event()
    calls = []

    def counted(now_ns):
        calls.append(now_ns)
        if len(calls) >= periods:
            done.set()
        step(len(calls))

    thread = PeriodicThread(counted, period_ns, name="test", **options)
    thread.start()
    assert done.wait(20.0)
    assert thread.stop()
    return thread, calls


def test_the_mean_period_does_not_drift():
    thread, calls = run(lambda n: None, 100)
    statistics = thread.statistics()
    # Absolute deadlines: over 99 periods only the first and last wake-up's lateness show, whatever the load in between.
    elapsed = calls[99] - calls[0]
    periods = 99 + statistics.missed
    assert abs(elapsed - periods * 5 * _MS) <= statistics.lateness_max_us * 1000 + 5 * _MS
    assert statistics.periods >= 100 and statistics.errors == 0


def test_missed_periods_are_skipped_and_counted_and_never_made_up_for():
    thread, calls = run(lambda n: time.sleep(0.023) if n == 3 else None, 10)
    assert thread.statistics().missed >= 3
    assert (calls[3] - calls[2]) >= 23 * _MS
    assert min(b - a for a, b in zip(calls[3:-1], calls[4:], strict=True)) > 0


def test_a_step_that_raises_is_counted_reported_and_repeated():
    errors = []

    def fail(n):
        if n % 2:
            raise ValueError(n)

    thread, calls = run(fail, 6, on_error=errors.append)
    assert thread.statistics().errors == len(errors) >= 3
    assert all(isinstance(e, ValueError) for e in errors)


def test_refused_scheduling_is_a_warning_and_not_an_end():
    warnings = []
    thread, _ = run(lambda n: None, 2, cpu_affinity=(100_000,), on_warning=warnings.append)
    assert len(warnings) == 1 and "cpu_affinity" in warnings[0]


def test_stop_ends_the_thread_and_is_repeatable():
    thread, calls = run(lambda n: None, 1)
    count = len(calls)
    assert thread.stop()
    time.sleep(0.02)
    assert len(calls) == count


def test_every_period_is_told_to_who_asks():
    told = []

    def step(n):
        if n == 5:
            time.sleep(0.023)

    calls = []
    thread = PeriodicThread(lambda now_ns: (calls.append(now_ns), step(len(calls))), 5 * _MS, name="test")
    thread.on_period = lambda *row: told.append(row)
    thread.start()
    deadline = time.monotonic() + 20.0
    while len(calls) < 12 and time.monotonic() < deadline:
        time.sleep(0.005)
    assert thread.stop()
    assert [row[0] for row in told] == calls
    assert told[4][2] >= 23 * _MS and told[-1][3] == thread.statistics().missed >= 3
    assert all(row[1] >= 0 for row in told)
