# SPDX-License-Identifier: Apache-2.0
"""The nodes as processes: signals, kills, exit codes, and both nodes together (FAULTS rows 28, 29, 52 and 59)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from vla_ros.core import tabletop
from vla_ros.core.paths import robot_config_path
from vla_ros.robot import RobotDescription

pytestmark = pytest.mark.ros
_ROBOT = RobotDescription.load(robot_config_path("tabletop_arm"))
_RELAXED = ("-p", "max_joint_age_s:=0.4", "-p", "max_image_age_s:=0.6", "-p", "max_skew_s:=0.6", "-p", "realtime.sched_fifo_priority:=0")


def start(module, *arguments, log=None):
    return subprocess.Popen([sys.executable, "-m", f"vla_ros.ros.{module}", *arguments], stderr=log or subprocess.PIPE, text=True)


def start_policy(bundle, *arguments):
    return start("run", "--model", str(bundle), *arguments, "--ros-args", *_RELAXED)


def children(pid):
    """Process ids of the direct children, the shared memory's tracker left out."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rsplit(")", 1)[1].split()[1])
            command = (path.parent / "cmdline").read_text()
        except OSError:
            continue
        if parent == pid and "resource_tracker" not in command:
            found.append(int(path.parent.name))
    return found


def is_running(pid):
    """False also for a process that has ended and was not yet waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def acting(context, tiny_bundle, wait_until):
    """A policy node as a process that moves a fake robot: (process, robot)."""
    from vla_ros.ros.fake_robot import FakeRobot

    robot = FakeRobot(_ROBOT, tabletop.CAMERAS)
    process = start_policy(tiny_bundle)
    wait_until(lambda: robot.hears_instructions and robot.code == "IDLE", "the node is active", 40.0)
    robot.instruct("go")
    wait_until(lambda: robot.code == "ACTING" and robot.speed() > 0.01, "the robot moves")
    yield process, robot
    process.kill()
    process.communicate()
    robot.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_row_59_a_signal_holds_and_exits_within_five_seconds(acting, number, wait_until):
    process, robot = acting
    workers = children(process.pid)
    start_s = time.monotonic()
    process.send_signal(number)
    _, log = process.communicate(timeout=10.0)
    assert process.returncode == 0 and time.monotonic() - start_s < 5.0, log
    wait_until(lambda: robot.speed() < 1e-6, "the last command is at rest")
    assert "Traceback" not in log and not any(is_running(pid) for pid in workers)


def test_a_node_that_was_launched_holds_and_ends_when_its_launch_is_gone(context, tiny_bundle, wait_until):
    """``ros2 launch`` ends at SIGTERM at once and does not end what it started."""
    from vla_ros.ros.fake_robot import FakeRobot

    code = "import os, subprocess, sys; subprocess.Popen([sys.executable, '-m', *sys.argv[1:], '--end-with', str(os.getpid()), '--ros-args', *%r]).wait()"
    command = [sys.executable, "-c", code % (_RELAXED,), "vla_ros.ros.run", "--model", str(tiny_bundle)]
    robot = FakeRobot(_ROBOT, tabletop.CAMERAS)
    launch = subprocess.Popen(command)
    try:
        wait_until(lambda: robot.hears_instructions and robot.code == "IDLE", "the node is active", 40.0)
        robot.instruct("go")
        wait_until(lambda: robot.code == "ACTING" and robot.speed() > 0.01, "the robot moves")
        (node,) = children(launch.pid)
        launch.kill()
        launch.wait()
        wait_until(lambda: not is_running(node), "the node has ended")
        wait_until(lambda: robot.speed() < 1e-6, "the last command is at rest")
    finally:
        launch.kill()
        robot.close()


def test_a_signal_while_loading_ends_the_process(domain, tiny_bundle, wait_until):
    process = start_policy(tiny_bundle)
    wait_until(lambda: children(process.pid), "the worker is being loaded", 30.0)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10.0)
    assert process.returncode == 0


def test_row_52_a_killed_node_takes_its_worker_and_memory_with_it(acting, wait_until):
    process, _ = acting
    workers = children(process.pid)
    memory = list(Path("/dev/shm").glob(f"vla_{process.pid}_*"))
    assert workers and memory
    process.kill()
    wait_until(lambda: not any(is_running(pid) for pid in workers), "the worker is gone")
    wait_until(lambda: not any(path.exists() for path in memory), "the shared memory is gone")


def test_wrong_parameters_are_one_sentence_and_exit_code_2(domain):
    process = start("run", "--ros-args", "-p", "control_rate_hz:=-5.0")
    _, log = process.communicate(timeout=30.0)
    assert process.returncode == 2 and "control_rate_hz" in log and "Traceback" not in log


@pytest.mark.parametrize(
    "spoil, said",
    [
        (lambda folder: folder.rename(folder.with_name("elsewhere")), "no policy bundle"),
        (lambda folder: (folder / "policy.onnx").open("ab").write(b"x"), "sha256"),
        (lambda folder: (folder / "manifest.yaml").write_text("format_version: 1\n"), "manifest.yaml"),
    ],
    ids=["unknown bundle", "altered file", "incomplete manifest"],
)
def test_a_bundle_that_cannot_be_used_is_one_sentence_and_exit_code_2(domain, make_bundle, tmp_path, spoil, said):
    bundle = make_bundle(tmp_path / "bundle")
    spoil(bundle)
    process = start_policy(bundle)
    _, log = process.communicate(timeout=40.0)
    assert process.returncode == 2 and said in log and "Traceback" not in log, log


def test_autostart_false_waits_for_lifecycle_requests(context, tiny_bundle, wait_until, asking):
    import rclpy
    from lifecycle_msgs.srv import GetState

    process = start_policy(tiny_bundle, "--autostart", "false", "--namespace", "left")
    node = rclpy.create_node("client")
    try:
        client = node.create_client(GetState, "/left/vla_policy/get_state")
        spin = lambda: rclpy.spin_once(node, timeout_sec=0.05)  # noqa: E731
        wait_until(client.service_is_ready, "the service is there", 40.0, spin)
        answer = wait_until(asking(client, GetState.Request()), "the state is known", 20.0, spin)
        assert answer.current_state.label == "unconfigured"
    finally:
        node.destroy_node()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=10.0)


@pytest.fixture
def together(context, tiny_bundle, wait_until, tmp_path, request):
    """Simulator and policy node as two processes, and a client: (simulator, policy, client, spin)."""
    import rclpy
    from sensor_msgs.msg import JointState
    from std_msgs.msg import String

    from vla_ros.ros import qos

    simulated_time = getattr(request, "param", False)
    logs = [open(tmp_path / f"{name}.log", "w") for name in ("simulator", "policy")]  # noqa: SIM115
    simulator = start("sim_node", "--seed", "3", *(["--publish-clock"] if simulated_time else []), log=logs[0])
    policy = start(
        "run", "--model", str(tiny_bundle), *(["--use-sim-time"] if simulated_time else []), "--ros-args", *_RELAXED, log=logs[1]
    )
    node, seen = rclpy.create_node("client"), {"status": [], "joints": []}

    def on_status(message):
        seen["status"].append({v.key: v.value for v in message.values})

    from diagnostic_msgs.msg import DiagnosticStatus

    node.create_subscription(DiagnosticStatus, "vla_policy/status", on_status, qos.STATUS)
    node.create_subscription(JointState, "joint_states", lambda m: seen["joints"].append(np.array(m.position)), qos.SENSOR)
    seen["instruct"] = node.create_publisher(String, "instruction", qos.COMMAND)
    seen["code"] = lambda: seen["status"][-1]["code"] if seen["status"] else ""
    spin = lambda: rclpy.spin_once(node, timeout_sec=0.05)  # noqa: E731
    try:
        wait_until(lambda: seen["code"]() == "IDLE" and seen["instruct"].get_subscription_count(), "both nodes are up", 60.0, spin)
        seen["instruct"].publish(String(data="go"))
        wait_until(lambda: seen["code"]() == "ACTING", "the policy acts", 20.0, spin)
        yield simulator, policy, seen, spin
    finally:
        for process in (policy, simulator):
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.send_signal(signal.SIGINT)
        for process in (policy, simulator):
            process.wait(10.0)
        for log in logs:
            log.close()
        node.destroy_node()
        text = "".join((tmp_path / f"{n}.log").read_text() for n in ("simulator", "policy"))
        assert "Traceback" not in text, text


def test_both_nodes_move_the_arm_in_the_simulator(together, wait_until):
    _, _, seen, spin = together
    home = seen["joints"][0]
    wait_until(lambda: seen["joints"][-1][0] > home[0] + 0.03, "the arm follows the bundle to positive y", 20.0, spin)


def test_row_52_downstream_stops_when_the_node_is_killed(together, wait_until):
    _, policy, seen, spin = together
    policy.kill()
    policy.wait()

    def is_still():
        recent = seen["joints"][-30:]
        return len(seen["joints"]) > 60 and np.abs(np.ptp(recent, axis=0)).max() < 1e-3

    wait_until(is_still, "the simulated arm is at rest", 10.0, spin)


@pytest.mark.parametrize("together", [True], indirect=True)
def test_row_29_a_paused_simulation_is_waited_for(together, wait_until):
    simulator, _, seen, spin = together
    os.kill(simulator.pid, signal.SIGSTOP)
    try:
        wait_until(lambda: seen["code"]() == "CLOCK_PAUSED", "the pause is seen", 10.0, spin)
        assert seen["status"][-1]["state"] != "latched"
    finally:
        os.kill(simulator.pid, signal.SIGCONT)
    wait_until(lambda: seen["code"]() == "ACTING", "it goes on", 20.0, spin)
