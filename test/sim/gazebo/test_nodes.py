# SPDX-License-Identifier: Apache-2.0
"""The policy node beside a real Gazebo Classic 11 that runs by itself: pause, time set back, slowness, a lost camera, a killed bridge."""

from __future__ import annotations

import os
import signal
import socket
import time

import numpy as np
import pytest

pytest.importorskip("zmq", reason="needs pyzmq (extra gazebo)")
pytest.importorskip("rclpy")

from vla_ros.core.paths import bundle_dir, robot_config_path
from vla_ros.processes import Process, own_ros_environment, vla_command
from vla_ros.robot import RobotDescription
from vla_ros.sim.gazebo.classic_transport import ClassicConnection
from vla_ros.sim.gazebo.messages import classic
from vla_ros.sim.gazebo.sdf import TIMESTEP_S, WORLD_NAME

pytestmark = [pytest.mark.gazebo, pytest.mark.ros, pytest.mark.slow]
START_S, ANSWER_S = 120.0, 60.0
_HOME = RobotDescription.load(robot_config_path("tabletop_arm")).home


class Rig:
    """Both nodes as processes, Gazebo behind one of them, and an operator."""

    def __init__(self, bundle, logs):
        from sensor_msgs.msg import JointState
        from trajectory_msgs.msg import JointTrajectory

        from vla_ros.ros import qos
        from vla_ros.ros.observer import Observer

        self.port = _free_port()
        clock = {**own_ros_environment(), "GAZEBO_MASTER_URI": f"http://127.0.0.1:{self.port}"}
        os.environ.update(clock)
        sim = ("--simulator", "gazebo-classic", "--publish-clock", "--seed", "7")
        policy = ("--model", str(bundle), "--autostart", "false", "--ros-args", "-p", "use_sim_time:=true")
        self.sim = Process("vla_sim", vla_command("sim", *sim), logs / "sim.log")
        self.policy = Process("vla_policy", vla_command("run", *policy), logs / "policy.log")
        self.states, self.joints, self.commands = [], [], []
        self.observer = Observer(
            ("front", "wrist"), keep_pictures=False, on_change=lambda seen: self.states.append((seen.state, seen.code))
        )
        self.observer.node.create_subscription(JointState, "joint_states", self.joints.append, qos.SENSOR)
        self.observer.node.create_subscription(JointTrajectory, "command", self._on_command, qos.COMMAND)
        self.until(self.observer.has_pictures, "pictures come", START_S)
        self.observer.activate_policy(START_S)
        self.until(self.observer.is_connected, "both nodes hear the operator", START_S)

    def until(self, condition, what, timeout_s=ANSWER_S):
        if not self.observer.spin_until(condition, timeout_s):
            ends = "\n".join(f"{p.name}: {p.log_tail(6)}" for p in (self.sim, self.policy))
            pytest.fail(f"not within {timeout_s} s: {what}; last: {self.states[-6:]}\n{ends}")

    def _on_command(self, message):
        """Keeps positions and velocities of the state that is commanded for now; what follows it is the way to a stop."""
        self.commands.append(np.array([message.points[0].positions, message.points[0].velocities]))

    def act(self, instruction="go"):
        """The robot carries out an instruction."""
        self.observer.give(instruction)
        self.until(lambda: self.observer.seen.code == "ACTING", "the robot acts")
        self.states.clear()

    def begin_scene(self, seed):
        """A new scene, with the policy inactive meanwhile, as in an evaluation: it takes an arm that is put back for a fault."""
        self.observer.deactivate_policy()
        self.observer.reset_scene(seed)
        self.joints.clear()
        self.until(lambda: len(self.joints) > 20, "joint states of the new scene")
        self.observer.activate_policy(START_S)

    def gazebo(self):
        """A second client of the server, as gzclient would be."""
        return ClassicConnection(self.port, WORLD_NAME)

    def stamps_s(self):
        return [m.header.stamp.sec + m.header.stamp.nanosec * 1e-9 for m in self.joints]

    def was_latched(self):
        return any(state in ("latched", "fault") for state, _ in self.states)

    def close(self):
        self.observer.close()
        self.policy.stop()
        self.sim.stop()


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def running(bundle, logs):
    before = dict(os.environ)
    rig = Rig(bundle, logs)
    yield rig
    rig.close()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def rig(still_bundle, tmp_path_factory):
    """With a policy that commands the robot to stay where it is."""
    yield from running(still_bundle, tmp_path_factory.mktemp("logs"))


@pytest.fixture
def moving_rig(tmp_path):
    """With the shipped policy."""
    yield from running(bundle_dir("tabletop"), tmp_path)


def test_joint_states_are_gazebos(rig):
    rig.joints.clear()
    rig.until(lambda: len(rig.joints) > 20, "joint states come")
    message = rig.joints[-1]
    assert list(message.name)[-1] == "gripper_joint" and len(message.position) == len(message.effort) == 7
    assert (np.diff(rig.stamps_s()) > 0).all()


