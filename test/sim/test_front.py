# SPDX-License-Identifier: Apache-2.0
"""The family that the shipped policy was never taught: what the words mean, its expert, its demonstrations."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

pytest.importorskip("mujoco")

from vla_ros.closed_loop import load_closed_loop
from vla_ros.evaluate import plan_episodes
from vla_ros.sim.collect import EpisodeRecorder
from vla_ros.sim.scene import BLOCK_KINDS, COLOURS, KINDS
from vla_ros.sim.snapshots import SnapshotRecorder
from vla_ros.sim.tasks import PARTLY_UNSEEN, ObjectRef, Task, all_tasks, is_held_out, parse_task, phrasings, sample_task
from vla_ros.sim.world import FRONT_XY, ObjectState, WorldState, is_feasible, is_placed

OBJECTS = [ObjectRef(colour, kind) for colour in COLOURS for kind in KINDS]
FRONT = all_tasks(OBJECTS, ("front",))
CUBE, PAD = ObjectRef("red", "cube"), ObjectRef("blue", "pad")


def test_it_is_drawn_only_when_asked_for():
    assert not any(task.family == "front" for task in all_tasks(OBJECTS))
    assert len(FRONT) == len(COLOURS) * len(BLOCK_KINDS)
    assert 0 < sum(map(is_held_out, FRONT)) < 4


@pytest.mark.parametrize("split", ["seen", "unseen"])
def test_its_words_are_its_own(split):
    others = {text for task in all_tasks(OBJECTS) for known in ("seen", "unseen") for text in phrasings(task, known)}
    for task in FRONT:
        assert not others & set(phrasings(task, split))
        assert all(parse_task(text, OBJECTS) == task for text in phrasings(task, split))


@pytest.mark.parametrize(("split", "held_out", "words"), [("combinations", True, "seen"), ("phrasings", False, "unseen")])
def test_splits_of_which_one_half_is_unseen(split, held_out, words):
    assert split in PARTLY_UNSEEN
    tasks = all_tasks(OBJECTS)
    for seed in range(30):
        task, text = sample_task(np.random.default_rng(seed), tasks, split)
        assert is_held_out(task) == held_out and text in phrasings(task, words)


def world(cube_xy: tuple[float, float], pad_xy: tuple[float, float]) -> WorldState:
    objects = {ref: ObjectState(position=np.array([*xy, z]), yaw=0.0, speed=0.0) for ref, xy, z in ((CUBE, cube_xy, 0.02), (PAD, pad_xy, 0.003))}
    return WorldState(tool=np.array([0.3, 0.0, 0.2]), tool_yaw=0.0, gripper=0.04, objects=objects)


def test_it_can_be_done_where_the_front_is_free():
    task = Task(family="front", obj=CUBE)
    assert is_feasible(task, world((0.25, 0.1), (0.3, 0.2)))
    assert not is_feasible(task, world((0.25, 0.1), (FRONT_XY[0] - 0.05, 0.05)))
    assert is_placed(task, world((FRONT_XY[0] - 0.02, -0.02), (0.3, 0.2))) and not is_feasible(task, world(FRONT_XY, (0.3, 0.2)))
    assert not is_placed(task, world((FRONT_XY[0] - 0.04, 0.0), (0.3, 0.2)))


def test_the_expert_does_it():
    loop = load_closed_loop("expert", settings={"delay_ms": 60.0})
    results = [loop.run(spec) for spec in plan_episodes(3, 0, 5, "seen", ("front",))]
    assert [result.reason for result in results] == ["success"] * 3
    assert {result.family for result in results} == {"front"}


@pytest.mark.parametrize(("kind", "first_seed"), [(SnapshotRecorder, 40_000_000), (EpisodeRecorder, 45_000_000)])
def test_its_demonstrations_hold_nothing_else(kind, first_seed):
    recorder = kind(2, families=("front",))
    frames = list(itertools.islice((frame for seed in itertools.count(first_seed) for frame in recorder.episode(seed)), 6))
    recorder.env.close()
    assert {parse_task(text, OBJECTS).family for frame in frames for text in frame["texts"]} == {"front"}
    assert all(frame["actions"].shape[0] == len(frame["texts"]) == 2 for frame in frames)
