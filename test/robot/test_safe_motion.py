# SPDX-License-Identifier: Apache-2.0
"""The checks of the whole stop with the real arm, against slow ones that share no code with them: every pair's distance, the tool by hand."""

from __future__ import annotations

import coal
import numpy as np
import pinocchio
import pytest

from vla_ros.core.chunk import ActionChunk
from vla_ros.core.control import ControlConfig, ControlLoop, Watch
from vla_ros.core.danger import PathCheck
from vla_ros.core.paths import robot_config_path
from vla_ros.core.safety import StatusCode
from vla_ros.robot import CollisionModel, Kinematics, KinematicsError, RobotDescription, RuckigMotion, Workspace

ROBOTS = ("tabletop_arm", "ur5e", "franka", "so101")
ARM = RobotDescription.load(robot_config_path("tabletop_arm"))
MARGIN_M = ControlConfig().workspace_margin_m
GJK_M = 2e-6  # two searches for the same distance, each to Coal's 1e-6
EPA_M = 1e-5  # depths of penetration: of a plane in closed form, of the reference's box by a search that ends between 1e-6 and 1e-5
BOX_M = 0.4  # deeper in the reference's box of 1 m than this the way out is through its bottom
BETWEEN_M = 0.0005  # what the tool strays from the chord between two looks at a stop: 2 m/s^2 * (0.3 s / 8)^2 / 8, rounded up
PERIOD_NS = 20_000_000


class Reference:
    """All distances of all pairs, the table as a thick box, and the tool's position from the kinematics."""

    def __init__(self, robot):
        self._robot, self._kinematics = robot, Kinematics(robot)
        self._model = pinocchio.buildModelFromUrdf(str(robot.urdf_path))
        self._geometry = pinocchio.buildGeomFromUrdf(self._model, str(robot.urdf_path), pinocchio.GeometryType.COLLISION)
        links = {g.name: i for i, g in enumerate(self._geometry.geometryObjects)}
        box = coal.Box(10.0, 10.0, 1.0)
        place = pinocchio.SE3(np.eye(3), np.array([0.0, 0.0, (robot.floor_height or 0.0) - 0.5]))
        links["floor"] = self._geometry.addGeometryObject(pinocchio.GeometryObject("floor", 0, 0, place, box))
        self._clearances = []
        for first, second in CollisionModel(robot).pair_names:
            self._geometry.addCollisionPair(pinocchio.CollisionPair(links[first], links[second]))
            self._clearances.append(0.0 if second == "floor" else robot.self_clearance)
        self._data, self._geometry_data = self._model.createData(), self._geometry.createData()

    def depth_m(self, joints_J):
        values = dict(zip(self._robot.joint_names, joints_J))
        values |= {name: factor * values[leader] + offset for name, (leader, factor, offset) in self._robot.mimics.items()}
        q = pinocchio.neutral(self._model)
        for name, value in values.items():
            q[self._model.joints[self._model.getJointId(name)].idx_q] = value
        pinocchio.computeDistances(self._model, self._data, self._geometry, self._geometry_data, q)
        return max(0.0, *(c - r.min_distance for c, r in zip(self._clearances, self._geometry_data.distanceResults)))

    def excess_m(self, joints_J):
        tool = self._kinematics.fk(joints_J)[0]
        return max(0.0, (self._robot.workspace_min - tool).max(), (tool - self._robot.workspace_max).max())


@pytest.mark.parametrize("name", ROBOTS)
def test_depths_are_those_of_the_slow_check(name):
    robot = RobotDescription.load(robot_config_path(name))
    slow, model, workspace, rng = Reference(robot), CollisionModel(robot), Workspace(robot), np.random.default_rng(0)
    limits, seen = robot.limits, set()
    for _ in range(400):
        anywhere = rng.uniform(limits.position_min, limits.position_max)
        joints_J = anywhere if rng.random() < 0.5 else np.clip(robot.home + rng.normal(0.0, 0.3, len(anywhere)), limits.position_min, limits.position_max)
        depth_m = model.depth_m(joints_J)
        slow_m = slow.depth_m(joints_J)
        assert (depth_m > 0.0 or slow_m <= GJK_M) and (slow_m > 0.0 or depth_m <= GJK_M)
        assert min(depth_m, BOX_M) == pytest.approx(min(slow_m, BOX_M), abs=EPA_M, rel=1e-4)
        assert workspace.excess_m(joints_J) == pytest.approx(slow.excess_m(joints_J), abs=1e-12)
        seen.add((depth_m > 0.0, workspace.excess_m(joints_J) > 0.0))
    assert {deep for deep, _ in seen} == {out for _, out in seen} == {True, False}


