# SPDX-License-Identifier: Apache-2.0
"""The control loop's answers to faults, on simulated time only."""

from __future__ import annotations

import numpy as np
import pytest
from vla_ros.core.testing import DT_NS, J, PERIOD_NS, FakeMotion, make_chunk, make_limits

from vla_ros.core.chunk import PutResult
from vla_ros.core.control import ControlConfig, ControlLoop, Watch
from vla_ros.core.errors import DecodeError, InputError, VlaError
from vla_ros.core.joints import JointMonitor
from vla_ros.core.safety import StatusCode
from vla_ros.core.states import ControlState

MS = 1_000_000


class Rig:
    """A loop with a perfect servo: the measured joints are the last command."""

    def __init__(self, *, workspace=None, motion=None, limits=None, start=None, **config) -> None:
        self.limits = limits or make_limits()
        self.motion = motion or FakeMotion(self.limits)
        self.config = ControlConfig(period_ns=PERIOD_NS, **config)
        self.loop = ControlLoop(config=self.config, limits=self.limits, motion=self.motion, workspace_excess_m=workspace)
        self.now_ns = 10**12
        self.outputs = []
        self.watch = Watch()
        self.joints = np.zeros(len(self.limits.velocity)) if start is None else np.array(start)
        self.loop.put_joints(self.now_ns, self.joints)

    def start(self, text: str = "push the red cube") -> Rig:
        self.loop.activate(0)
        if text:
            self.loop.set_instruction(text)
        return self

    def tick(self, count: int = 1, advance: bool = True):
        for _ in range(count):
            self.now_ns += PERIOD_NS if advance else 0
            output = self.loop.step(self.now_ns, self.watch)
            self.outputs.append(output)
            if self.watch.joint_age_ns == 0 and advance:
                self.joints = output.positions_J if output.is_commanded else self.joints
                self.loop.put_joints(self.now_ns, self.joints)
        return output

    def put(self, *, age_ns: int = 40 * MS, generation: int | None = None, **kwargs) -> PutResult:
        generation = self.loop.generation if generation is None else generation
        return self.loop.put_chunk(make_chunk(self.now_ns - age_ns, generation, **kwargs), self.now_ns)

    def act(self) -> Rig:
        self.start().tick()
        assert self.put() is PutResult.TAKEN
        assert self.tick(5).state is ControlState.ACTING
        return self

    def assert_smooth(self) -> None:
        """Every command is finite and inside velocity and acceleration limits, as differences of positions."""
        positions = np.array([o.positions_J for o in self.outputs if o.is_commanded])
        assert np.isfinite(positions).all()
        dt_s = PERIOD_NS * 1e-9
        velocity = np.diff(positions, axis=0) / dt_s
        assert (np.abs(velocity) <= self.limits.velocity + 1e-6).all()
        assert (np.abs(np.diff(velocity, axis=0)) / dt_s <= self.limits.acceleration * (1 + 1e-6) + 1e-6).all()

    def assert_stops(self, code: StatusCode, state: ControlState = ControlState.HOLDING) -> None:
        output = self.tick()
        assert (output.state, output.code) == (state, code)
        rest = self.tick(50)
        assert np.abs(rest.velocities_J).max() < 1e-6
        assert (rest.state, rest.code) == (state, code)
        self.assert_smooth()


def test_nothing_is_commanded_before_activation():
    rig = Rig()
    output = rig.tick()
    assert not output.is_commanded and output.code is StatusCode.INACTIVE


def test_activation_starts_from_the_measured_state():
    rig = Rig(start=[0.1, -0.2, 0.3]).start("")
    output = rig.tick()
    assert output.is_commanded and output.code is StatusCode.IDLE
    np.testing.assert_array_equal(output.positions_J, [0.1, -0.2, 0.3])


@pytest.mark.parametrize("start, age_ns, code", [([1.5, 0, 0], 0, "joints_outside_limits"), ([0, 0, 0], 200 * MS, "joints_stale")])
def test_activation_is_refused(start, age_ns, code):
    with pytest.raises(InputError) as error:
        Rig(start=start).loop.activate(age_ns)
    assert error.value.code == code


def test_activation_without_joints_is_refused():
    limits = make_limits()
    loop = ControlLoop(config=ControlConfig(), limits=limits, motion=FakeMotion(limits))
    with pytest.raises(InputError, match="driver"):
        loop.activate(0)


