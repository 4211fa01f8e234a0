# SPDX-License-Identifier: Apache-2.0
"""The independent judge finds each kind of bad command."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from vla_ros.core.paths import robot_config_path
from vla_ros.robot import RobotDescription
from vla_ros.ros.command_observer import CommandJudge

_ROBOT = RobotDescription.load(robot_config_path("tabletop_arm"))
_LIMITS = {"a": (-1.0, 1.0, 2.0), "b": (0.0, 0.04, 0.15)}


def point(time_s, positions, velocities):
    seconds = int(time_s)
    stamp = SimpleNamespace(sec=seconds, nanosec=round((time_s - seconds) * 1e9))
    return SimpleNamespace(time_from_start=stamp, positions=positions, velocities=velocities)


def message(position=0.0, velocity=0.0, names=("a", "b"), **changes):
    points = [point(0.02, [position, 0.02], [velocity, 0.0]), point(0.08, [position, 0.02], [0.0, 0.0])]
    return SimpleNamespace(**({"joint_names": list(names), "points": points} | changes))


def judged(*messages, gap_s=0.02):
    judge = CommandJudge(_LIMITS)
    for i, each in enumerate(messages):
        judge.judge(each, i * gap_s)
    return judge


def test_a_good_stream_is_not_blamed():
    judge = judged(*(message(0.03 * i, 1.5) for i in range(20)), message(0.6, 0.0))
    assert judge.summary() == {
        "messages": 21,
        "streams": 1,
        "commanders": 0,
        "violations": 0,
        "by_kind": {},
        "examples": [],
        "ended_at_rest": True,
    }


@pytest.mark.parametrize(
    "bad, kind",
    [
        (message(float("nan")), "not finite"),
        (message(0.0, float("inf")), "not finite"),
        (message(1.01), "position"),
        (message(0.0, 2.1), "velocity"),
        (message(names=("a", "a")), "shape"),
        (message(names=("a", "c")), "shape"),
        (message(points=[]), "shape"),
        (message(points=[point(0.02, [0.0, 0.0], [0.0, 0.1])]), "moving end"),
        (message(points=[point(0.02, [0.0, 0.0], [0.0, 0.0]), point(0.02, [0.0, 0.0], [0.0, 0.0])]), "times"),
        (message(points=[point(0.02, [0.0], [0.0, 0.0])]), "shape"),
    ],
)
def test_each_kind_of_fault_is_named(bad, kind):
    assert judged(bad).violations[kind] > 0


def test_a_jump_inside_a_stream_is_a_fault_and_a_new_start_from_rest_is_none():
    assert judged(message(0.0), message(0.1)).violations["step"] == 1
    assert not judged(message(0.0), message(0.1), gap_s=0.2).violations
    assert judged(message(0.0, 1.0), message(0.9), gap_s=0.2).violations["step"] == 1


@pytest.fixture
def process_and_publisher(context, wait_until):
    """The judge as a process, and a publisher that it listens to."""
    import rclpy
    from trajectory_msgs.msg import JointTrajectory

    command = [sys.executable, "-m", "vla_ros.ros.command_observer", "--urdf", str(_ROBOT.urdf_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    node = rclpy.create_node("commander")
    try:
        publisher = node.create_publisher(JointTrajectory, "command", 100)
        wait_until(publisher.get_subscription_count, "the observer is connected", 20.0)
        yield process, publisher
    finally:
        node.destroy_node()
        process.kill()
        process.wait()


def trajectory(positions):
    """One point at rest, one period ahead."""
    from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

    made = JointTrajectory(joint_names=list(_ROBOT.joint_names), points=[JointTrajectoryPoint(positions=positions, velocities=[0.0] * 7)])
    made.points[0].time_from_start.nanosec = 20_000_000
    return made


def ended(process):
    """Ends the judge; returns what it printed."""
    process.send_signal(signal.SIGTERM)
    return json.loads(process.communicate(timeout=20.0)[0])


@pytest.mark.ros
def test_the_process_reads_the_topic_and_reports(process_and_publisher):
    import rclpy

    process, publisher = process_and_publisher
    publisher.publish(trajectory([9.0] * 7))
    publisher.wait_for_all_acked(rclpy.duration.Duration(seconds=5.0))
    report = ended(process)
    assert report["commanders"] == 1
    assert process.returncode == 1 and report["messages"] == 1 and report["by_kind"] == {"position": 7}


@pytest.mark.ros
def test_a_judge_that_slept_blames_nobody_for_the_pause_that_it_missed(process_and_publisher):
    """Both streams are read at once after the sleep; that 0.3 s lay between them only the middleware knows."""
    import rclpy

    process, publisher = process_and_publisher
    process.send_signal(signal.SIGSTOP)
    publisher.publish(trajectory([0.0] * 7))
    time.sleep(0.3)
    publisher.publish(trajectory([0.5, *[0.0] * 6]))
    process.send_signal(signal.SIGCONT)
    publisher.wait_for_all_acked(rclpy.duration.Duration(seconds=5.0))
    report = ended(process)
    assert report["messages"] == 2 and report["streams"] == 2 and report["violations"] == 0, report


@pytest.mark.ros
def test_two_commanders_at_once_are_counted(process_and_publisher, wait_until):
    """Two robots in one domain: the steps between their commands are nobody's fault."""
    import rclpy
    from trajectory_msgs.msg import JointTrajectory

    process, publisher = process_and_publisher
    other = rclpy.create_node("other_commander")
    try:
        second = other.create_publisher(JointTrajectory, "command", 100)
        wait_until(second.get_subscription_count, "the observer hears both", 20.0)
        time.sleep(1.5)  # it counts twice a second
        publisher.publish(trajectory([0.0] * 7))
        publisher.wait_for_all_acked(rclpy.duration.Duration(seconds=5.0))
        assert ended(process)["commanders"] == 2
    finally:
        other.destroy_node()
