# SPDX-License-Identifier: Apache-2.0
import shutil

import numpy as np
import pytest

from vla_ros.core import tabletop
from vla_ros.core.errors import ConfigError
from vla_ros.core.paths import share_dir
from vla_ros.robot import RobotDescription

FOLDER = share_dir() / "config" / "robots"


@pytest.fixture
def copied(tmp_path):
    for name in ("tabletop_arm.yaml", "tabletop_arm.urdf"):
        shutil.copy(FOLDER / name, tmp_path)
    return tmp_path / "tabletop_arm.yaml"


def test_the_shipped_arm_is_the_contract_of_the_core():
    robot = RobotDescription.load(FOLDER / "tabletop_arm.yaml")
    assert robot.joint_names == tabletop.JOINT_NAMES
    assert (robot.base_frame, robot.tool_frame, robot.gripper_open) == (tabletop.BASE_FRAME, tabletop.TOOL_FRAME, tabletop.GRIPPER_OPEN_M)
    assert np.all(robot.home > robot.limits.position_min - 1e-12) and np.all(robot.home < robot.limits.position_max + 1e-12)


@pytest.mark.parametrize(("old", "new", "message"), [
    ("arm_joints:", "arms:", "no key 'arm_joints'"),
    ("  - elbow_joint", "  - knee_joint", "no limits for knee_joint"),
    ("max_velocity: 1.6", "max_velocity: -1", "must be positive"),
    ("max_jerk: 150.0", "max_jerk: .nan", "must be positive and finite"),
    ("tabletop_arm.urdf  ", "nothing.urdf  ", "cannot be read"),
    ("joint_limits:", "following: {closing: 1.5}\njoint_limits:", "closing must lie between 0 and 1"),
    ("joint_limits:", "following: {rate: 30}\njoint_limits:", "valid are closing, max_rate"),
])
def test_a_wrong_description_is_refused_with_what_is_wrong(copied, old, new, message):
    copied.write_text(copied.read_text().replace(old, new, 1))
    with pytest.raises(ConfigError, match=message):
        RobotDescription.load(copied)


def test_a_missing_file_is_refused_with_an_example(tmp_path):
    with pytest.raises(ConfigError, match="config/robots/tabletop_arm.yaml"):
        RobotDescription.load(tmp_path / "none.yaml")


def test_limits_cannot_be_changed():
    robot = RobotDescription.load(FOLDER / "tabletop_arm.yaml")
    with pytest.raises(ValueError):
        robot.limits.velocity[0] = 100.0