def test_an_instruction_while_inactive_is_ignored():
    rig = Rig()
    assert not rig.loop.set_instruction("go")
    rig.loop.activate(0)
    assert rig.loop.instruction == "" and not rig.loop.wants_inference


def test_the_reference_is_followed_to_the_end_and_then_held():
    rig = Rig().act()
    rig.tick(60)
    last = rig.outputs[-1]
    assert last.code is StatusCode.CHUNK_USED_UP
    np.testing.assert_allclose(last.positions_J, 0.25, atol=0.02)
    rig.assert_smooth()


def test_action_of_the_current_step_is_reported():
    rig = Rig().start()
    rig.tick()
    rig.put(age_ns=DT_NS + 10 * MS)
    output = rig.tick()
    np.testing.assert_array_equal(output.action_D, make_chunk(0, 0).actions_HD[1])


def test_elapsed_steps_are_dropped_and_a_late_chunk_is_refused():
    rig = Rig().start()
    rig.tick()
    assert rig.put(age_ns=5 * DT_NS) is PutResult.TOO_LATE
    assert rig.tick().state is ControlState.HOLDING
    assert rig.put(age_ns=4 * DT_NS + 50 * MS) is PutResult.TAKEN
    rig.tick(20)
    assert (rig.outputs[-1].positions_J > 0.05).all() and (rig.outputs[-1].positions_J < 0.25).all()
    rig.assert_smooth()


def test_a_newer_chunk_takes_over_without_a_jump():
    rig = Rig().act()
    rig.put(waypoints=np.full((5, J), -0.1))
    rig.tick(60)
    np.testing.assert_allclose(rig.outputs[-1].positions_J, -0.1, atol=0.02)
    rig.assert_smooth()


def test_an_older_observation_does_not_replace_a_newer_one():
    rig = Rig().act()
    assert rig.put(age_ns=400 * MS) is PutResult.NOT_NEWER


def test_instruction_change_flushes_and_late_chunks_never_act():
    rig = Rig().act()
    old = rig.loop.generation
    rig.loop.set_instruction("another")
    assert rig.loop.generation > old
    assert rig.put(generation=old) is PutResult.OLD_GENERATION
    rig.assert_stops(StatusCode.WAITING)


def test_the_same_instruction_again_changes_nothing():
    rig = Rig().act()
    old = rig.loop.generation
    rig.loop.set_instruction("  push the   red cube ")
    assert rig.loop.generation == old and rig.tick().state is ControlState.ACTING


def test_blank_instruction_holds_idle():
    rig = Rig().act()
    rig.loop.set_instruction(" \u202e\x00 ")
    rig.assert_stops(StatusCode.IDLE, ControlState.IDLE)


def test_stale_joints_hold_and_fresh_ones_ask_anew():
    rig = Rig().act()
    old = rig.loop.generation
    rig.watch = Watch(joint_age_ns=150 * MS)
    rig.assert_stops(StatusCode.JOINTS_STALE)
    during = rig.loop.generation
    rig.watch = Watch()
    assert rig.tick().code is StatusCode.WAITING
    assert rig.loop.generation > during > old
    assert rig.put(generation=during) is PutResult.OLD_GENERATION
    rig.put()
    assert rig.tick().state is ControlState.ACTING


def test_a_stalled_worker_holds():
    rig = Rig().act()
    rig.watch = Watch(worker_age_ns=2 * 10**9)
    rig.assert_stops(StatusCode.WORKER_STALLED)


def test_a_reason_from_outside_holds():
    rig = Rig().act()
    rig.watch = Watch(hold=StatusCode.IMAGE_LOST)
    rig.assert_stops(StatusCode.IMAGE_LOST)


def test_a_chunk_that_comes_while_held_does_not_act():
    rig = Rig().act()
    rig.watch = Watch(hold=StatusCode.IMAGE_LOST)
    rig.tick()
    rig.put()
    rig.assert_stops(StatusCode.IMAGE_LOST)


def test_e_stop_latches_until_resume():
    rig = Rig().act()
    old = rig.loop.generation
    rig.loop.set_e_stop(True)
    rig.assert_stops(StatusCode.E_STOP, ControlState.LATCHED)
    with pytest.raises(InputError) as error:
        rig.loop.resume()
    assert error.value.code == "e_stop_pressed"
    rig.loop.set_e_stop(False)
    rig.assert_stops(StatusCode.E_STOP, ControlState.LATCHED)
    assert rig.put(generation=old) is PutResult.OLD_GENERATION
    rig.loop.resume()
    assert rig.tick().code is StatusCode.WAITING
    rig.put()
    assert rig.tick().state is ControlState.ACTING


