# SPDX-License-Identifier: Apache-2.0
"""What each command interface says about the same motion."""

from __future__ import annotations

import numpy as np
import pytest

from vla_ros.core.errors import ConfigError
from vla_ros.core.paths import robot_config_path
from vla_ros.robot import Kinematics, RobotDescription
from vla_ros.ros.command import make_command_builder
from vla_ros.ros.trajectory_follower import TrajectoryFollower

pytestmark = pytest.mark.ros
_PERIOD_S = 0.02
_STAMP = 5_000_000_123


@pytest.fixture(scope="module")
def robot():
    return RobotDescription.load(robot_config_path("tabletop_arm"))


def motion(robot):
    velocity = 0.3 * robot.limits.velocity * np.array([1, -1, 1, -1, 1, -1, 0])
    return robot.home, velocity


def test_a_trajectory_begins_one_period_ahead_and_ends_at_rest(robot):
    position, velocity = motion(robot)
    message = make_command_builder("JointTrajectory", robot, _PERIOD_S).build(position, velocity, _STAMP)
    assert message.joint_names == list(robot.joint_names) and message.header.frame_id == "base_link"
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (0, 0)  # begin on arrival
    assert len(message.points) == 3
    np.testing.assert_allclose(message.points[0].positions, position)
    np.testing.assert_allclose(message.points[0].velocities, velocity)
    assert message.points[0].time_from_start.nanosec == 20_000_000
    np.testing.assert_array_equal(message.points[-1].velocities, np.zeros(7))


def test_a_lost_stream_of_trajectories_stops_inside_the_acceleration_limits(robot):
    """The last message, followed by the simulator's controller with nothing after it."""
    position, velocity = motion(robot)
    follower = TrajectoryFollower(robot.joint_names, robot.limits.acceleration, position - velocity * _PERIOD_S, timeout_s=10.0)
    follower._velocities_PJ = velocity[None]
    follower.accept_trajectory(make_command_builder("JointTrajectory", robot, _PERIOD_S).build(position, velocity, 0), _STAMP)
    step = 1_000_000
    samples = np.array([follower.sample(_STAMP + k * step).copy() for k in range(20, 1000)])
    acceleration = np.diff(samples, n=2, axis=0)[1:] / (step * 1e-9) ** 2
    # Differences over 1 ms of values near 1 rad carry rounding of about 1e-16 / 1e-6 = 1e-10 rad/s^2.
    assert (np.abs(acceleration).max(axis=0) <= robot.limits.acceleration * 1.001).all()
    np.testing.assert_array_equal(samples[-1], samples[-2])


def test_the_same_message_object_is_refilled(robot):
    builder = make_command_builder("JointTrajectory", robot, _PERIOD_S)
    position, velocity = motion(robot)
    first = builder.build(position, velocity, _STAMP)
    assert builder.build(position + 0.01, velocity, _STAMP) is first
    np.testing.assert_allclose(first.points[0].positions, position + 0.01)


def test_positions_are_labelled_in_the_robots_order(robot):
    message = make_command_builder("Float64MultiArray", robot, _PERIOD_S).build(*motion(robot), _STAMP)
    np.testing.assert_array_equal(message.data, robot.home)
    assert message.layout.dim[0].label.split(",") == list(robot.joint_names) and message.layout.dim[0].size == 7


def test_a_twist_is_the_derivative_of_the_tools_pose(robot):
    position, velocity = motion(robot)
    message = make_command_builder("TwistStamped", robot, _PERIOD_S).build(position, velocity, _STAMP)
    kinematics, dt = Kinematics(robot), 1e-5
    (p0, r0), (p1, r1) = kinematics.fk(position), kinematics.fk(position + dt * velocity)
    np.testing.assert_allclose([message.twist.linear.x, message.twist.linear.y, message.twist.linear.z], (p1 - p0) / dt, atol=1e-4)
    turn = (r1 - r0) / dt @ r0.T
    np.testing.assert_allclose(
        [message.twist.angular.x, message.twist.angular.y, message.twist.angular.z], [turn[2, 1], turn[0, 2], turn[1, 0]], atol=1e-3
    )
    assert message.header.frame_id == "base_link" and message.header.stamp.sec == 5


def test_a_pure_turn_of_the_base_joint_is_a_yaw_rate(robot):
    velocity = np.zeros(7)
    velocity[0] = 0.7
    message = make_command_builder("TwistStamped", robot, _PERIOD_S).build(robot.home, velocity, _STAMP)
    np.testing.assert_allclose([message.twist.angular.x, message.twist.angular.y, message.twist.angular.z], [0, 0, 0.7], atol=1e-6)


def test_unknown_interfaces_and_missing_packages_are_named(robot):
    with pytest.raises(ConfigError, match="choose JointTrajectory"):
        make_command_builder("Wrench", robot, _PERIOD_S)
    try:
        import control_msgs  # noqa: F401
    except ImportError:
        with pytest.raises(ConfigError, match="control_msgs"):
            make_command_builder("JointJog", robot, _PERIOD_S)
    else:
        assert len(make_command_builder("JointJog", robot, _PERIOD_S).build(*motion(robot), _STAMP).velocities) == 7
