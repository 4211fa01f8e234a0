# SPDX-License-Identifier: Apache-2.0
import itertools

import numpy as np
import pytest

from vla_ros.sim.scene import BLOCK_KINDS, COLOURS, CONTAINER_KINDS
from vla_ros.sim.tasks import FAMILIES, SPLITS, ObjectRef, Task, all_tasks, is_held_out, parse_task, phrasings, sample_task

OBJECTS = [ObjectRef(c, k) for c, k in itertools.product(COLOURS, BLOCK_KINDS + CONTAINER_KINDS)]
TASKS = all_tasks(OBJECTS)


@pytest.mark.parametrize("split", SPLITS)
def test_every_phrasing_parses_back_to_its_task(split):
    for task in TASKS:
        for text in phrasings(task, split):
            assert parse_task(text) == task, text


def test_the_splits_share_no_phrasing():
    for task in TASKS:
        assert not set(phrasings(task, "seen")) & set(phrasings(task, "unseen"))


def test_held_out_combinations_are_some_of_each_family_but_few():
    for family in FAMILIES:
        held_out = [is_held_out(t) for t in TASKS if t.family == family]
        assert 0.05 < np.mean(held_out) < 0.3, family


def test_sampling_keeps_the_splits_apart():
    rng = np.random.default_rng(0)
    for _ in range(300):
        seen, unseen = sample_task(rng, TASKS, "seen"), sample_task(rng, TASKS, "unseen")
        assert not is_held_out(seen[0]) and is_held_out(unseen[0])


@pytest.mark.parametrize("text", ["", "dance", "pick up the pink cube", "put the red cube", "pick up the red bowl", "stack the red cube on the red cube"])
def test_words_that_are_no_task_are_not_guessed(text):
    assert parse_task(text) is None


def test_an_object_that_is_not_there_is_no_task():
    red = ObjectRef("red", "cube")
    assert parse_task("pick up the red cube", [red]) == Task(family="pick", obj=red)
    assert parse_task("pick up the blue cube", [red]) is None