def test_e_stop_pressed_before_activation_latches_at_once():
    rig = Rig()
    rig.loop.set_e_stop(True)
    rig.loop.activate(0)
    assert rig.tick().state is ControlState.LATCHED


def test_stop_request_latches_and_an_instruction_does_not_release_it():
    rig = Rig().act()
    rig.loop.stop()
    rig.loop.set_instruction("go on")
    rig.assert_stops(StatusCode.STOPPED, ControlState.LATCHED)


def test_resume_while_moving_has_no_jump():
    rig = Rig().act()
    rig.loop.stop()
    rig.tick()
    rig.loop.resume()
    rig.tick(50)
    rig.assert_smooth()


def test_resume_starts_from_where_the_arm_was_moved_but_keeps_the_grip():
    rig = Rig().act()
    rig.loop.stop()
    rig.tick(50)
    held = rig.outputs[-1].positions_J
    moved = held + [0.3, 0.01, 0.0]
    rig.joints = moved
    rig.loop.put_joints(rig.now_ns + 10**9, moved)
    rig.loop.resume()
    rig.now_ns += 10**9
    np.testing.assert_allclose(rig.tick().positions_J, [moved[0], held[1], held[2]])


def carry(rig: Rig, by_J, ticks: int = 60) -> None:
    """Somebody moves the arm by hand, slower than its joints could."""
    start = rig.joints
    for i in range(ticks):
        rig.now_ns += PERIOD_NS
        rig.outputs.append(rig.loop.step(rig.now_ns, rig.watch))
        rig.joints = start + np.asarray(by_J) * min((i + 1) / 40, 1.0)
        rig.loop.put_joints(rig.now_ns, rig.joints)


def test_a_latched_arm_that_is_moved_is_left_alone_and_resume_starts_from_where_it_is():
    rig = Rig().act()
    rig.loop.stop()
    rig.tick(60)
    carry(rig, [0.4, 0.0, 0.0])
    output = rig.outputs[-1]
    assert not output.is_commanded and output.code is StatusCode.STOPPED and StatusCode.ARM_MOVED in output.warnings
    rig.loop.resume()
    rig.now_ns += PERIOD_NS
    resumed = rig.loop.step(rig.now_ns, rig.watch)
    assert resumed.is_commanded and StatusCode.ARM_MOVED not in resumed.warnings
    np.testing.assert_allclose(resumed.positions_J[0], rig.joints[0], atol=1e-9)


def test_a_stream_that_begins_elsewhere_pauses_first():
    """Resumed while the arm might still settle: readers see the stream end at rest and a new one begin."""
    rig = Rig().act()
    rig.loop.stop()
    while np.abs(rig.tick().velocities_J).max() > 1e-6:
        pass
    carry(rig, [0.4, 0.0, 0.0], ticks=20)
    before = rig.outputs[-1]
    assert before.is_commanded
    rig.loop.resume()
    outputs = [rig.tick() for _ in range(15)]
    pause = [o.is_commanded for o in outputs].index(True)
    assert pause >= 5 and all(o.is_commanded for o in outputs[pause:])
    np.testing.assert_allclose(outputs[pause].positions_J - before.positions_J, [0.2, 0.0, 0.0], atol=1e-9)


def test_resume_is_refused_outside_the_limits():
    rig = Rig(start=[0.9, 0.0, 0.0]).start()
    rig.loop.stop()
    rig.tick(60)
    carry(rig, [0.3, 0.0, 0.0])
    with pytest.raises(InputError) as error:
        rig.loop.resume()
    assert error.value.code == "joints_outside_limits"


def test_an_arm_that_sinks_at_once_after_a_stop_is_left_alone_too():
    rig = Rig().act()
    rig.loop.set_e_stop(True)
    while np.abs(rig.tick().velocities_J).max() > 1e-6:
        pass
    carry(rig, [0.0, -0.6, 0.0], ticks=100)
    assert not rig.outputs[-1].is_commanded


