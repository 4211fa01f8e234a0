# SPDX-License-Identifier: Apache-2.0
"""Answers follow from the picture alone, are recomputed here in other ways, and none can be guessed from the question."""

from __future__ import annotations

from collections import Counter
import re

import numpy as np
import pytest

from vla_ros.core.errors import InputError
from vla_ros.core.task_language import parse_instruction
from vla_ros.core.text import normalize_instruction
from vla_ros.sim import expert
from vla_ros.sim.env import TabletopEnv
from vla_ros.sim.questions import (
    NUMBERS,
    PLACES,
    QUESTION_KINDS,
    Question,
    all_questions,
    all_texts,
    draw_questions,
    facts,
    is_right,
    next_step,
    place_in_words,
    places_in_picture,
)
from vla_ros.sim.scene import BLOCK_HALF_SIZE, BLOCK_KINDS, COLOURS
from vla_ros.sim.tasks import ObjectRef, Task, all_tasks, is_held_out, parse_task
from vla_ros.sim.world import ObjectState, WorldState, is_feasible

RED, BLUE, BOWL = ObjectRef("red", "cube"), ObjectRef("blue", "brick"), ObjectRef("green", "bowl")
GREEN = ObjectRef("green", "cube")
PICTURE = {RED: (0.20, 0.5), BLUE: (0.50, 0.6), BOWL: (0.80, 0.4)}


def world(gripper=0.042, tool=(0.3, 0.0, 0.2), touched=None, **moved):
    """Red cube, blue brick and green bowl on the table, far apart."""
    positions = {RED: (0.30, -0.15, 0.020), BLUE: (0.30, 0.0, 0.015), BOWL: (0.35, 0.15, 0.003)}
    positions |= {ref: moved[name] for name, ref in {"red": RED, "blue": BLUE, "green": GREEN}.items() if name in moved}
    objects = {
        ref: ObjectState(position=np.array(xyz), yaw=0.0, speed=0.0, touched_by=frozenset({0, 1} if ref == touched else ()))
        for ref, xyz in positions.items()
    }
    return WorldState(tool=np.array(tool), tool_yaw=0.0, gripper=gripper, objects=objects)


def uv(**moved):
    return {ref: np.array(place) for ref, place in (PICTURE | {{"green": GREEN}[k]: v for k, v in moved.items()}).items()}


def draw_question(*drawing, **settings):
    """One question, or None where there is none."""
    rng, *scene = drawing
    return next(iter(draw_questions(rng, 1, *scene, **settings)), None)


def answers(kind, state=None, places=None, split="seen"):
    state, places = state or world(), uv() if places is None else places
    return {q.text: q.answer for q in all_questions(state, places, split, [kind])}


@pytest.fixture(scope="module")
def env():
    environment = TabletopEnv(randomize_look=0.0)
    yield environment
    environment.close()


# ---- one kind after another ----


def test_colours_are_asked_of_shapes_that_are_there_once():
    assert answers("colour")["what colour is the cube?"] == "red"
    two = answers("colour", world(green=(0.40, 0.0, 0.02)), uv(green=(0.6, 0.4)))
    assert "what colour is the cube?" not in two and two["what colour is the brick?"] == "blue"


def test_the_outermost_object_has_a_colour_unless_it_is_a_close_thing():
    asked = answers("colour")
    assert asked["what colour is the object farthest to the left?"] == "red" and asked["what colour is the object farthest to the right?"] == "green"
    close = answers("colour", world(green=(0.4, -0.15, 0.02)), uv(green=(0.22, 0.4)))
    assert "what colour is the object farthest to the left?" not in close
    hidden = {ref: place for ref, place in uv().items() if ref != BLUE}
    assert not any("farthest" in text for text in answers("colour", places=hidden))


def test_places_are_thirds_of_the_picture():
    asked = answers("where")
    assert [asked[f"where is the {ref}?"] for ref in (RED, BLUE, BOWL)] == list(PLACES)
    assert [place_in_words(RED, world(), u) for u in (0.0, 0.30, 0.31, 0.36, 0.37, 0.63, 0.64, 0.69, 0.70, 1.0)] == [
        PLACES[0], PLACES[0], None, None, PLACES[1], PLACES[1], None, None, PLACES[2], PLACES[2]
    ]  # fmt: skip


def test_what_lies_on_something_or_in_the_hand_is_there():
    assert place_in_words(RED, world(red=(0.35, 0.15, 0.026)), 0.8) == "in the green bowl"
    assert place_in_words(RED, world(red=(0.30, 0.0, 0.05)), 0.5) == "on the blue brick"
    held = world(red=(0.3, 0.0, 0.2), touched=RED)
    assert place_in_words(RED, held, 0.5) == "in the gripper" and place_in_words(BLUE, held, 0.5) == "in the middle"


def test_counts_of_shapes_colours_and_everything():
    asked = answers("count", world(green=(0.40, 0.0, 0.02)), uv(green=(0.6, 0.4)))
    expected = {"cubes": "two", "bricks": "one", "cylinders": "none", "green objects": "two", "yellow objects": "none", "blocks": "three", "objects": "four"}
    assert {things: asked[f"how many {things} are there?"] for things in expected} == expected


