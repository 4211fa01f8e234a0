# SPDX-License-Identifier: Apache-2.0
"""The task language of core says what the simulator says: same words, same sizes, same verdicts on real scenes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from vla_ros.core.plan_check import PHASES, check_plan
from vla_ros.core.task_check import Status, check
from vla_ros.core.task_language import BLOCK_KINDS, COLOURS, CONTAINER_KINDS, DIRECTIONS, Act, PlannedMove, Thing, parse_instruction
from vla_ros.core.task_scene import TABLETOP, Scene
from vla_ros.sim import expert, scene, tasks, world
from vla_ros.sim.env import TabletopEnv
from vla_ros.sim.tasks import SPLITS, ObjectRef, all_tasks, phrasings


def act_of(task) -> Act:
    target = None if task.target is None else Thing(task.target.colour, task.target.kind)
    return Act(verb=task.family, obj=Thing(task.obj.colour, task.obj.kind), target=target, direction=task.direction)


def scene_of(state) -> Scene:
    held = state.held()
    positions = [(Thing(ref.colour, ref.kind), tuple(object_.position.tolist())) for ref, object_ in state.objects.items()]
    return Scene.from_positions(positions, held=None if held is None else Thing(held.colour, held.kind))


@pytest.fixture(scope="module")
def env():
    environment = TabletopEnv(randomize_look=0.0)
    yield environment
    environment.close()


@pytest.mark.parametrize("split", SPLITS)
def test_every_phrasing_of_every_task_is_read_as_its_act(split):
    refs = [ObjectRef(c, k) for c, k in itertools.product(scene.COLOURS, scene.KINDS)]
    for task in all_tasks(refs):
        for text in phrasings(task, split):
            assert parse_instruction(text) == (act_of(task),), text


def test_the_words_are_the_simulator_s():
    assert COLOURS == tuple(scene.COLOURS) and BLOCK_KINDS == scene.BLOCK_KINDS and CONTAINER_KINDS == scene.CONTAINER_KINDS
    assert DIRECTIONS == tasks.DIRECTIONS and PHASES == expert.PHASES


def test_the_sizes_are_the_simulator_s():
    for kind in scene.KINDS:
        assert TABLETOP.half_height[kind] == world.half_height(ObjectRef("red", kind))
    radii = {"bowl": world.IN_BOWL_RADIUS_M, "pad": world.ON_PAD_RADIUS_M, "block": world.ON_BLOCK_RADIUS_M}
    assert TABLETOP.resting_radius == radii and TABLETOP.side_line_y == scene.SIDE_LINE_Y_M


@pytest.mark.parametrize("seed", range(12))
def test_with_an_empty_hand_the_verdict_is_the_simulator_s(env, seed):
    """`is_feasible` of the simulator is an independent account of the same rules."""
    env.reset(seed)
    state = env.world_state()
    table = scene_of(state)
    tasks_here = all_tasks(state.objects)
    verdicts = {task: check([act_of(task)], table) for task in tasks_here}
    assert state.held() is None and len(tasks_here) > 20
    for task, verdict in verdicts.items():
        assert (verdict.status is Status.ALLOWED) == world.is_feasible(task, state), verdict.sentence


@pytest.mark.parametrize("seed", range(4))
def test_stacked_blocks_get_the_simulator_s_verdict(env, seed):
    env.reset(seed)
    blocks = [ref for ref in env.world_state().objects if ref.kind in scene.BLOCK_KINDS]
    containers = [ref for ref in env.world_state().objects if ref.kind in scene.CONTAINER_KINDS]
    for upper, lower in ((blocks[0], blocks[1]), (blocks[2], containers[0])):
        base = env.world_state().objects[lower].position
        env.place_object(upper, base + np.array([0.0, 0.0, world.half_height(lower) + world.half_height(upper)]), 0.0)
    env.place_arm(env.robot.home)
    state = env.world_state()
    table = scene_of(state)
    assert table.on_top(Thing(blocks[1].colour, blocks[1].kind)) == (Thing(blocks[0].colour, blocks[0].kind),)
    for task in all_tasks(state.objects):
        assert (check([act_of(task)], table).status is Status.ALLOWED) == world.is_feasible(task, state), task


@pytest.mark.parametrize("seed", range(4))
def test_every_plan_of_the_expert_is_allowed(env, seed):
    env.reset(seed)
    state = env.world_state()
    table = scene_of(state)
    for task in env.feasible_tasks():
        plan = expert.plan(task, state)
        x, y = plan.place
        verdict = check_plan(PlannedMove(phase=plan.phase, x=float(x), y=float(y)), act_of(task), table)
        assert verdict.status is Status.ALLOWED, verdict.sentence
