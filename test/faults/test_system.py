# SPDX-License-Identifier: Apache-2.0
"""Rows 50 and 54 over DDS: the emergency stop within a period, and a robot that cannot be reached for a while."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

pytestmark = pytest.mark.ros


def test_row_50_the_emergency_stop_is_obeyed_in_the_next_period_whatever_else_comes(rig):
    """In a flood of instructions: how long the message waited in this process is the node's own figure, by the middleware's receipt."""
    robot = rig.go()
    flooding = threading.Event()

    def flood():
        count = 0
        while not flooding.is_set():
            robot.instruct(f"go {count}")
            count += 1
            time.sleep(0.001)

    thread = threading.Thread(target=flood, daemon=True)
    thread.start()
    try:
        for _ in range(5):
            rig.until(lambda: robot.state in ("acting", "holding"), "the robot is free")
            robot.press_e_stop(True)
            rig.until(lambda: robot.state == "latched", "the robot is latched")
            statistics = rig.node.session.thread.statistics()
            slack_ns = (statistics.lateness_max_us + statistics.step_max_us) * 1e3
            assert rig.node._inputs.e_stop_waited_ns <= rig.node.parameters.period_ns + slack_ns
            robot.press_e_stop(False)
            rig.until(rig.resume, "it is resumed")
    finally:
        flooding.set()
        thread.join()


def test_row_50_answers_of_an_inference_from_before_the_emergency_stop_never_act(rig):
    robot = rig.go()
    robot.press_e_stop(True)
    rig.until_code("E_STOP")
    rig.until_at_rest()
    at_rest = robot.commands[-1].position_J
    counts = rig.node.session.runner.counts
    time.sleep(1.0)  # the worker finishes what it had begun
    assert robot.state == "latched"
    np.testing.assert_array_equal(robot.commands[-1].position_J, at_rest)
    assert rig.node.session.runner.counts["chunk_taken"] == counts["chunk_taken"]


def test_row_54_a_partition_holds_and_only_fresh_state_goes_on(rig):
    """Nothing of the robot's side arrives: neither joints nor pictures nor what a person says."""
    robot = rig.go()
    statuses = len(robot.statuses)
    robot.joints_on, robot.cameras_on = False, set()
    rig.until(lambda: robot.state == "holding", "the robot holds")
    rig.until_at_rest()
    time.sleep(1.0)
    assert robot.state == "holding" and robot.speed() < 1e-6
    robot.cameras_on = {"front", "wrist"}
    time.sleep(0.5)
    assert robot.state == "holding", "pictures alone are not enough"
    generation = rig.node.session.runner.output.generation
    robot.joints_on = True
    rig.until_code("ACTING")
    assert rig.node.session.runner.output.generation > generation, "the policy is asked anew"
    assert "latched" not in {s["state"] for s in robot.statuses[statuses:]}


def test_row_51_a_hand_that_moves_a_latched_arm_meets_no_command_and_resume_does_not_jump(rig):
    robot = rig.go()
    robot.press_e_stop(True)
    rig.until_code("E_STOP")
    rig.until_at_rest()
    time.sleep(0.8)
    robot.follows = False
    left = robot.position_J.copy()
    for part in np.linspace(0.0, 1.0, 40):
        robot.position_J = left + np.array([0.4, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]) * part
        time.sleep(0.02)
    rig.until(lambda: not rig.node.session.runner.output.is_commanded, "nothing is commanded")
    rig.until(lambda: "ARM_MOVED" in robot.statuses[-1]["also"], "the status says so")
    time.sleep(0.2)  # the last command may still be on its way
    count = len(robot.commands)
    time.sleep(0.3)
    assert len(robot.commands) == count
    robot.instruct("")
    robot.press_e_stop(False)
    rig.until(lambda: rig.resume() and robot.state == "idle", "it is resumed")
    robot.follows = True
    rig.until(lambda: len(robot.commands) > count, "commands come again")
    np.testing.assert_allclose(robot.commands[count].position_J[0], left[0] + 0.4, atol=1e-3)


def test_row_58_a_transition_that_is_impossible_now_is_refused_and_the_robot_goes_on(rig):
    """rclpy's own service raises then, and what a callback raises ends the process: no stop, nothing."""
    from lifecycle_msgs.msg import Transition
    from lifecycle_msgs.srv import ChangeState

    robot = rig.go()
    client = robot.node.create_client(ChangeState, "vla_policy/change_state")
    rig.until(client.service_is_ready, "the service is there")
    for transition in (Transition.TRANSITION_ACTIVATE, Transition.TRANSITION_CONFIGURE, 222):
        answer = client.call_async(ChangeState.Request(transition=Transition(id=transition)))
        rig.until(answer.done, "the request is answered")
        assert not answer.result().success
    count = len(robot.commands)
    rig.until(lambda: robot.state == "acting" and len(robot.commands) > count + 5, "the robot goes on")
    robot.run(lambda: robot.node.destroy_client(client))