@pytest.mark.parametrize("instruction", ["", "go"])
def test_an_arm_that_is_moved_while_it_waits_latches(instruction):
    rig = Rig().start(instruction)
    rig.tick(60)
    old = rig.loop.generation
    carry(rig, [0.0, 0.2, 0.0], ticks=41)
    output = rig.outputs[-1]
    assert (output.state, output.code, output.is_commanded) == (ControlState.LATCHED, StatusCode.ARM_MOVED, False)
    assert rig.loop.generation == old + 1
    rig.loop.resume()
    np.testing.assert_allclose(rig.tick().positions_J[1], rig.joints[1])


def test_a_servo_that_hangs_below_its_command_is_not_taken_for_a_moved_arm():
    rig = Rig().start()
    sag = np.array([0.0, -0.12, 0.0])
    for _ in range(200):
        rig.now_ns += PERIOD_NS
        rig.joints = rig.joints + 0.2 * (sag - rig.joints)
        rig.loop.put_joints(rig.now_ns, rig.joints)
        output = rig.loop.step(rig.now_ns, rig.watch)
    assert output.is_commanded and output.state is ControlState.HOLDING


def test_a_finger_that_an_object_lets_go_may_spring_and_nothing_else_may():
    monitor = JointMonitor(np.full(3, 0.12), min_dt_s=0.02, velocity_factor=1.5, slack=0.01, gripper=2)
    monitor.accept(0, np.zeros(3))
    assert monitor.accept(20_000_000, np.array([0.0, 0.0, 0.03])).positions_J[2] == 0.03
    for joint in (0, 1):
        with pytest.raises(InputError, match=rf"joints \[{joint}\] moved"):
            monitor.accept(40_000_000, np.where(np.arange(3) == joint, 0.03, 0.0))
    with pytest.raises(InputError, match="not finite"):
        monitor.accept(40_000_000, np.array([0.0, 0.0, np.nan]))


def test_a_joint_jump_is_dropped_once_and_latches_when_repeated():
    rig = Rig().act()
    jumped = rig.joints + 0.5
    with pytest.raises(InputError):
        rig.loop.put_joints(rig.now_ns + 1, jumped)
    assert rig.tick().state is ControlState.ACTING
    for _ in range(2):
        with pytest.raises(InputError):
            rig.loop.put_joints(rig.now_ns + 1, jumped)
    assert rig.tick().code is StatusCode.JOINT_JUMP
    assert rig.loop.counts["joints_jump"] == 3


def test_a_nan_joint_state_is_dropped():
    rig = Rig().act()
    with pytest.raises(InputError) as error:
        rig.loop.put_joints(rig.now_ns + 1, np.array([np.nan, 0, 0]))
    assert error.value.code == "joints_not_finite"
    assert rig.tick().state is ControlState.ACTING


def test_clock_jump_back_flushes_and_holds_until_fresh_inputs():
    rig = Rig().act()
    old = rig.loop.generation
    rig.now_ns -= 10**10
    rig.assert_stops(StatusCode.CLOCK_JUMPED)
    assert rig.loop.generation > old
    rig.put()
    assert rig.tick().state is ControlState.ACTING


def test_a_paused_clock_consumes_no_chunk_and_latches_nothing():
    rig = Rig().act()
    rig.watch = Watch(joint_age_ns=0, worker_age_ns=0)
    assert rig.tick(5, advance=False).state is ControlState.ACTING
    rig.watch = Watch(joint_age_ns=10**10, worker_age_ns=10**10)
    paused = rig.tick(500, advance=False)
    assert paused.code is StatusCode.CLOCK_PAUSED and paused.state is ControlState.ACTING
    np.testing.assert_array_equal(rig.outputs[-1].positions_J, rig.outputs[-2].positions_J)
    rig.now_ns += 6 * PERIOD_NS
    assert rig.tick().state is ControlState.ACTING
    rig.watch = Watch()
    assert rig.tick().state is ControlState.ACTING


def test_a_clock_that_stops_stops_the_robot_and_hides_no_emergency_stop():
    rig = Rig().act()
    while np.abs(rig.tick().velocities_J).max() < 0.05:
        pass
    rig.loop.set_e_stop(True)
    halted = rig.tick(60, advance=False)
    assert (halted.state, halted.code) == (ControlState.LATCHED, StatusCode.E_STOP)
    assert np.abs(halted.velocities_J).max() < 1e-6
    rig.assert_smooth()


