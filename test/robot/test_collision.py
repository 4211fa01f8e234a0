# SPDX-License-Identifier: Apache-2.0
"""Clearance of the shipped arm: what is checked, and that MuJoCo finds the same contacts."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from vla_ros.core.paths import robot_config_path
from vla_ros.robot import CollisionModel, Kinematics, RobotDescription

ROBOT = RobotDescription.load(robot_config_path("tabletop_arm"))
MODEL = CollisionModel(ROBOT)


def test_home_and_the_working_heights_are_clear():
    kinematics, rng = Kinematics(ROBOT), np.random.default_rng(0)
    assert MODEL.depth_m(ROBOT.home) == 0.0
    for _ in range(200):
        xyz = rng.uniform([0.2, -0.3, ROBOT.workspace_min[2]], [0.5, 0.3, 0.2])
        joints_J = kinematics.ik(xyz, rng.uniform(-1.5, 1.5), ROBOT.home)
        joints_J[-1] = rng.uniform(ROBOT.gripper_closed, ROBOT.gripper_open)
        assert MODEL.depth_m(joints_J) == 0.0, xyz


def test_links_that_touch_by_construction_are_left_out():
    pairs = {frozenset(name.rsplit("_", 1)[0] for name in pair if name != "floor") for pair in MODEL.pair_names}
    for touching in ({"shoulder_link", "upper_arm_link"}, {"hand_link", "left_finger_link"}, {"left_finger_link", "right_finger_link"}):
        assert frozenset(touching) not in pairs
    assert frozenset({"hand_link", "base_link"}) in pairs
    assert ("base_link_0", "floor") not in MODEL.pair_names and ("hand_link_0", "floor") in MODEL.pair_names


def test_the_depth_below_the_table_is_in_metres():
    """The fingertips reach 5 mm beyond the tool: half the tool's depth below -5 mm."""
    kinematics = Kinematics(ROBOT)
    for height in (0.004, 0.0, -0.01):
        joints_J = kinematics.ik(np.array([0.35, 0.0, height]), 0.0, ROBOT.home)
        assert MODEL.depth_m(joints_J) == pytest.approx(0.005 - height, abs=5e-4)


def test_self_collisions_agree_with_mujoco():
    """MuJoCo's own collision detection on the same URDF; poses between the clearance and contact are not judged."""
    spec = mujoco.MjSpec.from_file(str(ROBOT.urdf_path))
    model = spec.compile()
    data = mujoco.MjData(model)
    watched = {frozenset(n.rsplit("_", 1)[0] for n in pair) for pair in MODEL.pair_names if "floor" not in pair}
    rng, seen = np.random.default_rng(1), set()
    for _ in range(400):
        joints_J = rng.uniform(ROBOT.limits.position_min, ROBOT.limits.position_max)
        for name, value in zip(ROBOT.joint_names, joints_J):
            data.qpos[model.joint(name).qposadr[0]] = value
        data.qpos[model.joint("right_finger_joint").qposadr[0]] = joints_J[-1]
        mujoco.mj_kinematics(model, data)
        mujoco.mj_collision(model, data)
        deepest = 0.0
        for contact in data.contact:
            bodies = frozenset(model.body(model.geom_bodyid[g]).name for g in contact.geom)
            if bodies in watched:
                deepest = min(deepest, contact.dist)
        collides = deepest < -1e-4
        if collides:
            assert MODEL.depth_m(joints_J) > 0.0
        seen.add(collides)
    assert seen == {True, False}


def test_inputs_are_not_written_to():
    joints_J = ROBOT.home.copy()
    MODEL.depth_m(joints_J)
    np.testing.assert_array_equal(joints_J, ROBOT.home)
