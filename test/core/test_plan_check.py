# SPDX-License-Identifier: Apache-2.0
"""A plan is allowed, repaired to its object's place, or refused before it moves the arm."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_ros.core.plan_check import PHASES, PHASES_OF, check_plan
from vla_ros.core.task_check import Status
from vla_ros.core.task_language import VERBS, Act, PlannedMove, Thing
from vla_ros.core.task_scene import TABLETOP, Scene

RED, BLUE, BOWL = Thing("red", "cube"), Thing("blue", "brick"), Thing("green", "bowl")
PLACES = {RED: (0.30, 0.00), BLUE: (0.40, -0.12), BOWL: (0.40, 0.12)}
ACTS = {
    "reach": Act(verb="reach", obj=RED),
    "push": Act(verb="push", obj=RED, direction="left"),
    "pick": Act(verb="pick", obj=RED),
    "put": Act(verb="put", obj=RED, target=BOWL),
    "stack": Act(verb="stack", obj=RED, target=BLUE),
    "put_down": Act(verb="put_down", obj=RED, place=(0.35, 0.05)),
}


def scene(held=None):
    heights = {thing: 0.2 if thing == held else TABLETOP.half_height[thing.kind] for thing in PLACES}
    return Scene.from_positions([(thing, (*place, heights[thing])) for thing, place in PLACES.items()], held=held)


def move(phase, place=PLACES[RED]):
    return PlannedMove(phase=phase, x=place[0], y=place[1])


def needs_object(phase):
    return phase in ("lift", "carry", "lower")


def place_of(verb, phase):
    """Where the expert says that each phase is: at the object until it is lifted, then at the target."""
    if verb == "put_down":
        return ACTS[verb].place
    return PLACES[ACTS[verb].target] if ACTS[verb].target and phase in ("carry", "lower") else PLACES[RED]


@pytest.mark.parametrize("verb, phase, held", list(itertools.product(VERBS, PHASES, (None, RED, BLUE))))
def test_every_phase_of_every_verb_with_every_hand(verb, phase, held):
    verdict = check_plan(move(phase, place_of(verb, phase)), ACTS[verb], scene(held))
    refused = phase not in PHASES_OF[verb]
    if phase not in ("retreat", "done"):
        refused |= verb != "reach" and held == BLUE
        refused |= verb == "push" and held == RED
        refused |= needs_object(phase) and held != RED
    assert (verdict.status is Status.REFUSED) == refused, verdict.sentence
    assert verdict.status is Status.REFUSED or verdict.move == move(phase, place_of(verb, phase))
    assert verdict.sentence


def test_phases_are_those_of_some_verb_and_no_others():
    assert set(PHASES) == {phase for phases in PHASES_OF.values() for phase in phases} and set(PHASES_OF) == set(VERBS)


@pytest.mark.parametrize(
    "plan, verb, held, message",
    [
        (move("approach", (0.55, 0.1)), "pick", None, "x=0.55 m, y=0.10 m is outside the hand's reach"),
        (move("carry", (0.40, 0.40)), "put", RED, "outside the hand's reach"),
        (move("grasp", (math.nan, 0.0)), "pick", None, "outside"),
        (move("push"), "pick", None, "'push' is no phase of 'pick up the red cube': it has approach"),
        (move("dance"), "pick", None, "'dance' is no phase"),
        (move("grasp"), "pick", BLUE, "holds the blue brick, not the red cube: put it down first"),
        (move("push"), "push", RED, "put it down before pushing"),
        (move("lower", PLACES[BOWL]), "put", None, "needs the red cube in the hand, which is empty"),
    ],
)
def test_what_no_other_place_mends_is_refused(plan, verb, held, message):
    verdict = check_plan(plan, ACTS[verb], scene(held))
    assert verdict.status is Status.REFUSED and verdict.move is None and message in verdict.sentence


def test_an_object_that_is_not_there_or_out_of_reach_is_refused():
    gone = Act(verb="pick", obj=Thing("purple", "cube"))
    assert "no purple cube" in check_plan(move("approach"), gone, scene()).sentence
    far = Scene.from_positions([(RED, (0.7, 0.0, 0.02))])
    verdict = check_plan(move("approach", (0.3, 0.1)), ACTS["pick"], far)
    assert verdict.status is Status.REFUSED and "the red cube at x=0.70 m" in verdict.sentence


@pytest.mark.parametrize("verb, phase, held, thing", [("pick", "approach", None, RED), ("put", "grasp", None, RED), ("put", "carry", RED, BOWL), ("stack", "lower", RED, BLUE), ("put", "lift", RED, BOWL)])
def test_a_place_that_is_not_at_its_object_is_repaired(verb, phase, held, thing):
    verdict = check_plan(move(phase, (0.22, -0.25)), ACTS[verb], scene(held))
    assert verdict.status is Status.REPAIRED and verdict.move == move(phase, PLACES[thing])
    assert f"is not at the {thing}" in verdict.sentence


def test_lifting_may_be_said_at_the_object_or_at_the_target():
    for place in (PLACES[RED], PLACES[BOWL]):
        assert check_plan(move("lift", place), ACTS["put"], scene(RED)).status is Status.ALLOWED


def test_something_may_be_put_down_anywhere_within_reach_unless_a_place_was_given():
    assert check_plan(move("lower", (0.35, 0.05)), ACTS["put_down"], scene(RED)).status is Status.ALLOWED
    assert check_plan(move("lower", (0.22, 0.10)), ACTS["put_down"], scene(RED)).move == move("lower", (0.35, 0.05))
    anywhere = Act(verb="put_down", obj=RED)
    assert check_plan(move("lower", (0.22, 0.10)), anywhere, scene(RED)).status is Status.ALLOWED


@given(st.sampled_from(PHASES), st.floats(0.05, 0.65), st.floats(-0.4, 0.4), st.sampled_from(VERBS), st.sampled_from([None, RED, BLUE]))
def test_whatever_may_move_the_arm_is_within_reach_and_at_an_object_of_the_act(phase, x, y, verb, held):
    table, act = scene(held), ACTS[verb]
    verdict = check_plan(PlannedMove(phase=phase, x=x, y=y), act, table)
    if verdict.move is not None and phase not in ("retreat", "done"):
        place = (verdict.move.x, verdict.move.y)
        assert TABLETOP.is_reachable(*place)
        goals = [act.place] if verb == "put_down" else [table.find(t).position[:2] for t in (act.obj, act.target) if t is not None]
        assert min(math.dist(place, goal) for goal in goals) <= TABLETOP.place_tolerance
