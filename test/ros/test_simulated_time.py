# SPDX-License-Identifier: Apache-2.0
"""The node on simulated time: sparse clocks, pauses and jumps back (FAULTS rows 28, 29 and 31)."""

from __future__ import annotations

import threading
import time

import pytest

pytestmark = pytest.mark.ros


class ClockSource:
    """Publishes /clock by wall time; can pause and jump."""

    def __init__(self, node, rate_hz):
        from rosgraph_msgs.msg import Clock

        from vla_ros.ros import qos
        from vla_ros.ros.sim_messages import time_message

        self.now_ns, self.paused = 1_000_000_000_000, False
        self._publisher = node.create_publisher(Clock, "/clock", qos.SENSOR)
        self._period_s = 1.0 / rate_hz
        self._message = lambda: Clock(clock=time_message(self.now_ns))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        last = time.monotonic_ns()
        while not self._stop.wait(self._period_s):
            now = time.monotonic_ns()
            if not self.paused:
                self.now_ns += now - last
                self._publisher.publish(self._message())
            last = now

    def close(self):
        self._stop.set()
        self._thread.join()


@pytest.fixture(params=[100.0, 15.0], ids=["clock at 100 Hz", "clock at 15 Hz"])
def simulated(make_rig, request):
    """A node and a fake robot that live on a published clock: (rig, clock)."""
    rig = make_rig(use_sim_time=True)
    rig.robot.use_clock(True)
    clock = ClockSource(rig.robot.node, request.param)
    rig.until(lambda: rig.robot.node.get_clock().now().nanoseconds > 0, "simulated time arrives")
    yield rig, clock
    clock.close()


def test_row_31_a_sparse_clock_is_tolerated(simulated):
    rig, _ = simulated
    robot = rig.start()
    tokens, statuses = len(robot.tokens), len(robot.statuses)
    rig.until(lambda: len(robot.tokens) > tokens + 10, "chunks come")
    assert not {"CLOCK_PAUSED", "CLOCK_JUMPED"} & {s["code"] for s in robot.statuses[statuses:]}


def test_row_28_a_jump_back_holds_and_goes_on_after_fresh_inputs(simulated):
    rig, clock = simulated
    robot = rig.start()
    count = len(robot.statuses)
    clock.now_ns -= 500_000_000_000
    rig.until(lambda: any(s["state"] == "holding" for s in robot.statuses[count:]), "the jump is noticed, by whichever input is first")
    rig.until_code("ACTING")
    assert "latched" not in {s.get("state") for s in robot.statuses[count:]}


def test_row_29_a_pause_is_waited_for_and_is_no_latch(simulated):
    rig, clock = simulated
    robot = rig.start()
    clock.paused = True
    rig.until_code("CLOCK_PAUSED")
    time.sleep(0.5)  # the answer to the last picture may still come: the worker keeps its period
    chunk = rig.node.session.runner.call(lambda loop, _: loop.chunk)
    time.sleep(1.5)
    assert robot.code == "CLOCK_PAUSED"
    assert rig.node.session.runner.call(lambda loop, _: loop.chunk) is chunk, "a chunk is not consumed during a pause"
    clock.paused = False
    rig.until_code("ACTING")


def test_deactivation_comes_to_rest_on_simulated_time(simulated):
    """The executor, which waits in the callback, must not be what moves the control thread's clock on."""
    rig, _ = simulated
    robot = rig.start()
    start = time.monotonic()
    rig.run(rig.node.trigger_deactivate)
    assert time.monotonic() - start < 2.5
    rig.until_at_rest()
    assert not rig.node.session.runner.output.is_commanded and robot.speed() < 1e-6
