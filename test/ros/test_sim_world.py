# SPDX-License-Identifier: Apache-2.0
"""The tabletop in wall time."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("mujoco")


@pytest.fixture(scope="module")
def world():
    from vla_ros.ros.sim_world import RealtimeTabletop

    world = RealtimeTabletop()
    yield world
    world.close()


def test_servos_approach_a_far_target_no_faster_than_the_joints_may_move(world):
    world.restart(0)
    period_s, target_J = 0.01, world.robot.home.copy()
    target_J[0] += 1.0
    positions_J = [world.observe(cameras=False).joint_positions_J]
    for _ in range(120):
        world.advance(target_J, period_s)
        positions_J.append(world.observe(cameras=False).joint_positions_J)
    speed = np.abs(np.diff(positions_J, axis=0)).max(axis=0) / period_s
    assert (speed[:1] < 1.1 * world.robot.limits.velocity[:1]).all() and speed[0] > 0.8 * world.robot.limits.velocity[0]
    assert abs(positions_J[-1][0] - target_J[0]) < 0.01


def test_an_episode_begins_with_the_servos_at_home(world):
    world.restart(0)
    for _ in range(30):
        world.advance(world.robot.home + 0.3, 0.01)
    world.restart(1)
    world.advance(world.robot.home, 0.01)
    assert np.abs(world.observe(cameras=False).joint_positions_J - world.robot.home).max() < 0.02


@pytest.mark.parametrize("module", ["vla_ros.ros.simulator", "vla_ros.sim.env", "vla_ros.sim.collect"])
def test_pictures_need_no_screen_and_no_variable(module):
    """In a process of its own: MuJoCo chooses where it draws while it is imported."""
    pytest.importorskip("rclpy")
    environment = {name: value for name, value in os.environ.items() if name != "MUJOCO_GL"}
    code = f"import {module}, mujoco.gl_context; print(mujoco.gl_context.GLContext.__module__)"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.split()[-1:] == ["mujoco.egl"], done.stdout + done.stderr
