# SPDX-License-Identifier: Apache-2.0
import mujoco
import numpy as np
import pytest

from vla_ros.core.paths import share_dir
from vla_ros.robot import Kinematics, KinematicsError, RobotDescription

ROBOT = RobotDescription.load(share_dir() / "config" / "robots" / "tabletop_arm.yaml")
KINEMATICS = Kinematics(ROBOT)


@pytest.mark.parametrize("seed", range(20))
def test_ik_is_the_inverse_of_fk(seed):
    rng = np.random.default_rng(seed)
    xyz, yaw = rng.uniform([0.22, -0.24, 0.02], [0.48, 0.24, 0.30]), rng.uniform(-1.5, 1.5)
    joints = KINEMATICS.ik(xyz, yaw, ROBOT.home)
    position, rotation = KINEMATICS.fk(joints)
    np.testing.assert_allclose(position, xyz, atol=1e-4)
    np.testing.assert_allclose(rotation[:, 2], [0, 0, -1], atol=2e-3)
    assert KINEMATICS.tool_yaw(joints) == pytest.approx(yaw, abs=2e-3)
    assert joints[-1] == ROBOT.home[-1]
    assert np.all(joints >= ROBOT.limits.position_min) and np.all(joints <= ROBOT.limits.position_max)


@pytest.mark.parametrize("seed", range(5))
def test_fk_agrees_with_mujoco(seed):
    model = mujoco.MjModel.from_xml_path(str(ROBOT.urdf_path))
    data = mujoco.MjData(model)
    rng = np.random.default_rng(seed)
    joints = rng.uniform(ROBOT.limits.position_min, ROBOT.limits.position_max)
    for name, value in zip(ROBOT.joint_names, joints):
        data.qpos[model.joint(name).qposadr[0]] = value
    mujoco.mj_kinematics(model, data)
    position, rotation = KINEMATICS.fk(joints)
    np.testing.assert_allclose(position, data.body("tool_link").xpos, atol=1e-9)
    np.testing.assert_allclose(rotation.ravel(), data.body("tool_link").xmat, atol=1e-9)


def test_out_of_reach_is_an_error_that_names_the_place():
    with pytest.raises(KinematicsError, match=r"cannot reach \[0.9, 0.0, 0.1\]"):
        KINEMATICS.ik(np.array([0.9, 0.0, 0.1]), 0.0, ROBOT.home)


def test_inputs_are_not_written_to():
    seed = ROBOT.home.copy()
    KINEMATICS.ik(np.array([0.3, 0.1, 0.1]), 0.2, seed)
    np.testing.assert_array_equal(seed, ROBOT.home)
