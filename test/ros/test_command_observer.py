# SPDX-License-Identifier: Apache-2.0
"""The independent judge finds each kind of bad command."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from vla_ros.ros.command_observer import CommandJudge

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


@pytest.mark.ros
def test_the_process_reads_the_topic_and_reports(context, wait_until):
    import rclpy
    from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

    from vla_ros.core.paths import robot_config_path
    from vla_ros.robot import RobotDescription

    robot = RobotDescription.load(robot_config_path("tabletop_arm"))
    command = [sys.executable, "-m", "vla_ros.ros.command_observer", "--urdf", str(robot.urdf_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    node = rclpy.create_node("commander")
    try:
        publisher = node.create_publisher(JointTrajectory, "command", 10)
        wait_until(publisher.get_subscription_count, "the observer is connected", 20.0)
        bad = JointTrajectory(joint_names=list(robot.joint_names), points=[JointTrajectoryPoint(positions=[9.0] * 7, velocities=[0.0] * 7)])
        bad.points[0].time_from_start.nanosec = 20_000_000
        publisher.publish(bad)
        publisher.wait_for_all_acked(rclpy.duration.Duration(seconds=5.0))
    finally:
        node.destroy_node()
        process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=20.0)
    report = json.loads(out)
    assert process.returncode == 1 and report["messages"] == 1 and report["by_kind"] == {"position": 7}
