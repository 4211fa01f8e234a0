# SPDX-License-Identifier: Apache-2.0
"""Joint positions from link poses: what MuJoCo's kinematics makes of joint positions is read back."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from vla_ros.sim.gazebo.joints import JointReader
from vla_ros.sim.gazebo.plan import ScenePlan


@pytest.fixture(scope="module")
def plan():
    plan = ScenePlan()
    plan.reset(0, settle=False)
    return plan


@pytest.mark.parametrize("seed", range(5))
def test_positions_are_those_that_made_the_poses(plan, seed):
    robot, reader = plan.robot, JointReader(plan.robot)
    joints = np.random.default_rng(seed).uniform(robot.limits.position_min, robot.limits.position_max)
    plan.place_arm(joints)
    poses = {name: (plan.data.body(name).xpos.copy(), plan.data.body(name).xquat.copy()) for name in reader.links}
    np.testing.assert_allclose(reader.positions(poses), joints, atol=1e-9)


def test_positions_do_not_depend_on_the_frame_nor_on_a_quaternions_sign(plan):
    reader, joints = JointReader(plan.robot), plan.robot.home
    plan.place_arm(joints)
    turn, moved = np.zeros(4), {}
    mujoco.mju_axisAngle2Quat(turn, np.array([0.6, 0.0, 0.8]), 1.1)
    for name in reader.links:
        position, quaternion = np.zeros(3), np.zeros(4)
        mujoco.mju_rotVecQuat(position, plan.data.body(name).xpos, turn)
        mujoco.mju_mulQuat(quaternion, turn, plan.data.body(name).xquat)
        moved[name] = (position + [0.3, -1.0, 0.2], -quaternion)
    np.testing.assert_allclose(reader.positions(moved), joints, atol=1e-9)