class Rig:
    """The arm with a perfect servo; every path that is judged is judged by the slow check, too."""

    def __init__(self, monkeypatch, start=ARM.home):
        self.slow = Reference(ARM)
        self.paths = self.refused = 0
        config = ControlConfig(period_ns=PERIOD_NS)
        self.loop = ControlLoop(
            config=config,
            limits=ARM.limits,
            motion=RuckigMotion(ARM.limits, config.period_s),
            workspace_excess_m=Workspace(ARM).excess_m,
            collision_depth_m=CollisionModel(ARM).depth_m,
        )
        fast = PathCheck.of
        monkeypatch.setattr(PathCheck, "of", lambda check, *arguments: self.compare(fast(check, *arguments), *arguments))
        self.now_ns, self.outputs = 10**12, []
        self.loop.put_joints(self.now_ns, start)
        self.loop.activate(0)
        self.loop.set_instruction("go")
        self.tick()

    def compare(self, code, path_NJ, now_J, _):
        """What passes is inside the widest bounds of the rule, what is refused is outside the narrowest."""
        self.paths += 1
        excess_m, now_excess_m = max(map(self.slow.excess_m, path_NJ)), self.slow.excess_m(now_J)
        depth_m, now_depth_m = max(map(self.slow.depth_m, path_NJ)), self.slow.depth_m(now_J)
        if code is None:
            assert excess_m <= max(MARGIN_M, now_excess_m) + 1e-9
            assert depth_m <= now_depth_m + GJK_M
        else:
            self.refused += 1
            assert excess_m > max(0.5 * MARGIN_M, now_excess_m) - 1e-9 or depth_m > now_depth_m - GJK_M
        return code

    def tick(self, count=1, hold=None):
        for _ in range(count):
            self.now_ns += PERIOD_NS
            self.outputs.append(self.loop.step(self.now_ns, Watch(hold=hold)))
            self.loop.put_joints(self.now_ns, self.position)

    @property
    def position(self):
        return self.outputs[-1].positions_J

    def put(self, waypoints_HJ):
        steps = len(waypoints_HJ)
        chunk = ActionChunk(
            obs_stamp_ns=self.now_ns - PERIOD_NS,
            generation=self.loop.generation,
            dt_ns=200_000_000,
            actions_HD=np.zeros((steps, 6)),
            tokens_HD=np.zeros((steps, 6), np.int32),
            confidence_HD=np.ones((steps, 6), np.float32),
            joint_positions_HJ=np.clip(waypoints_HJ, ARM.limits.position_min, ARM.limits.position_max),
            terminate_H=np.zeros(steps, bool),
        )
        self.loop.put_chunk(chunk, self.now_ns)


@pytest.mark.parametrize("seed", range(3))
def test_random_motions_are_judged_as_by_the_slow_check_and_no_command_breaks_its_bounds(monkeypatch, seed):
    rig, rng = Rig(monkeypatch), np.random.default_rng(seed)
    for _ in range(25):
        if rng.random() < 0.5:
            goal_J = rng.uniform(ARM.limits.position_min, ARM.limits.position_max)
            rig.put(rig.position + np.linspace(0.1, 0.5, 5)[:, None] * (goal_J - rig.position))
        else:
            rig.put(rig.position + np.cumsum(rng.normal(0.0, 0.15, (5, 7)) * [1, 1, 1, 1, 1, 1, 0.05], axis=0))
        rig.tick(int(rng.integers(4, 30)), hold=StatusCode.IMAGE_LOST if rng.random() < 0.2 else None)
    assert rig.paths > 100 and rig.refused > 3
    for output in rig.outputs:
        assert rig.slow.excess_m(output.positions_J) <= MARGIN_M + BETWEEN_M
        assert rig.slow.depth_m(output.positions_J) <= GJK_M


FACES = [(axis, side) for axis in range(3) for side in (-1, 1)]


@pytest.mark.parametrize("axis, side", FACES)
@pytest.mark.parametrize("seed", range(2))
def test_the_arm_comes_back_from_every_face_of_its_workspace(monkeypatch, axis, side, seed):
    """A policy leads it out again and again, step by step, and then back with noise and a first step that leads out a little more."""
    kinematics, rng = Kinematics(ARM), np.random.default_rng(seed)
    middle, face = 0.5 * (ARM.workspace_min + ARM.workspace_max), (ARM.workspace_min if side < 0 else ARM.workspace_max)[axis]
    start = middle.copy()
    start[axis] = face - side * 0.03
    rig = Rig(monkeypatch, start=kinematics.ik(start, 0.0, ARM.home))

    def lead(steps_m):
        """Waypoints at these distances outside the face, each with a little noise."""
        waypoints, seed_J = [], rig.position
        tool = kinematics.fk(rig.position)[0]
        for outside_m in steps_m:
            target = tool + rng.normal(0.0, 0.001, 3)
            target[axis] = face + side * outside_m
            seed_J = kinematics.ik(target, kinematics.tool_yaw(rig.position), seed_J)
            waypoints.append(seed_J)
        return waypoints

    def outside_m():
        return side * (kinematics.fk(rig.position)[0][axis] - face)

    for reach_m in (0.004, 0.0095, 0.0095, 0.02):
        try:
            rig.put(lead(np.linspace(max(outside_m(), -0.02), reach_m, 5)))
        except KinematicsError:  # beyond the arm's reach
            continue
        rig.tick(60)
    edge_m = outside_m()
    assert edge_m > -0.025
    for _ in range(3):
        rig.put(lead([edge_m + 0.001, edge_m, edge_m - 0.01, edge_m - 0.03, edge_m - 0.05]))
        rig.tick(60)
        edge_m = outside_m()
    assert edge_m < -0.02, "it is stuck"
    assert max(rig.slow.excess_m(o.positions_J) for o in rig.outputs) <= MARGIN_M + BETWEEN_M
