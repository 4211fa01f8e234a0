# SPDX-License-Identifier: Apache-2.0
"""The foreseen world after committed steps, against geometry written out by hand and against the physics."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vla_ros.core.tabletop import ACTION_SPEC
from vla_ros.sim import expert
from vla_ros.sim.commitments import draw_committed
from vla_ros.sim.foresight import continued_chunk, step_ahead
from vla_ros.sim.tasks import ObjectRef, Task
from vla_ros.sim.world import ObjectState, WorldState

CUBE, BOWL = ObjectRef("red", "cube"), ObjectRef("blue", "bowl")
BOUNDS = np.array([[0.18, -0.34, 0.012], [0.56, 0.34, 0.42]])


def make_world(tool=(0.32, 0.0, 0.2), gripper=0.042, cube=(0.40, 0.10, 0.02), touched=(), yaw=0.0) -> WorldState:
    objects = {
        CUBE: ObjectState(position=np.array(cube), yaw=0.0, speed=0.0, touched_by=frozenset(touched)),
        BOWL: ObjectState(position=np.array([0.3, -0.2, 0.0]), yaw=0.0, speed=0.0),
    }
    return WorldState(tool=np.array(tool), tool_yaw=yaw, gripper=gripper, objects=objects)


def pose(xyz, yaw=0.0, gripper=0.042):
    return np.array([0.0, *xyz, yaw, gripper])


def test_what_is_held_comes_along_and_turns():
    world = make_world(tool=(0.4, 0.1, 0.02), cube=(0.41, 0.1, 0.02), gripper=0.02, touched=(0, 1))
    after = step_ahead(world, pose((0.3, 0.0, 0.15), yaw=np.pi / 2, gripper=0.0), 0.2)
    assert after.held() == CUBE
    np.testing.assert_allclose(after.objects[CUBE].position, [0.3, 0.01, 0.15], atol=1e-12)
    assert after.objects[CUBE].yaw == pytest.approx(np.pi / 2)


def test_what_is_let_go_stays():
    world = make_world(tool=(0.4, 0.1, 0.05), cube=(0.4, 0.1, 0.05), gripper=0.02, touched=(0, 1))
    after = step_ahead(world, pose((0.4, 0.1, 0.05), gripper=0.042), 0.2)
    assert after.held() is None and after.gripper > 0.03
    far = step_ahead(after, pose((0.3, 0.0, 0.2)), 0.2)
    np.testing.assert_allclose(far.objects[CUBE].position, [0.4, 0.1, 0.05])


def test_closing_fingers_are_stopped_by_a_block_and_nothing_is_held_on_a_guess():
    world = make_world(tool=(0.4, 0.1, 0.02), gripper=0.03)
    after = step_ahead(world, pose((0.4, 0.1, 0.02), gripper=0.0), 0.2)
    assert 0.0 < after.gripper < 0.03 and after.held() is None
    empty = step_ahead(make_world(gripper=0.03), pose((0.32, 0.0, 0.2), gripper=0.0), 0.2)
    assert empty.gripper == pytest.approx(0.01)


@pytest.mark.parametrize(("start_y", "end_y", "z", "moved"), [(0.0, 0.10, 0.02, True), (0.0, 0.05, 0.02, False), (0.0, 0.10, 0.1, False), (0.2, 0.3, 0.02, False)])
def test_fingers_push_what_stands_in_their_way(start_y, end_y, z, moved):
    world = make_world(tool=(0.4, start_y, z), gripper=0.0)
    after = step_ahead(world, pose((0.4, end_y, z), gripper=0.0), 0.2)
    shift = after.objects[CUBE].position - world.objects[CUBE].position
    contact = expert.push_half(CUBE) + expert.FINGER_HALF_Y_M
    np.testing.assert_allclose(shift, [0.0, max(end_y + contact - 0.1, 0.0) if moved else 0.0, 0.0], atol=1e-9)


def test_the_chunk_begins_as_committed_and_goes_on_from_there():
    task, world = Task(family="reach", obj=CUBE), make_world()
    steps = np.array([[0.0, 0.0, -0.05, 0.0, 0.1, 0.042], [0.0, 0.0, -0.10, 0.0, 0.2, 0.042]])
    chunk, plan = continued_chunk(task, world, steps, 5, 0.2)
    np.testing.assert_array_equal(chunk[:2], steps)
    later = replace(world, tool=world.tool + [0.0, -0.10, 0.0], tool_yaw=0.2)
    expected = expert.chunk(expert.plan(task, later), later, 3, 0.2) + [0.0, 0.0, -0.10, 0.0, 0.2, 0.0]
    np.testing.assert_allclose(chunk[2:], expected, atol=1e-12)
    assert plan.phase == expert.plan(task, later).phase


def test_without_commitment_it_is_the_experts_chunk():
    task, world = Task(family="pick", obj=CUBE), make_world()
    chunk, _ = continued_chunk(task, world, np.zeros((0, 6)), 5, 0.2)
    np.testing.assert_allclose(chunk, expert.chunk(expert.plan(task, world), world, 5, 0.2), atol=1e-12)


def test_drawn_commitments_are_legal_and_of_all_lengths():
    rng, world = np.random.default_rng(0), make_world()
    tasks = [Task(family="reach", obj=CUBE), Task(family="put", obj=CUBE, target=BOWL), Task(family="push", obj=CUBE, direction="left")]
    counts = []
    for _ in range(300):
        steps = draw_committed(rng, tasks[0], tasks, world, ACTION_SPEC, BOUNDS)
        counts.append(len(steps))
        ACTION_SPEC.validate_values(steps)
        assert not steps[:, 0].any()
        inside = steps[:, 1:4] + world.tool
        assert (inside >= BOUNDS[0] - 1e-9).all() and (inside <= BOUNDS[1] + 1e-9).all()
    assert set(counts) == {0, 1, 2, 3} and counts.count(1) > 100