def test_a_paused_clock_repeats_no_velocity():
    rig = Rig().act()
    while np.abs(rig.tick().velocities_J).max() < 0.05:
        pass
    paused = rig.tick(60, advance=False)
    assert paused.code is StatusCode.CLOCK_PAUSED
    assert np.abs(paused.velocities_J).max() < 1e-6


def test_a_sparse_clock_is_carried_on():
    rig = Rig().act()
    for _ in range(6):
        rig.tick(4, advance=False)
        rig.now_ns += 4 * PERIOD_NS
        rig.tick()
    assert rig.outputs[-1].state is ControlState.ACTING
    rig.assert_smooth()


def test_the_task_ends_when_the_step_that_two_chunks_call_the_last_is_due():
    rig = Rig().act()
    rig.put(done=True)
    assert rig.tick().state is ControlState.ACTING
    rig.put()
    rig.tick()
    rig.put(done=True)
    assert not rig.tick().task_done
    rig.put(done=True)
    done_at_ns = rig.loop.chunk.due_ns(0)
    rig.tick()
    rig.put(done=True)  # says so of a later time, which puts nothing off
    while rig.now_ns + PERIOD_NS < done_at_ns:
        assert rig.tick().state is ControlState.ACTING
    rig.assert_stops(StatusCode.TASK_DONE, ControlState.IDLE)
    assert not rig.loop.wants_inference and rig.outputs[-1].task_done
    rig.loop.set_instruction("push the red cube")
    assert rig.tick().code is StatusCode.WAITING and not rig.outputs[-1].task_done


def test_joints_that_fell_silent_in_motion_are_no_moved_arm():
    """What was measured last is where the arm was before it stopped."""
    rig = Rig().act()
    rig.put(waypoints=np.repeat(0.2 * np.arange(1, 6)[:, None], J, axis=1))
    rig.tick(10)
    silent = rig.watch = Watch(joint_age_ns=10**9)
    for _ in range(200):
        rig.tick()
        assert rig.outputs[-1].code is StatusCode.JOINTS_STALE and rig.outputs[-1].state is ControlState.HOLDING
    assert rig.watch is silent and np.abs(rig.outputs[-1].positions_J - rig.joints).max() > 0.01
    rig.joints = rig.outputs[-1].positions_J
    rig.watch = Watch()
    assert rig.tick(20).state is ControlState.HOLDING and rig.outputs[-1].code is StatusCode.WAITING


def test_a_chunk_that_takes_it_back_goes_on():
    rig = Rig().act()
    for done in (True, True, False):
        rig.put(done=done)
        rig.tick()
    for _ in range(20):
        assert rig.tick().state is ControlState.ACTING
        rig.put()


def test_the_motion_that_goes_on_is_told():
    rig = Rig().start()
    rig.tick()
    np.testing.assert_array_equal(rig.loop.reference.sample(rig.now_ns)[0], rig.outputs[-1].positions_J)
    rig.put()
    chunk = rig.loop.chunk
    np.testing.assert_allclose(rig.loop.reference.sample(chunk.due_ns(1))[0], chunk.joint_positions_HJ[1])
    rig.tick(5)
    rig.loop.stop()
    rest = rig.loop.reference.sample(rig.now_ns + 10**9)[0]
    rig.tick(50)
    np.testing.assert_allclose(rest, rig.outputs[-1].positions_J, atol=0.02)  # where a stop ends at the latest


def test_rejected_chunks_latch_only_in_a_row():
    rig = Rig().act()
    bad = np.full((5, J), np.nan)
    for _ in range(2):
        with pytest.raises(DecodeError):
            rig.put(waypoints=bad)
        rig.tick()
    rig.put()
    rig.tick()
    for _ in range(3):
        rig.loop.reject_chunk(rig.loop.generation)
    rig.assert_stops(StatusCode.CHUNKS_REJECTED, ControlState.LATCHED)


def test_waypoints_outside_the_joint_limits_are_rejected():
    rig = Rig().act()
    with pytest.raises(DecodeError, match="joints"):
        rig.put(waypoints=np.full((5, J), 1.2))


def test_low_confidence_holds():
    rig = Rig(min_confidence=0.5).start()
    rig.tick()
    assert rig.put(confidence=0.3) is PutResult.NOT_CONFIDENT
    rig.assert_stops(StatusCode.LOW_CONFIDENCE)


