# SPDX-License-Identifier: Apache-2.0
"""Every robot in config/robots: complete, inside its vendor's limits, and with the kinematics that the vendor publishes."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from vla_ros.core.paths import robot_config_path, share_dir
from vla_ros.robot import CollisionModel, Kinematics, RobotDescription, RuckigMotion

ROBOTS = sorted(path.stem for path in (share_dir() / "config" / "robots").glob("*.yaml"))
VENDORS = ("ur5e", "franka", "so101")
_DT_S = 0.02


@pytest.fixture(scope="module", params=ROBOTS)
def robot(request):
    return RobotDescription.load(robot_config_path(request.param))


def test_the_vendors_arms_are_there():
    assert {"tabletop_arm", *VENDORS} <= set(ROBOTS)


def test_it_is_found_by_its_name(robot):
    assert robot_config_path(robot.name).stem == robot.name


def test_home_is_inside_limits_and_workspace_points_down_and_is_free(robot):
    limits, (position, rotation) = robot.limits, Kinematics(robot).fk(robot.home)
    assert np.all(robot.home >= limits.position_min) and np.all(robot.home <= limits.position_max)
    assert np.all(position >= robot.workspace_min) and np.all(position <= robot.workspace_max)
    np.testing.assert_allclose(rotation[:, 2], [0.0, 0.0, -1.0], atol=2e-3)
    assert abs(Kinematics(robot).tool_yaw(robot.home)) < 2e-3
    assert CollisionModel(robot).depth_m(robot.home) == 0.0


@pytest.mark.parametrize("name", VENDORS)  # the embedded simulator's arm has tests of its own
def test_the_tool_moves_about_the_middle_of_the_workspace_without_touching_itself_or_the_table(name):
    robot = RobotDescription.load(robot_config_path(name))
    kinematics, collisions = Kinematics(robot), CollisionModel(robot)
    middle, reach = 0.5 * (robot.workspace_min + robot.workspace_max), 0.3 * (robot.workspace_max - robot.workspace_min)
    for corner in np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, -1).T:
        for yaw in (-0.3, 0.3):
            joints = kinematics.ik(middle + corner * reach, yaw, robot.home)
            np.testing.assert_allclose(kinematics.fk(joints)[0], middle + corner * reach, atol=1e-4)
            assert collisions.depth_m(joints) == 0.0, (robot.name, corner, yaw)


def test_gripper_positions_are_inside_its_limits(robot):
    low, high = robot.limits.position_min[-1], robot.limits.position_max[-1]
    assert all(low <= value <= high for value in (robot.gripper_open, robot.gripper_closed)) and robot.gripper_open != robot.gripper_closed


def test_configured_velocities_stay_below_the_urdf(robot):
    root = ElementTree.parse(robot.urdf_path).getroot()
    allowed = {joint.get("name"): joint.find("limit") for joint in root.iter("joint")}
    for j, name in enumerate(robot.joint_names):
        assert robot.limits.velocity[j] <= float(allowed[name].get("velocity")) and float(allowed[name].get("effort")) > 0.0


def test_a_motion_inside_the_limits_is_found_at_the_control_rate(robot):
    motion = RuckigMotion(robot.limits, _DT_S)
    motion.reset(robot.home)
    target = np.clip(robot.home + 0.02, robot.limits.position_min, robot.limits.position_max)
    for _ in range(200):
        motion.track(target, np.zeros(len(target)))
    np.testing.assert_allclose(motion.position, target, atol=1e-4)


def test_the_urdf_is_one_tree_of_its_own_frames(robot):
    root = ElementTree.parse(robot.urdf_path).getroot()
    links = {link.get("name") for link in root.iter("link")}
    children = [joint.find("child").get("link") for joint in root.findall("joint")]
    assert {robot.base_frame, robot.tool_frame} <= links
    assert len(children) == len(set(children)) and len(links - set(children)) == 1 and not list(root.iter("mesh"))


# ---- published kinematics, by a second way ----


def _standard_dh(a, d, alpha, theta):
    """Denavit and Hartenberg 1955."""
    ct, st, ca, sa = np.cos(theta), np.sin(theta), np.cos(alpha), np.sin(alpha)
    return np.array([[ct, -st * ca, st * sa, a * ct], [st, ct * ca, -ct * sa, a * st], [0, sa, ca, d], [0, 0, 0, 1]])


def _modified_dh(a, d, alpha, theta):
    """Craig's convention."""
    ct, st, ca, sa = np.cos(theta), np.sin(theta), np.cos(alpha), np.sin(alpha)
    return np.array([[ct, -st, 0, a], [st * ca, ct * ca, -sa, -d * sa], [st * sa, ct * sa, ca, d * ca], [0, 0, 0, 1]])


