# SPDX-License-Identifier: Apache-2.0
"""Every act has words that read back to it, and words that are no act are refused with what is understood."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_ros.core.errors import DecodeError, InputError
from vla_ros.core.plan import PlanSlot, PlanSpec
from vla_ros.core.task_language import (
    BLOCK_KINDS,
    COLOURS,
    CONTAINER_KINDS,
    DIRECTIONS,
    VERBS,
    Act,
    PlannedMove,
    Thing,
    describe_program,
    parse_instruction,
    parse_plan,
    read_plan,
)

BLOCKS = [Thing(c, k) for c, k in itertools.product(COLOURS, BLOCK_KINDS)]
CONTAINERS = [Thing(c, k) for c, k in itertools.product(COLOURS, CONTAINER_KINDS)]
ACTS = [
    *(Act(verb=verb, obj=obj) for verb in ("reach", "pick", "put_down") for obj in BLOCKS),
    *(Act(verb="push", obj=obj, direction=side) for obj in BLOCKS for side in DIRECTIONS),
    *(Act(verb="put", obj=obj, target=target) for obj in BLOCKS for target in CONTAINERS),
    *(Act(verb="stack", obj=obj, target=target) for obj, target in itertools.permutations(BLOCKS, 2)),
]
RED, BLUE, BOWL, PAD = Thing("red", "cube"), Thing("blue", "brick"), Thing("green", "bowl"), Thing("yellow", "pad")
SPEC = PlanSpec(
    slots=(
        PlanSlot(name="phase", words=("approach", "grasp")),
        PlanSlot(name="x", low=0.1, high=0.6, unit="m", frame="base_link"),
        PlanSlot(name="y", low=-0.35, high=0.35, unit="m", frame="base_link"),
    )
)


def test_every_act_is_read_from_its_own_words():
    for act in ACTS:
        assert parse_instruction(act.describe()) == (act,), act.describe()


def test_no_two_acts_have_the_same_words():
    assert len({act.describe() for act in ACTS}) == len(ACTS)


@given(st.lists(st.sampled_from(ACTS), min_size=1, max_size=4))
def test_a_program_is_read_from_its_own_words(acts):
    assert parse_instruction(describe_program(acts)) == tuple(acts)


@pytest.mark.parametrize(
    "text, act",
    [
        ("Could you PUT the red cube, into the green bowl?", Act(verb="put", obj=RED, target=BOWL)),
        ("pick up the red cube and put it on the yellow pad", Act(verb="put", obj=RED, target=PAD)),
        ("grab the red cube and lift it", Act(verb="pick", obj=RED)),
        ("move the gripper to the red cube", Act(verb="reach", obj=RED)),
        ("move the red cube to the left", Act(verb="push", obj=RED, direction="left")),
        ("move the red cube into the green bowl", Act(verb="put", obj=RED, target=BOWL)),
        ("put the red cube on the blue brick", Act(verb="stack", obj=RED, target=BLUE)),
        ("set down the red cube", Act(verb="put_down", obj=RED)),
        ("  pick\tup\u200b the red cube\u0000 ", Act(verb="pick", obj=RED)),
    ],
)
def test_phrasings_with_the_same_meaning(text, act):
    assert parse_instruction(text) == (act,)


def test_then_makes_a_sequence():
    program = parse_instruction("push the red cube left and then pick up the blue brick, then put the blue brick in the green bowl")
    assert [act.verb for act in program] == ["push", "pick", "put"]


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "names no object"),
        ("dance", "names no object"),
        ("pick up the pink cube", "names no object: say a colour"),
        ("pick up the red bowl", "cannot be moved or held"),
        ("put the red cube", "no verb that fits"),
        ("admire the red cube", "no verb that fits"),
        ("eat the red cube on the blue brick", "no verb that fits"),
        ("look at the red cube to the left", "no verb that fits"),
        ("stack the red cube on the red cube", "on itself"),
        ("put the red cube and the blue brick in the green bowl", "names 3 objects"),
        ("push the red cube left and right", "both left and right"),
        ("pick up the red cube then", "names no object"),
        ("put the green bowl on the red cube", "cannot be moved"),
    ],
)
def test_words_that_are_no_act_are_refused_with_what_is_understood(text, message):
    with pytest.raises(InputError, match=message) as caught:
        parse_instruction(text)
    assert caught.value.code == "no_task"


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_and_never_breaks(text):
    try:
        assert parse_instruction(text)
    except InputError as error:
        assert error.code == "no_task"


@given(st.lists(st.sampled_from("put pick push the red blue cube brick bowl left right on in then it and stack go down".split()), max_size=12))
def test_any_order_of_known_words_is_read_or_refused(words):
    try:
        for act in parse_instruction(" ".join(words)):
            assert parse_instruction(act.describe()) == (act,)
    except InputError as error:
        assert error.code == "no_task"


def test_parts_that_do_not_belong_together_make_no_act():
    targets, places = (None, BOWL, BLUE, RED), (None, (0.3, 0.0))
    for verb, obj, target, side, place in itertools.product((*VERBS, "throw"), (RED, BOWL), targets, (None, "left", "up"), places):
        fits = {
            "reach": (None, None), "pick": (None, None), "put_down": (None, None), "push": (None, "left"), "put": (BOWL, None), "stack": (BLUE, None)
        }.get(verb)  # fmt: skip
        good = obj == RED and (target, side) == fits and (place is None or verb == "put_down")
        try:
            Act(verb=verb, obj=obj, target=target, direction=side, place=place)
            assert good, (verb, obj, target, side, place)
        except InputError as error:
            assert not good and error.code == "no_task", (verb, obj, target, side, place)


# ---- plans ----


@given(st.integers(0, 1), st.integers(0, 255), st.integers(0, 255))
def test_a_plan_is_read_from_its_tokens_and_from_its_text(phase, x, y):
    move = read_plan(SPEC, [phase, x, y])
    assert move.phase == ("approach", "grasp")[phase] and 0.1 < move.x < 0.6 and -0.35 < move.y < 0.35
    said = parse_plan(SPEC.describe([phase, x, y]))
    assert said.phase == move.phase and abs(said.x - move.x) <= 5.1e-4 and abs(said.y - move.y) <= 5.1e-4  # it is said in mm


def test_a_plan_that_is_no_phase_and_place_is_refused():
    words = PlanSpec(slots=(PlanSlot(name="phase", words=("go",)),))
    angles = PlanSpec(slots=(SPEC.slots[0], PlanSlot(name="x", unit="rad"), SPEC.slots[2]))
    for spec, tokens in ((words, [0]), (angles, [0, 0, 0])):
        with pytest.raises(InputError, match="slots phase"):
            read_plan(spec, tokens)
    for tokens in ([0, 0], [2, 0, 0], [0, 256, 0]):
        with pytest.raises(DecodeError):
            read_plan(SPEC, tokens)


@pytest.mark.parametrize("text", ["", "grasp", "grasp x=0.3 m", "x=0.3 m y=0.1 m", "grasp x=nan m y=0.1 m", "grasp x=0.3 rad y=0.1 m", "grasp x=0.3 m y=0.1 m z=1 m"])
def test_other_text_is_no_plan(text):
    with pytest.raises(InputError, match="is no plan"):
        parse_plan(text)


def test_numbers_of_a_plan_keep_their_sign():
    assert parse_plan("grasp x=0.312 m y=-0.041 m") == PlannedMove(phase="grasp", x=0.312, y=-0.041)
