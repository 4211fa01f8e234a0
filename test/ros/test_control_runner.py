# SPDX-License-Identifier: Apache-2.0
"""What the control thread does each period, without ROS and without a thread."""

from __future__ import annotations

import numpy as np
import pytest

from vla_ros.core.chunk import ActionChunk
from vla_ros.core.control import ControlConfig, ControlLoop
from vla_ros.core.errors import InputError
from vla_ros.core.paths import robot_config_path
from vla_ros.core.safety import StatusCode
from vla_ros.robot import RobotDescription, RuckigMotion
from vla_ros.ros.control_runner import ControlRunner, TickSinks
from vla_ros.ros.joint_states import JointSample

_ROBOT = RobotDescription.load(robot_config_path("tabletop_arm"))
_PERIOD_NS = 20_000_000


class Inputs:
    """A robot at ``position_J`` whose joint states are always fresh; ``pending`` instructions are given one a period, ``e_stops`` at once."""

    def __init__(self):
        self.sample, self.joint_age_ns, self.pending, self.e_stops = None, 0, [], []
        self.position_J = _ROBOT.home

    def apply(self, loop, now_ns):
        while self.e_stops:
            loop.set_e_stop(self.e_stops.pop(0))
        self.sample = JointSample(stamp_ns=now_ns, positions_J=self.position_J, velocities_J=np.zeros(7), velocity_is_derived=False)
        try:
            loop.put_joints(now_ns, self.position_J)
        except InputError:  # a jump is dropped, as in the node
            pass
        if self.pending:
            loop.set_instruction(self.pending.pop(0))


class Link:
    """A worker that answers with what a test puts into ``answers``."""

    def __init__(self):
        self.answers, self.sent, self.age_ns, self.hold = [], [], 0, None

    def update(self):
        """Nothing to take."""

    def send(self, loop, joints, now_ns):
        self.sent.append((loop.generation, loop.instruction, loop.wants_inference))

    def receive(self):
        return self.answers.pop(0) if self.answers else None

    def apply_refusals(self, loop):
        """Nothing was refused."""


class Bench:
    """A runner and everything that it said."""

    def __init__(self):
        self.now_ns, self.commands, self.chunks, self.edges, self.drops = 10**12, [], [], [], []
        config = ControlConfig(period_ns=_PERIOD_NS)
        loop = ControlLoop(config=config, limits=_ROBOT.limits, motion=RuckigMotion(_ROBOT.limits, config.period_s))
        self.inputs, self.link = Inputs(), Link()
        sinks = TickSinks(
            command=self.commands.append, chunk=self.chunks.append, edge=self.edges.append, drop=lambda code, _: self.drops.append(code)
        )
        self.runner = ControlRunner(loop, self.link, self.inputs, lambda: self.now_ns, sinks)

    def tick(self, count=1):
        for _ in range(count):
            self.now_ns += _PERIOD_NS
            self.runner.tick(self.now_ns)

    def act(self, **fields):
        """Activates, instructs and answers; returns the chunk."""
        self.tick()
        future = self.runner.post(lambda loop, age: loop.activate(age))
        self.tick()
        future.result(0)
        self.inputs.pending.append("go")
        self.tick()
        chunk = self.chunk(**fields)
        self.link.answers.append(chunk)
        self.tick()
        return chunk

    def chunk(self, age_ns=0, step_J=(0.02, 0, 0, 0, 0, 0, 0)):
        waypoints = _ROBOT.home + np.arange(1, 6)[:, None] * np.asarray(step_J, dtype=np.float64)
        return ActionChunk(
            obs_stamp_ns=self.now_ns - age_ns,
            generation=self.link.sent[-1][0],
            dt_ns=200_000_000,
            actions_HD=np.zeros((5, 6)),
            tokens_HD=np.zeros((5, 6), np.int32),
            confidence_HD=np.ones((5, 6), np.float32),
            joint_positions_HJ=waypoints,
            terminate_H=np.zeros(5, bool),
        )


