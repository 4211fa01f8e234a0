# SPDX-License-Identifier: Apache-2.0
"""The control thread's time while the system's clock is set (FAULTS row 30)."""

from __future__ import annotations

import pytest

from vla_ros.ros.clock import PolledClock

_S = 1_000_000_000


class Times:
    """A system's clock that can be set, and a monotonic one that cannot."""

    def __init__(self):
        self.wall_ns, self.monotonic_ns = 1_700_000_000 * _S, 5_000 * _S

    def pass_ns(self, duration_ns):
        self.wall_ns += duration_ns
        self.monotonic_ns += duration_ns

    def clock(self, offset_ns=None):
        return PolledClock(None, False, offset_ns, lambda: self.wall_ns, lambda: self.monotonic_ns)


def test_without_a_step_stamps_are_what_the_system_says():
    times = Times()
    clock = times.clock()
    times.pass_ns(20_000_000)
    assert clock.now_ns() == clock.ros_ns() == times.wall_ns
    assert clock.from_ros(times.wall_ns - 7) == times.wall_ns - 7 and clock.steps == 0


@pytest.mark.parametrize("step_s", [-3600, -0.5, 0.5, 86_400])
def test_row_30_a_step_moves_neither_the_time_nor_the_age_of_messages(step_s):
    times = Times()
    clock = times.clock()
    before_ns = clock.now_ns()
    times.pass_ns(20_000_000)
    times.wall_ns += round(step_s * _S)
    assert clock.now_ns() - before_ns == 20_000_000
    stamp_ns = times.wall_ns - 3_000_000  # a driver that stamps by the system's clock, 3 ms ago
    assert clock.ros_ns() - stamp_ns == 3_000_000
    assert clock.now_ns() - clock.from_ros(stamp_ns) == 3_000_000
    assert clock.to_ros(clock.from_ros(stamp_ns)) == stamp_ns and clock.steps == 1


def test_a_process_that_starts_after_a_step_agrees_with_one_from_before():
    times = Times()
    node = times.clock()
    times.wall_ns += 100 * _S
    worker = times.clock(node.offset_ns)
    stamp_ns = times.wall_ns
    node.ros_ns()
    assert worker.now_ns() == node.now_ns() and worker.from_ros(stamp_ns) == node.from_ros(stamp_ns)


def test_a_reader_that_loses_its_core_between_two_readings_sees_no_step():
    times = Times()
    clock = times.clock()
    real = clock._wall_ns

    def interrupted():
        times.pass_ns(30_000_000)
        return real()

    clock._wall_ns = interrupted
    clock.ros_ns()
    assert clock.steps == 0
