# SPDX-License-Identifier: Apache-2.0
"""Names, groups and words of the fifty tasks: plain data, checked without the benchmark."""

from __future__ import annotations

from collections import Counter

import pytest

from vla_ros.core.errors import ConfigError
from vla_ros.core.text import normalize_instruction
from vla_ros.sim.metaworld.tasks import GROUPS, TASKS, MetaWorldTask, group_of, nouns, parse_task, phrasings, tasks_of
from vla_ros.sim.metaworld.words import NOUNS, PHRASINGS


def test_fifty_tasks_are_in_four_groups_of_the_published_sizes():
    assert len(set(TASKS)) == 50
    assert {group: len(names) for group, names in GROUPS.items()} == {"easy": 28, "medium": 11, "hard": 6, "very_hard": 5}


def test_every_task_has_words_and_nothing_else_has():
    assert set(PHRASINGS) == set(NOUNS) == set(TASKS)
    assert all(len(seen) >= 4 and len(unseen) >= 2 for seen, unseen in PHRASINGS.values())


def test_no_sentence_means_two_tasks_or_stands_in_both_splits():
    counts = Counter(text for seen, unseen in PHRASINGS.values() for text in (*seen, *unseen))
    assert [text for text, count in counts.items() if count > 1] == []
    assert all(text == normalize_instruction(text).lower().rstrip(".") for text in counts)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_found_by_its_name_and_by_each_of_its_sentences(name):
    task = MetaWorldTask(name)
    for text in (name, *phrasings(task), *phrasings(task, "unseen"), phrasings(task)[0].capitalize() + "."):
        assert parse_task(text) == task
    assert len(nouns(task)) == 2 and group_of(name) in GROUPS


def test_other_words_name_no_task():
    assert parse_task("make me a sandwich") is None


def test_an_environments_name_chooses_all_a_group_or_one():
    assert tasks_of("metaworld:mt50") == tasks_of("metaworld") == TASKS
    assert tasks_of("metaworld:hard") == GROUPS["hard"] and tasks_of("metaworld:reach-v3") == ("reach-v3",)
    with pytest.raises(ConfigError, match="drawer-open-v3"):
        tasks_of("metaworld:drawer-open-v2")