def test_what_is_not_in_the_picture_is_neither_counted_nor_asked_about():
    places = {ref: place for ref, place in uv().items() if ref != RED}
    assert "how many cubes are there?" not in answers("count", places=places) and "how many bricks are there?" in answers("count", places=places)
    for kind in QUESTION_KINDS:
        assert not any("red cube" in text or "the cube" in text for text in answers(kind, places=places))


def test_sides_are_those_of_the_picture():
    asked = answers("left_of")
    assert asked["is the red cube left of the blue brick?"] == "yes" and asked["is the blue brick left of the red cube?"] == "no"
    for pair in ("the red cube or the blue brick", "the blue brick or the red cube"):
        assert asked[f"what is further left, {pair}?"] == "red cube"
    close = {RED: np.array([0.50, 0.2]), BLUE: np.array([0.52, 0.6])}
    assert not answers("left_of", places=close)


@pytest.mark.parametrize(
    "state, task, answer",
    [
        (world(), Task(family="pick", obj=RED), "go to the red cube"),
        (world(tool=(0.30, -0.15, 0.06)), Task(family="pick", obj=RED), "go down to the red cube"),
        (world(tool=(0.30, -0.15, 0.02)), Task(family="pick", obj=RED), "close the gripper"),
        (world(red=(0.3, 0.0, 0.05), tool=(0.3, 0.0, 0.05), gripper=0.02, touched=RED), Task(family="put", obj=RED, target=BOWL), "lift the red cube"),
        (world(red=(0.3, 0.0, 0.2), touched=RED, gripper=0.02), Task(family="put", obj=RED, target=BOWL), "carry the red cube to the green bowl"),
        (world(red=(0.3, 0.0, 0.2), touched=RED, gripper=0.02), Task(family="pick", obj=RED), "nothing"),
    ],
)
def test_what_comes_next_is_the_expert_s_next_phase(state, task, answer):
    assert next_step(task, state) == answer


def test_the_next_step_is_asked_only_where_a_pixel_changes_nothing():
    """The cone from which the expert goes down ends 18 mm beside a block at this height: on its edge nobody can tell from a picture."""
    ask = {d: answers("next", world(tool=(0.30, -0.15 + d, 0.08))).get("what comes next to pick up the red cube?") for d in (0.0, 0.008, 0.02, 0.024, 0.035, 0.06)}
    assert ask[0.0] == ask[0.008] == "go down to the red cube" and ask[0.06] == ask[0.035] == "go to the red cube"
    assert ask[0.02] is None and ask[0.024] is None


def test_next_steps_are_asked_only_of_tasks_of_the_split():
    for split in ("seen", "unseen"):
        for text in answers("next", split=split):
            task = parse_task(text)
            assert is_held_out(task) == (split == "unseen") and is_feasible(task, world())


def test_every_phase_has_words():
    from vla_ros.sim.questions import _NEXT

    assert set(_NEXT) == set(expert.PHASES)


# ---- real scenes ----


def belongs(name: str, group: str) -> bool:
    """Whether ``red cube`` is one of the ``cubes``, ``red objects``, ``blocks`` or ``objects``."""
    colour, kind = name.split()
    return group in ("objects", f"{colour} objects", f"{kind}s") or (group == "blocks" and kind in BLOCK_KINDS)


@pytest.mark.parametrize("seed", range(3))
def test_answers_on_real_scenes_agree_with_another_account(env, seed):
    """Counts from names, sides and places from base_link (left is negative y) instead of from the picture."""
    env.reset(seed)
    state, places = env.world_state(), places_in_picture(env)
    named = {str(ref): object_.position for ref, object_ in state.objects.items()}
    assert len(places) == len(state.objects)
    for question in all_questions(state, places):
        things = [f"{c} {k}" for c, k in re.findall(r"(red|green|blue|yellow|purple) (cube|cylinder|brick|bowl|pad)\b", question.text)]
        if question.kind == "count":
            group = re.sub(r"^(how many|what is the number of) | (are there|do you see)\?$|\?$", "", question.text)
            assert NUMBERS[sum(belongs(name, group) for name in named)] == question.answer, question
        if question.kind == "where" and question.answer in PLACES:
            y = named[things[0]][1]
            assert {PLACES[0]: y < -0.05, PLACES[1]: abs(y) < 0.13, PLACES[2]: y > 0.05}[question.answer], question
        if question.kind == "left_of":
            left = min(things, key=lambda name: named[name][1])
            nearly = abs(named[things[0]][1] - named[things[1]][1]) < 0.04  # perspective decides there
            assert nearly or question.answer == (left if question.answer not in ("yes", "no") else "yes" if left == things[0] else "no"), question