def test_leaving_the_workspace_holds_and_coming_back_is_allowed():
    rig = Rig(workspace=lambda q: max(0.0, q[0] - 0.08)).act()
    rig.tick(20)
    assert rig.outputs[-1].code is StatusCode.WORKSPACE
    assert rig.outputs[-1].positions_J[0] < 0.15
    rig.tick(30)
    rig.put(waypoints=np.zeros((5, J)))
    rig.tick(40)
    np.testing.assert_allclose(rig.outputs[-1].positions_J, 0.0, atol=0.02)
    rig.assert_smooth()


def test_a_robot_at_the_edge_of_its_workspace_does_not_stick():
    """However often it was led out before, there is room for a way back that begins with a detour."""
    rig = Rig(workspace=lambda q: max(0.0, q[0] - 0.08)).act()
    for _ in range(3):
        rig.put(waypoints=np.full((5, J), 0.0899))
        rig.tick(80)
    assert 0.08 < rig.outputs[-1].positions_J[0] <= 0.0855, "a way out ends at half the margin"
    for _ in range(2):
        edge = rig.outputs[-1].positions_J[0]
        rig.put(waypoints=np.repeat([[edge + 0.001], [edge], [0.06], [0.03], [0.0]], J, axis=1))
        rig.tick(80)
    assert rig.outputs[-1].positions_J[0] < 0.01
    assert max(o.positions_J[0] for o in rig.outputs) <= 0.0905
    rig.assert_smooth()


def test_a_chunk_that_leads_out_for_a_moment_is_followed_again_afterwards():
    rig = Rig(workspace=lambda q: max(0.0, q[0] - 0.08)).act()
    generation, count = rig.loop.generation, len(rig.outputs)
    rig.put(waypoints=np.repeat([[0.05], [0.1], [0.06], [0.0], [0.0]], J, axis=1))
    rig.tick(45)
    passed = rig.outputs[count:]
    assert {o.code for o in passed} == {StatusCode.ACTING, StatusCode.WORKSPACE} and rig.loop.generation == generation
    assert {o.state for o in passed} == {ControlState.ACTING}
    assert max(o.positions_J[0] for o in passed) <= 0.0855
    np.testing.assert_allclose(rig.outputs[-1].positions_J, 0.0, atol=0.01)
    rig.assert_smooth()


def test_a_chunk_that_leads_out_for_good_is_given_up_and_the_policy_asked_anew():
    rig = Rig(workspace=lambda q: max(0.0, q[0] - 0.08)).act()
    generation = rig.loop.generation
    rig.put(waypoints=np.repeat([[0.1], [0.2], [0.3], [0.4], [0.5]], J, axis=1))
    first = next(i for i in range(60) if rig.tick().code is StatusCode.WORKSPACE)
    while rig.tick().state is ControlState.ACTING:
        pass
    lost_ns = (len(rig.outputs) - 7 - first) * PERIOD_NS
    assert rig.outputs[-1].code is StatusCode.WORKSPACE and rig.loop.generation == generation + 1
    assert rig.config.max_blocked_ns - PERIOD_NS <= lost_ns <= 2 * rig.config.max_blocked_ns
    rig.assert_stops(StatusCode.WORKSPACE)


def test_a_blocked_robot_does_not_shake():
    """It brakes for a while before it tries again."""
    rig = Rig(workspace=lambda q: max(0.0, q[0] - 0.08)).act()
    rig.put(waypoints=np.repeat([[0.1], [0.2], [0.3], [0.4], [0.5]], J, axis=1))
    rig.tick(60)
    codes = [o.code for o in rig.outputs]
    changes = sum(a is not b for a, b in zip(codes, codes[1:]) if StatusCode.WORKSPACE in (a, b))
    assert 0 < changes <= 2 * rig.config.max_blocked_ns / rig.config.blocked_brake_ns


def test_a_refused_instruction_holds_as_idle():
    rig = Rig().start()
    rig.loop.refuse_instruction(rig.loop.generation - 1, StatusCode.INSTRUCTION_TOO_LONG)
    assert rig.tick().code is StatusCode.WAITING
    rig.loop.refuse_instruction(rig.loop.generation, StatusCode.INSTRUCTION_TOO_LONG)
    rig.assert_stops(StatusCode.INSTRUCTION_TOO_LONG, ControlState.IDLE)


