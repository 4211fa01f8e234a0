# SPDX-License-Identifier: Apache-2.0
"""The control loop with the real motion generator, kinematics and limits of the tabletop arm."""

from __future__ import annotations

import numpy as np
import pytest

from vla_ros.core.chunk import ActionChunk
from vla_ros.core.control import ControlConfig, ControlLoop, Watch
from vla_ros.core.errors import InputError
from vla_ros.core.safety import StatusCode, box_excess_m
from vla_ros.core.states import ControlState
from vla_ros.robot import CollisionModel, Kinematics, RuckigMotion

PERIOD_NS = 20_000_000
DT_S = PERIOD_NS * 1e-9
_BETWEEN_SAMPLES_M = 0.0005  # what the tool strays from the chord between two looks at a stop: 2 m/s^2 * (0.3 s / 8)^2 / 8, rounded up


class Rig:
    """A loop whose measured joints follow the command with the lag of a first-order servo."""

    def __init__(self, robot, start=None) -> None:
        self.robot = robot
        kinematics = Kinematics(robot)
        self.excess_m = lambda q: box_excess_m(kinematics.fk(q)[0], robot.workspace_min, robot.workspace_max)
        self.loop = ControlLoop(
            config=ControlConfig(period_ns=PERIOD_NS),
            limits=robot.limits,
            motion=RuckigMotion(robot.limits, DT_S),
            workspace_excess_m=self.excess_m,
            collision_depth_m=CollisionModel(robot).depth_m,
        )
        self.now_ns, self.measured, self.outputs = 10**12, (robot.home if start is None else start).copy(), []
        self.loop.put_joints(self.now_ns, self.measured)
        self.loop.activate(0)
        self.loop.set_instruction("go")

    def tick(self, count=1, watch=None):
        for _ in range(count):
            self.now_ns += PERIOD_NS
            output = self.loop.step(self.now_ns, watch or Watch())
            self.outputs.append(output)
            self.measured = self.measured + 0.4 * (output.positions_J - self.measured)
            self.loop.put_joints(self.now_ns, self.measured)
        return output

    def put(self, waypoints_HJ, age_ns=100_000_000):
        steps = len(waypoints_HJ)
        chunk = ActionChunk(
            obs_stamp_ns=self.now_ns - age_ns,
            generation=self.loop.generation,
            dt_ns=200_000_000,
            actions_HD=np.zeros((steps, 6)),
            tokens_HD=np.zeros((steps, 6), np.int32),
            confidence_HD=np.ones((steps, 6), np.float32),
            joint_positions_HJ=np.asarray(waypoints_HJ),
            terminate_H=np.zeros(steps, bool),
        )
        return self.loop.put_chunk(chunk, self.now_ns)

    def random_waypoints(self, rng, spread):
        limits = self.robot.limits
        steps = np.cumsum(rng.normal(scale=spread, size=(5, 7)) * limits.velocity * 0.2, axis=0)
        return np.clip(self.outputs[-1].positions_J + steps, limits.position_min, limits.position_max)

    def assert_inside_limits(self):
        limits = self.robot.limits
        positions = np.array([o.positions_J for o in self.outputs])
        velocities = np.array([o.velocities_J for o in self.outputs])
        accelerations = np.array([o.accelerations_J for o in self.outputs])
        assert np.isfinite([positions, velocities, accelerations]).all()
        slack = 1 + 1e-6
        assert (np.abs(velocities) <= limits.velocity * slack).all()
        assert (np.abs(accelerations) <= limits.acceleration * slack).all()
        assert (np.abs(np.diff(accelerations, axis=0)) <= limits.jerk * DT_S * slack + 1e-9).all()
        assert (np.abs(np.diff(positions, axis=0)) <= limits.velocity * DT_S * slack).all()
        # What is said is what is done: position steps agree with the velocities (third order: jerk * dt^3 / 6 and below).
        error = np.diff(positions, axis=0) - 0.5 * (velocities[1:] + velocities[:-1]) * DT_S
        assert (np.abs(error) <= limits.jerk * DT_S**3 / 6 + 1e-9).all()
        assert (positions >= limits.position_min - 1e-3).all() and (positions <= limits.position_max + 1e-3).all()


@pytest.fixture
def rig(robot):
    return Rig(robot)


def test_a_steady_motion_is_followed_through_chunk_after_chunk(rig, robot):
    """Takeovers neither stop nor stutter: the slow joint keeps its velocity over ten chunks from lagging observations."""
    rig.tick(2)
    rate = np.zeros(7)
    rate[0] = 0.3  # rad/s
    start_ns = rig.now_ns
    for _ in range(10):
        due_s = (rig.now_ns - start_ns) * 1e-9 - 0.1 + 0.2 * np.arange(1, 6)
        rig.put(robot.home + due_s[:, None] * rate)
        rig.tick(10)
    velocities = np.array([o.velocities_J[0] for o in rig.outputs[60:]])
    assert velocities.min() > 0.29 and velocities.max() < 0.31
    assert rig.outputs[-1].state is ControlState.ACTING
    rig.assert_inside_limits()