def test_the_picture_shows_each_block_s_colour_where_the_question_says(env):
    """Ties ground truth to pixels: without light's randomness the nearest colour at a block's top is its name."""
    checked = 0
    for seed in (0, 1):
        env.reset(seed)
        behind = env.robot.home.copy()
        behind[0] = 3.0  # rad; the arm points away from the table and hides nothing
        env.place_arm(behind)
        picture = env.render("front")
        for ref, state in env.world_state().objects.items():
            if ref.kind in BLOCK_KINDS:
                u, v = env.project("front", state.position + np.array([0.0, 0.0, BLOCK_HALF_SIZE[ref.kind][2]]))
                pixel = picture[int(v * picture.shape[0]), int(u * picture.shape[1])] / 255.0
                direction = {name: np.dot(pixel, rgb) / np.linalg.norm(pixel) / np.linalg.norm(rgb) for name, rgb in COLOURS.items()}
                checked += max(direction, key=direction.get) == ref.colour
                assert max(direction, key=direction.get) == ref.colour, (seed, ref)
    assert checked >= 6


def test_what_something_else_hides_is_not_in_the_picture(env):
    """A block under the table; another one stays where it is."""
    env.reset(0)
    objects = env.world_state().objects
    hidden, other = [ref for ref in objects if ref.kind in BLOCK_KINDS][:2]
    assert hidden in places_in_picture(env)
    env.place_object(hidden, objects[hidden].position - [0.0, 0.0, 0.1], 0.0)
    env.place_arm(env.robot.home)
    assert env.visible_shares("front")[hidden] == 0.0 and hidden not in places_in_picture(env)
    assert env.visible_shares("front")[other] > 0.003 and other in places_in_picture(env)


# ---- drawing ----


def test_no_answer_can_be_guessed_without_looking():
    rng = np.random.default_rng(0)
    drawn = [draw_question(rng, world(), uv(), kinds=["left_of"]) for _ in range(600)]
    yes_no = Counter(q.answer for q in drawn if q.answer in ("yes", "no"))
    assert abs(yes_no["yes"] - yes_no["no"]) < 5 * np.sqrt(sum(yes_no.values()))  # five standard deviations of a fair coin's difference
    first_named = [q.answer == re.search(r"the (\w+ \w+) (?:or|left)", q.text)[1] for q in drawn if q.answer not in ("yes", "no")]
    # Red is always left of the others here, and answers are drawn evenly: the order of the two names tells nothing.
    assert abs(2 * sum(first_named) - len(first_named)) < 5 * np.sqrt(len(first_named))


def test_kinds_are_drawn_evenly():
    rng = np.random.default_rng(0)
    counts = Counter(draw_question(rng, world(), uv()).kind for _ in range(500))
    assert set(counts) == set(QUESTION_KINDS) and min(counts.values()) > 60  # 100 each, standard deviation 9


@pytest.mark.parametrize("split", ["seen", "unseen"])
def test_what_is_drawn_is_among_all_questions(split):
    rng, everything = np.random.default_rng(1), set(all_questions(world(), uv(), split))
    drawn = [draw_question(rng, world(), uv(), split) for _ in range(100)]
    assert {q for q in drawn if q is not None} <= everything and len(set(drawn)) > 20


def test_the_splits_share_no_words():
    assert not {q.text for q in all_questions(world(), uv(), "seen")} & {q.text for q in all_questions(world(), uv(), "unseen")}


def test_a_picture_of_nothing_settles_nothing():
    empty = WorldState(tool=np.zeros(3), tool_yaw=0.0, gripper=0.0, objects={})
    assert draw_question(np.random.default_rng(0), empty, {}, kinds=["colour", "where", "left_of", "next"]) is None
    with pytest.raises(ValueError, match="there are colour, where"):
        facts("smell", empty, {})


def test_the_same_seed_draws_the_same_question():
    assert draw_question(np.random.default_rng(7), world(), uv()) == draw_question(np.random.default_rng(7), world(), uv())


# ---- words ----


def test_every_word_is_known_beforehand():
    texts = set(all_texts())
    state, places = world(green=(0.40, 0.0, 0.02)), uv(green=(0.6, 0.4))
    for split in ("seen", "unseen"):
        for question in all_questions(state, places, split):
            assert question.text in texts and question.answer in texts, question
    assert all(text == normalize_instruction(text) for text in texts)


def test_no_question_is_read_as_an_instruction():
    """A question must not move the arm; what comes next names a task and is told apart by its kind."""
    state, places = world(green=(0.40, 0.0, 0.02)), uv(green=(0.6, 0.4))
    for split in ("seen", "unseen"):
        for question in all_questions(state, places, split, [kind for kind in QUESTION_KINDS if kind != "next"]):
            with pytest.raises(InputError):
                parse_instruction(question.text)


def test_tasks_named_by_questions_are_tasks():
    asked = {parse_task(text) for text in all_texts() if text.startswith("what comes next to")}
    assert set(all_tasks([RED, BLUE, BOWL])) <= asked and None not in asked


@pytest.mark.parametrize("said, right", [("red cube", True), ("The red cube.", True), (" RED  CUBE ", True), ("red", False), ("blue cube", False), ("", False), ("red cube or blue brick", False)])
def test_answers_are_compared_by_their_words(said, right):
    assert is_right(Question(kind="left_of", text="", answer="red cube"), said) == right