def _about_z(angle):
    return _standard_dh(0.0, 0.0, 0.0, angle)


_HALF = np.pi / 2
# universal-robots.com: DH parameters for calculations of kinematics and dynamics, UR5e: a, d, alpha.
UR5E = [(0, 0.1625, _HALF), (-0.425, 0, 0), (-0.3922, 0, 0), (0, 0.1333, _HALF), (0, 0.0997, -_HALF), (0, 0.0996, 0)]
# frankaemika.github.io/docs/control_parameters.html, Denavit-Hartenberg parameters: a, d, alpha; flange and hand follow.
FRANKA = [(0, 0.333, 0), (0, 0, -_HALF), (0, 0.316, _HALF), (0.0825, 0, _HALF), (-0.0825, 0.384, -_HALF), (0, 0, _HALF), (0.088, 0, _HALF)]


def _ur5e_tool(joints):
    pose = _about_z(np.pi)  # base_link is turned by half a turn against the controller's base
    for (a, d, alpha), angle in zip(UR5E, joints):
        pose = pose @ _standard_dh(a, d, alpha, angle)
    return pose @ _standard_dh(0.0, 0.174, 0.0, _HALF)


def _franka_tool(joints):
    pose = np.eye(4)
    for (a, d, alpha), angle in zip(FRANKA, joints):
        pose = pose @ _modified_dh(a, d, alpha, angle)
    return pose @ _modified_dh(0.0, 0.107 + 0.1034, 0.0, -np.pi / 4) @ _about_z(np.pi)


@pytest.mark.parametrize(("name", "tool"), [("ur5e", _ur5e_tool), ("franka", _franka_tool)])
@pytest.mark.parametrize("seed", range(10))
def test_the_tool_is_where_the_published_dh_parameters_put_it(name, tool, seed):
    robot = RobotDescription.load(robot_config_path(name))
    rng = np.random.default_rng(seed)
    joints = rng.uniform(robot.limits.position_min, robot.limits.position_max)
    position, rotation = Kinematics(robot).fk(joints)
    expected = tool(joints)
    np.testing.assert_allclose(position, expected[:3, 3], atol=1e-9)
    np.testing.assert_allclose(rotation, expected[:3, :3], atol=1e-9)


def test_the_so101_is_as_long_as_its_drawing():
    """Where the gripper frame is in the vendor's URDF with every joint at zero, m in base_link."""
    robot = RobotDescription.load(robot_config_path("so101"))
    straight = dict(zip(robot.joint_names, robot.home)) | dict.fromkeys(robot.arm_joints, 0.0)
    position, rotation = Kinematics(robot).fk(np.array([straight[n] for n in robot.joint_names]))
    np.testing.assert_allclose(position, [0.39136, 0.0, 0.22647], atol=1e-4)
    np.testing.assert_allclose(rotation[:, 2], [1.0, 0.0, 0.0], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "acceleration", "jerk"),
    [("franka", [10.0] * 7, [5000.0] * 7), ("franka", [15, 7.5, 10, 12.5, 15, 20, 20], [7500, 3750, 5000, 6250, 7500, 10000, 10000])],
    ids=["FR3", "FER"],
)
def test_accelerations_and_jerks_are_those_that_the_vendor_allows(name, acceleration, jerk):
    limits = RobotDescription.load(robot_config_path(name)).limits
    assert np.all(limits.acceleration[:7] <= acceleration) and np.all(limits.jerk[:7] <= jerk)