def test_a_poisoned_motion_generator_never_reaches_the_robot():
    rig = Rig().act()
    rig.motion.poison = True
    rig.assert_stops(StatusCode.INVALID_COMMAND, ControlState.FAULT)
    with pytest.raises(InputError):
        rig.loop.resume()
    rig.motion.poison = False
    rig.loop.deactivate()
    rig.loop.activate(0)
    assert rig.tick().state is ControlState.IDLE


def test_a_failing_motion_generator_holds_or_faults_but_never_raises():
    rig = Rig().act()
    rig.motion.fail_with = VlaError("no motion")
    rig.assert_stops(StatusCode.MOTION_FAILED)
    rig = Rig().act()
    rig.motion.fail_with = RuntimeError("bug")
    rig.assert_stops(StatusCode.INTERNAL_ERROR, ControlState.FAULT)
    assert rig.loop.counts["fault_RuntimeError"] == 1


def test_deactivation_decelerates_and_then_commands_nothing():
    rig = Rig().act()
    rig.loop.deactivate()
    assert rig.tick().is_commanded
    assert not rig.tick(50).is_commanded
    rig.assert_smooth()


def test_a_latch_outlives_deactivation_until_resume():
    rig = Rig().act()
    rig.loop.set_e_stop(True)
    rig.loop.set_e_stop(False)
    rig.tick(50)
    rig.loop.deactivate()
    rig.tick()
    rig.loop.activate(0)
    rig.loop.set_instruction("push the red cube")
    output = rig.tick()
    assert (output.state, output.code) == (ControlState.LATCHED, StatusCode.E_STOP)
    rig.loop.resume(0)
    assert rig.tick().state is ControlState.HOLDING


def test_frozen_joints_warn():
    rig = Rig(joints_frozen_after_ns=200 * MS).act()
    frozen = rig.joints
    for _ in range(15):
        rig.loop.put_joints(rig.now_ns, frozen)
        rig.now_ns += PERIOD_NS
        output = rig.loop.step(rig.now_ns, Watch())
    assert output.warnings == (StatusCode.JOINTS_FROZEN,)


def test_joints_that_stood_still_while_idle_do_not_count_as_frozen():
    rig = Rig(joints_frozen_after_ns=200 * MS).start("")
    for _ in range(200):  # an ideal encoder of a robot at rest
        rig.tick()
    rig.loop.set_instruction("go")
    rig.tick()
    rig.put()
    rig.tick(40)
    assert rig.outputs[-1].state is ControlState.ACTING
    assert not any(o.warnings for o in rig.outputs)


def test_joints_of_a_robot_that_is_told_to_stay_are_not_frozen():
    rig = Rig(joints_frozen_after_ns=200 * MS).start()
    for _ in range(40):
        rig.tick()
        rig.put(waypoints=np.zeros((5, J)))
    assert rig.outputs[-1].state is ControlState.ACTING and not any(o.warnings for o in rig.outputs)


def test_thousands_of_random_events_never_raise_and_stay_smooth():
    rng = np.random.default_rng(0)
    rig = Rig().start()
    for _ in range(3000):
        match_event(rig, int(rng.integers(12)), rng)
        rig.tick(int(rng.integers(1, 4)))
    assert np.isfinite([o.positions_J for o in rig.outputs]).all()
    assert (np.abs([o.velocities_J for o in rig.outputs]) <= rig.limits.velocity + 1e-6).all()
    assert {o.state for o in rig.outputs} >= {ControlState.ACTING, ControlState.HOLDING, ControlState.LATCHED, ControlState.IDLE}
    rig.assert_smooth()


def match_event(rig: Rig, event: int, rng: np.random.Generator) -> None:
    if event < 5:
        rig.put(age_ns=int(rng.integers(0, 10**9)), waypoints=rng.uniform(-1, 1, (5, J)), done=bool(rng.random() < 0.1))
    elif event == 5:
        rig.loop.set_instruction(str(rng.choice(["push", "pick", ""])))
    elif event == 6:
        rig.loop.set_e_stop(bool(rng.random() < 0.3))
    elif event == 7:
        rig.loop.stop()
    elif event in (8, 9):
        try:
            rig.loop.resume()
        except InputError:
            pass
    elif event == 10:
        rig.watch = Watch(hold=StatusCode.IMAGE_LOST if rng.random() < 0.5 else None)
    else:
        rig.loop.put_joints(rig.now_ns, rig.joints)
