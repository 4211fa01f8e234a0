# SPDX-License-Identifier: Apache-2.0
"""The simulator node as a process, over DDS: a robot's drivers and controllers as a policy meets them."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import defaultdict

import numpy as np
import pytest

from vla_ros.core.paths import robot_config_path
from vla_ros.robot import RobotDescription

pytestmark = pytest.mark.ros
_ROBOT = RobotDescription.load(robot_config_path("tabletop_arm"))


class Client:
    """Subscribes to everything that the simulator publishes."""

    def __init__(self, use_clock=False):
        from diagnostic_msgs.msg import DiagnosticArray
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.node import Node
        from rosgraph_msgs.msg import Clock
        from sensor_msgs.msg import CameraInfo, Image, JointState
        from std_msgs.msg import Bool, String
        from trajectory_msgs.msg import JointTrajectory

        from vla_ros.ros import qos

        self.node, self.got = Node("client"), defaultdict(list)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        topics = {
            "joint_states": (JointState, qos.SENSOR),
            "vla_sim/success": (Bool, qos.STATUS),
            "vla_sim/instruction": (String, qos.STATUS),
            "/diagnostics": (DiagnosticArray, qos.EVENTS),
            "/clock": (Clock, qos.SENSOR),
        }
        for camera in ("front", "wrist"):
            topics |= {f"{camera}/image_raw": (Image, qos.SENSOR), f"{camera}/camera_info": (CameraInfo, qos.SENSOR)}
        for name, (kind, profile) in topics.items():
            self.node.create_subscription(kind, name, lambda m, n=name: self.got[n].append(m), profile)
        self.command = self.node.create_publisher(JointTrajectory, "command", qos.COMMAND)
        self.task = self.node.create_publisher(String, "vla_sim/task", qos.COMMAND)

    def until(self, condition, what, timeout_s=15.0):
        deadline = time.monotonic() + timeout_s
        while not (value := condition()):
            if time.monotonic() > deadline:
                counts = {k: len(v) for k, v in self.got.items()}
                pytest.fail(f"not within {timeout_s} s: {what}; got {counts}")
            self._executor.spin_once(timeout_sec=0.05)
        return value

    def last(self, name):
        return (self.got[name] or [None])[-1]

    def next(self, name):
        count = len(self.got[name])
        self.until(lambda: len(self.got[name]) > count, f"one more {name}")
        return self.last(name)

    def joints(self):
        return np.array(self.next("joint_states").position)

    def figures(self):
        return {v.key: v.value for v in self.next("/diagnostics").status[0].values}

    def send(self, positions, seconds=0.5, names=_ROBOT.joint_names):
        from builtin_interfaces.msg import Duration
        from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

        point = JointTrajectoryPoint(positions=[float(p) for p in positions], velocities=[0.0] * len(positions))
        point.time_from_start = Duration(sec=int(seconds), nanosec=int(seconds % 1 * 1e9))
        self.command.publish(JointTrajectory(joint_names=list(names), points=[point]))

    def close(self):
        self._executor.shutdown(timeout_sec=1.0)
        self.node.destroy_node()


def start_simulator(*arguments):
    return subprocess.Popen([sys.executable, "-m", "vla_ros.ros.sim_node", *arguments], stderr=subprocess.PIPE, text=True)


def stop(process):
    process.send_signal(signal.SIGINT)
    _, log = process.communicate(timeout=10.0)
    return log


@pytest.fixture
def simulator(context):
    process = start_simulator("--seed", "3")
    client = Client()
    client.until(lambda: client.got.get("front/image_raw") and client.command.get_subscription_count(), "the simulator is up", 40.0)
    yield client
    client.close()
    log = stop(process)
    assert process.returncode == 0, log
    assert "Objects here: " in log.partition("scene 3: judging")[2], "a person must know what can be said"


def test_drivers_publish_what_a_robot_does(simulator):
    client = simulator
    client.until(lambda: len(client.got["joint_states"]) > 50 and len(client.got["front/image_raw"]) > 5, "a stream came")
    joints = client.last("joint_states")
    assert tuple(joints.name) == _ROBOT.joint_names
    assert len(joints.position) == len(joints.velocity) == len(joints.effort) == 7
    np.testing.assert_allclose(joints.position, _ROBOT.home, atol=0.01)
    age_s = client.node.get_clock().now().nanoseconds * 1e-9 - (joints.header.stamp.sec + joints.header.stamp.nanosec * 1e-9)
    assert 0.0 <= age_s < 1.0
    stamps = [m.header.stamp.sec + m.header.stamp.nanosec * 1e-9 for m in client.got["joint_states"]]
    assert (np.diff(stamps) >= 0).all()
    for camera, size in (("front", 256), ("wrist", 128)):
        image = client.next(f"{camera}/image_raw")
        assert (image.height, image.width, image.encoding, image.step) == (size, size, "rgb8", 3 * size)
        assert image.header.frame_id == f"{camera}_camera_optical_frame" and np.std(np.asarray(image.data)) > 5
        info = client.last(f"{camera}/camera_info")
        assert (info.height, info.width) == (size, size) and info.k[0] > 0 and info.header.frame_id == image.header.frame_id


def test_commands_are_followed_and_the_end_is_held(simulator):
    target = _ROBOT.home.copy()
    target[0], target[6] = 0.3, 0.02
    simulator.send(target)
    simulator.until(lambda: np.abs(np.array(simulator.last("joint_states").position) - target).max() < 0.01, "the arm is there")
    simulator.next("/diagnostics")
    np.testing.assert_allclose(simulator.joints(), target, atol=0.01)


def test_bad_commands_are_dropped_and_nothing_moves(simulator):
    target = _ROBOT.home + 0.1
    bad = target.copy()
    bad[1] = np.nan
    dropped = int(simulator.figures()["commands_dropped"])
    for send in (
        lambda: simulator.send(bad),
        lambda: simulator.send(target[:6], names=_ROBOT.joint_names[:6]),
        lambda: simulator.send(target, names=("other", *_ROBOT.joint_names[1:])),
    ):
        dropped += 1
        send()
        simulator.until(lambda n=dropped: int(simulator.figures()["commands_dropped"]) >= n, "the command is dropped")
    np.testing.assert_allclose(simulator.joints(), _ROBOT.home, atol=0.01)


def test_a_new_task_is_judged_and_a_reset_begins_anew(simulator, asking):
    from std_msgs.msg import String
    from std_srvs.srv import Trigger

    simulator.until(lambda: simulator.last("vla_sim/success") is not None, "the verdict is published")
    assert simulator.last("vla_sim/success").data is False
    simulator.task.publish(String(data="reach the red cylinder"))
    simulator.until(lambda: getattr(simulator.last("vla_sim/instruction"), "data", "") == "reach the red cylinder", "the task is taken")
    simulator.send(_ROBOT.home + np.array([0.3, 0, 0, 0, 0, 0, 0]))
    simulator.until(lambda: simulator.joints()[0] > 0.25, "the arm moved")
    client = simulator.node.create_client(Trigger, "vla_sim/reset")
    simulator.until(client.service_is_ready, "the service is there")
    reset = asking(client, Trigger.Request())
    simulator.until(lambda: reset() is not None, "the reset is answered")
    assert reset().success and reset().message
    np.testing.assert_allclose(simulator.joints(), _ROBOT.home, atol=0.01)
    assert simulator.next("vla_sim/success").data is False


def test_simulated_time_follows_the_factor_and_never_goes_back(context):
    process = start_simulator("--seed", "3", "--publish-clock", "--realtime-factor", "0.5")
    client = Client()
    try:
        client.until(lambda: len(client.got.get("/clock", [])) > 20, "a clock", 40.0)
        first, wall = client.next("/clock").clock, time.monotonic()
        client.until(lambda: time.monotonic() - wall > 2.0, "two seconds pass")
        last, elapsed = client.next("/clock").clock, time.monotonic() - wall
        simulated = last.sec - first.sec + (last.nanosec - first.nanosec) * 1e-9
        assert simulated < 0.75 * elapsed  # half, or less on a busy machine
        times = [m.clock.sec + m.clock.nanosec * 1e-9 for m in client.got["/clock"]]
        assert (np.diff(times) >= 0).all()
        stamp = client.next("joint_states").header.stamp
        assert abs(stamp.sec - last.sec) < 5  # joint states carry simulated time
    finally:
        client.close()
        assert "Traceback" not in stop(process)


@pytest.mark.parametrize("arguments", [["--realtime-factor", "0"], ["--seed", "-1"], ["--command-interface", "Wrench"]])
def test_wrong_use_is_one_sentence_and_exit_code_2(domain, arguments):
    process = start_simulator(*arguments)
    _, log = process.communicate(timeout=30.0)
    assert process.returncode == 2 and "Traceback" not in log and log.strip()