def test_nothing_is_commanded_before_activation():
    bench = Bench()
    bench.tick(5)
    assert not bench.commands and bench.edges[-1].code is StatusCode.INACTIVE


def test_a_chunk_is_followed_and_reported_once():
    bench = Bench()
    chunk = bench.act()
    bench.tick(20)
    assert bench.chunks == [chunk]
    assert bench.commands[-1].positions_J[0] > _ROBOT.home[0] + 0.005
    assert [e.code.name for e in bench.edges] == ["INACTIVE", "IDLE", "WAITING", "ACTING"]


def test_the_worker_is_told_every_period():
    bench = Bench()
    bench.act()
    assert len(bench.link.sent) == 4
    assert bench.link.sent[-1][1:] == ("go", True)


def test_an_answer_that_is_no_motion_is_reported_and_not_followed():
    bench = Bench()
    bench.act(step_J=(np.nan,) * 7)
    bench.tick(5)
    assert bench.drops == ["chunk_rejected"] and not bench.chunks
    np.testing.assert_array_equal(bench.commands[-1].positions_J, _ROBOT.home)


def test_row_48_an_answer_that_is_too_late_is_reported():
    bench = Bench()
    bench.act(age_ns=2_000_000_000)
    assert bench.drops == ["chunk_too_late"] and not bench.chunks


def test_row_50_an_answer_to_an_older_generation_never_acts():
    bench = Bench()
    bench.act()
    late = bench.chunk()
    bench.inputs.e_stops.append(True)
    bench.tick()
    bench.link.answers.append(late)
    bench.tick(50)
    assert len(bench.chunks) == 1 and np.abs(bench.commands[-1].velocities_J).max() < 1e-9


def test_a_press_latches_even_if_a_release_follows_in_the_same_period():
    bench = Bench()
    bench.act()
    bench.inputs.e_stops += [True, False]
    bench.tick()
    assert bench.edges[-1].code is StatusCode.E_STOP


def test_the_last_command_is_the_one_at_rest():
    bench = Bench()
    bench.act()
    bench.tick(20)
    bench.runner.post(lambda loop, _: loop.deactivate())
    bench.tick(100)
    assert np.abs(bench.commands[-1].velocities_J).max() < 1e-9
    count = len(bench.commands)
    bench.tick(10)
    assert len(bench.commands) == count


def test_an_arm_that_was_found_elsewhere_never_makes_the_command_jump():
    """The measurement is suddenly elsewhere and somebody resumes at once: the stream pauses, and only then begins where the arm is."""
    bench = Bench()
    bench.act()
    bench.tick(60)
    bench.inputs.e_stops += [True, False]
    bench.tick(20)
    bench.inputs.position_J = bench.commands[-1].positions_J + np.array([0.5, 0, 0, 0, 0, 0, 0])
    bench.tick(4)  # dropped as a jump, and then believed
    count, before = len(bench.commands), bench.commands[-1].positions_J
    bench.runner.post(lambda loop, _: loop.resume())
    bench.tick(5)
    assert len(bench.commands) == count, "a pause, which readers take for the end of the stream"
    bench.tick(10)
    np.testing.assert_allclose(bench.commands[count].positions_J, before + np.array([0.5, 0, 0, 0, 0, 0, 0]), atol=0.02)


def test_a_call_returns_what_the_loop_raised_and_the_period_goes_on():
    bench = Bench()
    future = bench.runner.post(lambda loop, _: loop.resume())
    other = bench.runner.post(lambda *_: 1 / 0)
    bench.tick()
    assert isinstance(future.exception(0), InputError) and isinstance(other.exception(0), ZeroDivisionError)
    assert bench.runner.output is not None


def test_a_silent_control_thread_is_told_to_the_caller():
    with pytest.raises(InputError) as caught:
        Bench().runner.call(lambda *_: None, timeout_s=0.01)
    assert caught.value.code == "control_thread_silent"