def test_a_pause_is_waited_for_and_is_no_latch(rig):
    rig.act()
    with rig.gazebo() as gazebo:
        control = gazebo.advertise("world_control", "WorldControl")
        control.publish(classic.WorldControl(pause=True))
        rig.until(lambda: rig.observer.seen.code == "CLOCK_PAUSED", "the node notices the pause")
        control.publish(classic.WorldControl(pause=False))
        rig.until(lambda: rig.observer.seen.code == "ACTING", "it acts again")
    assert not rig.was_latched()


def test_time_set_back_to_zero_holds_and_goes_on_with_fresh_inputs(rig):
    rig.act()
    rig.joints.clear()
    with rig.gazebo() as gazebo:
        reset = classic.WorldReset(all=False, time_only=True)
        gazebo.advertise("world_control", "WorldControl").publish(classic.WorldControl(reset=reset))
        rig.until(lambda: (np.diff(rig.stamps_s()) < 0).any(), "the stamps jump back")
        rig.until(lambda: any(state == "holding" for state, _ in rig.states), "the node holds")
        rig.until(lambda: rig.observer.seen.code == "ACTING", "it acts again")
    assert not rig.was_latched()


def test_a_reset_world_puts_the_arm_elsewhere_which_stops_the_robot(rig):
    """Gazebo sets the arm back upright, where no command has moved it: the node holds or latches, and acts again in a new scene."""
    rig.act()
    rig.joints.clear()
    with rig.gazebo() as gazebo:
        gazebo.advertise("world_control", "WorldControl").publish(classic.WorldControl(reset=classic.WorldReset(all=True)))
        rig.until(lambda: (np.diff(rig.stamps_s()) < 0).any(), "the stamps jump back")
        rig.until(lambda: any(state in ("holding", "latched") for state, _ in rig.states), "the node stops")
    rig.begin_scene(7)
    np.testing.assert_allclose(rig.joints[-1].position, _HOME, atol=0.01)
    rig.act()


def test_a_fifth_of_real_time_is_no_latch(rig):
    rig.act()
    with rig.gazebo() as gazebo:
        physics = gazebo.advertise("physics", "Physics")
        physics.publish(classic.Physics(real_time_update_rate=0.2 / TIMESTEP_S))
        rig.until(lambda: _factor(rig) < 0.3, "time goes slowly")
        rig.joints.clear()
        start_s = time.monotonic()
        rig.until(lambda: len(rig.joints) > 1 and rig.stamps_s()[-1] - rig.stamps_s()[0] > 0.6, "simulated time passes")
        assert time.monotonic() - start_s > 2.0, "the server was not slow"
        rig.until(lambda: rig.observer.seen.code == "ACTING", "the robot acts at that pace")
        physics.publish(classic.Physics(real_time_update_rate=1.0 / TIMESTEP_S))
        rig.until(lambda: rig.observer.seen.code == "ACTING", "the robot acts")
    assert not rig.was_latched()


def _factor(rig):
    return float(rig.observer.diagnostics.get("vla_sim: simulation", {}).get("real_time_factor", "1"))


def test_a_camera_that_is_removed_holds_and_a_new_scene_brings_it_back(rig):
    rig.act()
    with rig.gazebo() as gazebo:
        gazebo.advertise("request", "Request").publish(classic.Request(id=1, request="entity_delete", data="front_camera"))
        rig.until(lambda: rig.observer.seen.state == "holding" and "IMAGE" in rig.observer.seen.code, "the node misses the picture")
    assert not rig.was_latched()
    rig.begin_scene(8)
    rig.act()


def test_a_killed_bridge_leaves_neither_a_gazebo_nor_a_moving_command(moving_rig):
    """The bridge is where the time comes from, so to the node its end is a clock that stands still: it comes to rest and waits."""
    rig = moving_rig
    rig.act("pick up the blue cube")
    rig.until(lambda: bool(rig.commands) and _speed(rig.commands[-1]) > 0.1, "the arm moves")
    os.kill(rig.sim.pid, signal.SIGKILL)
    rig.until(lambda: rig.observer.seen.code == "CLOCK_PAUSED" or rig.observer.seen.state == "holding", "the node stops acting")
    rig.until(lambda: _speed(rig.commands[-1]) == 0.0, "the command comes to rest")
    rest = rig.commands[-1]
    rig.commands.clear()
    rig.until(lambda: not _is_open(rig.port), "Gazebo has ended with its bridge")
    rig.observer.spin_until(lambda: len(rig.commands) > 50, 2.0)
    assert all(np.array_equal(command, rest) for command in rig.commands)
    assert not rig.was_latched()


def _speed(command):
    return np.abs(command[1]).max()


def _is_open(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
