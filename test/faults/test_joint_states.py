# SPDX-License-Identifier: Apache-2.0
"""Joint states of rows 2 to 7 over DDS. Rows 1 and 8 to 11 are in ``test/ros/test_policy_node.py``."""

from __future__ import annotations

from array import array

import numpy as np
import pytest

pytestmark = pytest.mark.ros


def goes_on(rig, count=4):
    """Waits until the policy has answered a few more times, and the robot still acts."""
    before = len(rig.robot.tokens)
    rig.until(lambda: len(rig.robot.tokens) > before + count, "inference goes on")
    assert rig.robot.state == "acting"


def holds(rig, code):
    """The bad messages are dropped and counted; the robot holds when the last good one is stale, and goes on after good ones."""
    rig.until_code("JOINTS_STALE")
    rig.until_at_rest()
    assert rig.drops[f"joint_states.{code}"] > 0
    rig.robot.alter_joints = lambda _: None
    rig.until_code("ACTING")


def keep(message, indices):
    message.name = [message.name[i] for i in indices]
    for field in ("position", "velocity", "effort"):
        values = getattr(message, field)
        setattr(message, field, array("d", [values[i] for i in indices]))


def test_row_2_a_missing_joint_is_dropped_and_named(rig, capfd):
    rig.go()
    rig.robot.alter_joints = lambda message: keep(message, [0, 1, 3, 4, 5, 6])
    holds(rig, "joint_missing")
    assert "lacks elbow_joint" in capfd.readouterr().err


def test_row_3_extra_joints_are_ignored(rig):
    robot = rig.go()

    def add(message):
        message.name = [*message.name, "head_joint"]
        for field in ("position", "velocity", "effort"):
            setattr(message, field, array("d", [*getattr(message, field), float("nan")]))

    before = rig.drops
    robot.alter_joints = add
    goes_on(rig)
    assert rig.drops == before


def test_row_4_another_order_is_mapped_by_name(rig):
    robot = rig.go()
    robot.alter_joints = lambda message: keep(message, [6, 2, 0, 5, 1, 4, 3])
    goes_on(rig)
    robot.instruct("")
    rig.until_code("IDLE")
    rig.until_at_rest()
    rig.until(lambda: np.allclose(rig.node._inputs.sample.positions_J, robot.position_J), "each joint has its own value")


def test_row_5_arrays_and_names_of_different_length_are_dropped(rig):
    rig.go()

    def cut(message):
        message.position = message.position[:-1]

    rig.robot.alter_joints = cut
    holds(rig, "joint_lengths")


def test_row_6_velocities_are_derived_where_there_are_none(rig):
    robot = rig.go()

    def clear(message):
        message.velocity = array("d")

    robot.alter_joints = clear
    goes_on(rig)
    sample = rig.node._inputs.sample
    assert sample.velocity_is_derived and np.isfinite(sample.velocities_J).all()


def test_row_7_a_name_twice_is_dropped(rig):
    rig.go()
    rig.robot.alter_joints = lambda message: keep(message, [0, 1, 2, 3, 4, 5, 6, 2])
    holds(rig, "joint_twice")