@pytest.mark.parametrize("spread", [0.3, 1.0, 5.0])
def test_wild_chunks_never_break_a_limit_or_fault(rig, spread):
    rng = np.random.default_rng(int(spread * 10))
    rig.tick()
    for _ in range(120):
        rig.put(rig.random_waypoints(rng, spread), age_ns=int(rng.integers(0, 900_000_000)))
        rig.tick(int(rng.integers(1, 16)))
        if rng.random() < 0.1:
            rig.loop.stop()
            rig.tick(int(rng.integers(1, 20)))
            rig.loop.resume()
    assert not [name for name in rig.loop.counts if name.startswith("fault")], rig.loop.counts
    assert {o.state for o in rig.outputs} <= {ControlState.ACTING, ControlState.HOLDING, ControlState.LATCHED}
    assert ControlState.ACTING in {o.state for o in rig.outputs}
    rig.assert_inside_limits()


def test_a_hold_stops_within_what_the_limits_need(rig, robot):
    rig.tick(2)
    rig.put(robot.home + np.linspace(0.16, 0.8, 5)[:, None] * np.eye(7)[0])
    rig.tick(15)
    speed = abs(rig.outputs[-1].velocities_J[0])
    assert speed > 0.1
    before = len(rig.outputs)
    rig.tick(100, Watch(hold=StatusCode.IMAGE_LOST))
    moving = [i for i, o in enumerate(rig.outputs[before:]) if np.abs(o.velocities_J).max() > 1e-6]
    limits = robot.limits
    # from acceleration a: leave it (a/j), build and leave the deceleration (2 a/j), and v/a in between, plus two ticks
    worst_s = speed / limits.acceleration[0] + 3 * limits.acceleration[0] / limits.jerk[0] + 2 * DT_S
    assert (moving[-1] + 1) * DT_S <= worst_s
    rig.assert_inside_limits()


def test_the_tool_stays_in_the_workspace(rig, robot):
    rig.tick(2)
    down = robot.home.copy()
    down[1] += 1.0  # the shoulder leans forward, far below the table's plane
    path = robot.home + np.linspace(0.2, 1.0, 5)[:, None] * (down - robot.home)
    rig.put(path)
    rig.tick(60)
    assert {StatusCode.WORKSPACE, StatusCode.COLLISION} & {o.code for o in rig.outputs}
    assert max(rig.excess_m(o.positions_J) for o in rig.outputs) <= ControlConfig().workspace_margin_m + _BETWEEN_SAMPLES_M
    rig.assert_inside_limits()


def test_the_robot_never_moves_into_itself_or_the_table(rig, robot):
    """Joint-space chunks over the whole range, most of whose ends lie in a collision: no command ever does, nor would a stop from it."""
    model, rng = CollisionModel(robot), np.random.default_rng(7)
    rig.tick(2)
    for _ in range(60):
        goal = rng.uniform(robot.limits.position_min, robot.limits.position_max)
        start = rig.outputs[-1].positions_J
        rig.put(start + np.linspace(0.15, 0.75, 5)[:, None] * (goal - start), age_ns=20_000_000)
        rig.tick(int(rng.integers(5, 50)))
    assert StatusCode.COLLISION in {o.code for o in rig.outputs}
    assert rig.loop.counts["status_collision"] > 0
    assert max(model.depth_m(o.positions_J) for o in rig.outputs) <= 1e-9
    rig.assert_inside_limits()


def test_a_robot_that_stands_in_a_collision_may_move_out_of_it(robot):
    start = robot.home.copy()
    start[3:5] = [0.0, 2.5]  # the hand is folded back onto the wrist
    model = CollisionModel(robot)
    assert model.depth_m(start) > 0.0
    rig = Rig(robot, start=start)
    rig.tick(2)
    away = start + np.linspace(-0.16, -0.8, 5)[:, None] * np.eye(7)[4]
    rig.put(away, age_ns=20_000_000)
    rig.tick(60)
    assert model.depth_m(rig.outputs[-1].positions_J) == 0.0
    rig.assert_inside_limits()


def test_a_hundred_activations_leave_nothing_behind(rig):
    for _ in range(100):
        rig.tick(2)
        rig.loop.deactivate()
        rig.tick(3)
        try:
            rig.loop.activate(0)
        except InputError as error:
            pytest.fail(str(error))
    assert rig.loop.state is ControlState.IDLE


@pytest.mark.parametrize("step_m", [0.03, 0.05, 0.07, 0.10])
@pytest.mark.parametrize("loses_input", [False, True])
def test_a_fast_descent_stays_above_the_floor_of_the_workspace(rig, robot, step_m, loses_input):
    """The command itself, not only its reference, keeps the margin of the workspace, whatever the speed and whenever it stops.

    Joints come to rest one after the other, so that a stop follows no line: its whole way is looked at before the robot gets so fast.
    """
    kinematics = Kinematics(robot)
    joints = kinematics.ik(np.array([0.32, 0.0, 0.2]), 0.0, robot.home)
    waypoints = []
    for step in range(5):
        joints = kinematics.ik(np.array([0.32, 0.0, max(0.2 - step_m * (step + 1), robot.workspace_min[2])]), 0.0, joints)
        waypoints.append(joints)
    rig.tick(2)
    rig.put(waypoints, age_ns=20_000_000)
    for tick in range(80):
        lost = loses_input and tick >= 25
        rig.tick(watch=Watch(hold=StatusCode.IMAGE_LOST) if lost else None)
    excess_m = max(rig.excess_m(o.positions_J) for o in rig.outputs)
    assert excess_m <= ControlConfig().workspace_margin_m + _BETWEEN_SAMPLES_M
    rig.assert_inside_limits()
