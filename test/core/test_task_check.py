# SPDX-License-Identifier: Apache-2.0
"""A verdict 'allowed' has every precondition true, a repair makes them true, and a refusal says why."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_ros.core.errors import InputError
from vla_ros.core.task_check import Status, check, check_instruction, effects, preconditions
from vla_ros.core.task_language import BLOCK_KINDS, COLOURS, CONTAINER_KINDS, VERBS, Act, Thing
from vla_ros.core.task_scene import TABLETOP, Scene, SceneObject, free_place, is_free_place, is_upright

RED, BLUE, GREEN = Thing("red", "cube"), Thing("blue", "brick"), Thing("green", "cylinder")
BOWL, PAD = Thing("green", "bowl"), Thing("yellow", "pad")
HALF = TABLETOP.half_height
PLACES = {RED: (0.30, 0.00), BLUE: (0.40, -0.12), GREEN: (0.22, 0.10), BOWL: (0.40, 0.12), PAD: (0.24, -0.20)}


def scene(held=None, **moved):
    """The blocks and containers of ``PLACES`` on the table; ``red=(x, y[, z])`` moves one."""
    names = {"red": RED, "blue": BLUE, "green": GREEN, "bowl": BOWL, "pad": PAD}
    positions = {thing: (*place, HALF[thing.kind]) for thing, place in PLACES.items()}
    for name, place in moved.items():
        positions[names[name]] = tuple(place) if len(place) == 3 else (*place, HALF[names[name].kind])
    return Scene.from_positions(positions.items(), held=held)


def on(lower, upper, base=None):
    """Position of ``upper`` on ``lower``, which stands at ``base`` (on the table if None)."""
    x, y, z = (*PLACES[lower], HALF[lower.kind]) if base is None else base
    return (x, y, z + HALF[lower.kind] + HALF[upper.kind])


REACH, PICK, DOWN = (Act(verb=verb, obj=RED) for verb in ("reach", "pick", "put_down"))
PUSH = Act(verb="push", obj=RED, direction="right")
PUT, STACK = Act(verb="put", obj=RED, target=BOWL), Act(verb="stack", obj=RED, target=BLUE)


# ---- what stands on what ----


def test_supports_are_read_off_positions():
    tower = scene(red=on(BLUE, RED), green=on(RED, GREEN, on(BLUE, RED)))
    assert {o.thing: o.support for o in tower.objects} == {RED: BLUE, BLUE: None, GREEN: RED, BOWL: None, PAD: None}
    assert tower.on_top(BLUE) == (RED,) and tower.on_top(RED) == (GREEN,)
    inside = scene(red=(0.40 + 0.039, 0.12, 0.023))
    assert inside.find(RED).support == BOWL and scene(red=(0.40 + 0.041, 0.12, 0.023)).find(RED).support is None
    assert scene(red=on(BLUE, RED), held=RED).find(RED).support is None  # the hand carries it


def test_a_scene_that_cannot_be_is_refused():
    for bad in (
        lambda: Scene(objects=(), held=RED),
        lambda: scene(held=BOWL),
        lambda: Scene(objects=scene(red=on(BLUE, RED)).objects, held=RED),
        lambda: scene(red=(math.nan, 0.0)),
        lambda: Scene(objects=(SceneObject(thing=Thing("red", "sphere"), position=(0.3, 0.0, 0.0)),)),
        lambda: Scene(objects=()).find(RED),
    ):
        with pytest.raises(InputError) as caught:
            bad()
        assert caught.value.code == "bad_scene"


# ---- every precondition, one by one ----


@pytest.mark.parametrize("act", [REACH, PICK, PUSH, PUT, STACK], ids=lambda act: act.verb)
def test_a_plain_scene_allows_every_verb(act):
    verdict = check([act], scene())
    assert verdict.status is Status.ALLOWED and verdict.program == (act,) and act.describe() in verdict.sentence


@pytest.mark.parametrize(
    "act, table, name, message",
    [
        (PICK, Scene(objects=scene().objects[1:]), "exists", "no red cube on the table, there is the blue brick, the green bowl"),
        (PICK, Scene(objects=()), "exists", "there is nothing"),
        (PICK, Scene(objects=(*scene().objects, replace(scene().objects[0], position=(0.2, 0.2, 0.02)))), "exists", "2 objects 'red cube'"),
        (PUT, Scene(objects=scene().objects[:3]), "exists", "no green bowl"),
        (REACH, scene(red=(0.52, 0.0)), "reachable", "x=0.52 m, y=0.00 m is outside the hand's reach"),
        (PICK, scene(red=(0.30, -0.29)), "reachable", "outside"),
        (PUT, scene(bowl=(0.185, 0.0)), "reachable", "the green bowl at"),
        (REACH, scene(held=RED, red=(0.3, 0.0, 0.2)), "not_held", "already holds the red cube"),
        (PICK, scene(blue=on(RED, BLUE)), "clear_top", "the blue brick stands on the red cube"),
        (STACK, scene(green=on(BLUE, GREEN)), "clear_top", "the green cylinder stands on the blue brick"),
        (PUT, scene(blue=on(BOWL, BLUE)), "clear_top", "the blue brick stands on the green bowl"),
        (PICK, scene(red=(0.3, 0.0, 0.1)), "upright", "fallen over or is not at rest"),
        (STACK, scene(blue=(0.4, -0.12, 0.1)), "upright", "the blue brick has fallen"),
        (PUT, scene(red=on(BOWL, RED)), "not_there", "the red cube already is where it should go: on the green bowl"),
        (STACK, scene(red=on(BLUE, RED)), "not_there", "on the blue brick"),
        (PUSH, scene(red=(0.3, 0.2)), "not_there", "already is on the right side"),
        (PUSH, scene(red=(0.3, 0.16)), "can_start", "no room to push the red cube to the right"),
        (PUSH, scene(red=(0.3, -0.17)), "can_start", "no room"),
        (PUSH, scene(red=on(BLUE, RED)), "can_start", "no room"),
        (PUSH, scene(green=(0.32, 0.1)), "lane_free", "the green cylinder is in the way"),
        (PUSH, scene(bowl=(0.38, 0.2)), "lane_free", "the green bowl is in the way"),
        (PUSH, scene(green=(0.30, -0.1)), "lane_free", "in the way"),  # where the hand would set down
        (DOWN, scene(), "held", "does not hold the red cube"),
        (replace(DOWN, place=(0.40, -0.10)), scene(held=RED, red=(0.3, 0.0, 0.2)), "place_free", "no free and reachable place at x=0.40 m, y=-0.10 m"),
        (replace(DOWN, place=(0.60, 0.0)), scene(held=RED, red=(0.3, 0.0, 0.2)), "place_free", "no free and reachable place at x=0.60 m"),
    ],
)
def test_a_precondition_that_fails_refuses_with_its_sentence(act, table, name, message):
    failed = [c for c in preconditions(act, table) if not c.holds]
    assert failed[0].name == name
    verdict = check([act], table)
    assert verdict.status is Status.REFUSED and verdict.program == () and message in verdict.sentence


@pytest.mark.parametrize("act", [PICK, PUT, STACK], ids=lambda act: act.verb)
def test_what_is_in_the_hand_already_needs_no_picking(act):
    assert check([act], scene(held=RED, red=(0.3, 0.0, 0.2))).program == (act,)


def test_each_lane_side_is_its_own():
    table = scene(green=(0.30, 0.12), pad=(0.45, 0.0))
    assert check([PUSH], table).status is Status.REFUSED
    assert check([Act(verb="push", obj=RED, direction="left")], table).status is Status.ALLOWED


# ---- repairs ----


@pytest.mark.parametrize("act", [PICK, PUT, STACK, PUSH], ids=lambda act: act.verb)
def test_a_full_hand_is_emptied_first(act):
    table = scene(held=GREEN, green=(0.35, 0.05, 0.2))
    verdict = check([act], table)
    assert verdict.status is Status.REPAIRED and [a.verb for a in verdict.program] == ["put_down", act.verb]
    assert verdict.program[0].obj == GREEN and is_free_place(table, *verdict.program[0].place)
    assert "the hand holds the green cylinder; instead: put the green cylinder down, then" in verdict.sentence


def test_reaching_needs_no_empty_hand():
    assert check([REACH], scene(held=GREEN, green=(0.35, 0.05, 0.2))).program == (REACH,)


def test_a_target_in_the_hand_is_put_down_first():
    verdict = check([STACK], scene(held=BLUE, blue=(0.4, 0.0, 0.2)))
    assert [a.verb for a in verdict.program] == ["put_down", "stack"] and verdict.status is Status.REPAIRED


def test_a_policy_that_cannot_use_the_bare_table_uses_a_free_container():
    table = scene(held=GREEN, green=(0.35, 0.05, 0.2))
    verdict = check([PUT], table, can_put_down=False)
    assert verdict.program == (Act(verb="put", obj=GREEN, target=PAD), PUT)  # the bowl is needed for the red cube
    full = scene(held=GREEN, green=(0.35, 0.05, 0.2), blue=on(PAD, BLUE))
    assert check([PUT], full, can_put_down=False).status is Status.REFUSED


def test_a_full_hand_on_a_full_table_is_refused():
    names = [thing for thing in (Thing(c, k) for c in COLOURS for k in (*BLOCK_KINDS, *CONTAINER_KINDS)) if thing != GREEN]
    places = [(0.20 + 0.08 * i, -0.2 + 0.08 * j, 0.02) for i in range(4) for j in range(5)]
    table = Scene.from_positions([*zip(names, places), (GREEN, (0.3, 0.0, 0.3))], held=GREEN)
    assert free_place(table, (0.3, 0.0)) is None
    verdict = check([PICK], table)
    assert verdict.status is Status.REFUSED and "no free and reachable place on the table" in verdict.sentence


def test_what_stands_in_the_way_is_moved_only_if_that_is_allowed():
    tower = scene(blue=on(RED, BLUE), green=on(BLUE, GREEN, on(RED, BLUE)))
    assert check([PUT], tower).status is Status.REFUSED
    verdict = check([PUT], tower, may_clear=True)
    assert [(a.verb, a.obj) for a in verdict.program] == [("pick", GREEN), ("put_down", GREEN), ("pick", BLUE), ("put_down", BLUE), ("put", RED)]


def test_a_full_hand_and_a_covered_target_are_both_mended():
    table = scene(held=RED, red=(0.3, 0.0, 0.2), green=on(BLUE, GREEN))
    verdict = check([STACK], table, may_clear=True)
    assert [(a.verb, a.obj) for a in verdict.program] == [("put_down", RED), ("pick", GREEN), ("put_down", GREEN), ("stack", RED)]


def test_a_repair_that_is_itself_impossible_is_refused():
    tower = scene(red=(0.499, 0.0), blue=(0.505, 0.0, 0.055))  # the brick on the cube is out of reach
    verdict = check([PICK], tower, may_clear=True)
    assert verdict.status is Status.REFUSED and "the blue brick at" in verdict.sentence


# ---- sequences ----


def test_later_acts_are_checked_in_the_scene_that_earlier_ones_leave():
    both = [PUT, Act(verb="stack", obj=GREEN, target=RED)]
    verdict = check(both, scene())
    assert verdict.status is Status.ALLOWED
    assert check([PUT, PUT], scene()).sentence.endswith("already is where it should go: on the green bowl")
    assert check([PICK, Act(verb="pick", obj=BLUE)], scene()).program[1].verb == "put_down"


def test_typed_words_are_checked_as_well():
    assert check_instruction("put the red cube in the green bowl", scene()).status is Status.ALLOWED
    assert check_instruction("pick up the red cube then put the red cube down", scene()).program[1].place is not None
    refused = check_instruction("make me a sandwich", scene())
    assert refused.status is Status.REFUSED and "names no object" in refused.sentence
    assert check_instruction("put the purple brick in the green bowl", scene()).sentence.startswith("cannot put the purple brick in the green bowl: there is no")


# ---- properties over random tables ----

BLOCKS = [Thing(c, k) for c in ("red", "blue") for k in BLOCK_KINDS]
CONTAINERS = [Thing("green", k) for k in CONTAINER_KINDS]


def random_table(rng) -> Scene:
    """Three to eight objects, most within reach and upright, some on others, one perhaps in the hand."""
    things = [(*BLOCKS, *CONTAINERS)[i] for i in rng.permutation(8)[: rng.integers(3, 9)]]
    cells = [(0.23 + 0.1 * (i % 3), -0.15 + 0.1 * (i // 3)) for i in rng.permutation(12)]
    positions: dict[Thing, tuple[float, float, float]] = {}
    bare: list[Thing] = []  # nothing stands on these
    for thing, cell in zip(things, cells):
        if thing.is_block and bare and rng.random() < 0.25:
            below = bare.pop(rng.integers(len(bare)))
            x, y, z = positions[below]
            bare.append(thing)
            positions[thing] = (x, y, z + HALF[below.kind] + HALF[thing.kind])
            continue
        x, y = np.array(cell) + rng.uniform(-0.03, 0.03, 2) + (rng.random() < 0.1) * rng.uniform(-0.3, 0.3, 2)
        if any(math.dist((x, y), other[:2]) < 0.04 for other in positions.values()):
            continue  # two objects cannot be in one place
        positions[thing] = (x, y, HALF[thing.kind] + 0.1 * (rng.random() < 0.05))
        bare.append(thing)
    blocks = [thing for thing in bare if thing.is_block]  # what carries another cannot be held
    held = blocks[rng.integers(len(blocks))] if blocks and rng.random() < 0.4 else None
    if held is not None:
        positions[held] = (*positions[held][:2], 0.2)
    return Scene.from_positions(positions.items(), held=held)


def random_act(rng, table) -> Act:
    """Mostly about what is on the table, and every verb that its objects allow."""
    blocks = [o.thing for o in table.objects if o.thing.is_block and rng.random() < 0.95] or BLOCKS
    obj = blocks[rng.integers(len(blocks))]
    verb = str(rng.choice(["reach", "push", "pick", "put", "stack", "put_down"]))
    if verb == "push":
        return Act(verb=verb, obj=obj, direction=str(rng.choice(["left", "right"])))
    if verb in ("put", "stack"):
        targets = CONTAINERS if verb == "put" else [b for b in BLOCKS if b != obj]
        return Act(verb=verb, obj=obj, target=targets[rng.integers(len(targets))])
    return Act(verb=verb, obj=table.held if verb == "put_down" and table.held else obj)


def random_case(seed):
    rng = np.random.default_rng(seed)
    table = random_table(rng)
    program = [random_act(rng, table) for _ in range(rng.integers(1, 4))]
    return table, program, dict(may_clear=bool(rng.random() < 0.5), can_put_down=bool(rng.random() < 0.7))


SEEDS = st.integers(0, 2**32 - 1)


def test_random_cases_have_every_verdict_and_every_verb_often():
    """Otherwise the properties below would hold for want of cases."""
    verdicts = [check(program, table, **options) for table, program, options in map(random_case, range(600))]
    for status in Status:
        assert sum(v.status is status for v in verdicts) >= 40, status
    for verb in VERBS:
        assert sum(any(act.verb == verb for act in v.program) for v in verdicts if v.status is Status.ALLOWED) >= 10, verb


def holds_in_order(program, table) -> bool:
    """Whether all preconditions of each act hold in the scene that the earlier acts leave."""
    for act in program:
        if not all(c.holds for c in preconditions(act, table)):
            return False
        table = effects(act, table)
    return True


def without_places(program):
    return [replace(act, place=None) for act in program]


@given(SEEDS)
def test_allowed_means_that_every_precondition_is_true(seed):
    table, program, options = random_case(seed)
    verdict = check(program, table, **options)
    assert (verdict.status is Status.ALLOWED) == holds_in_order(program, table)
    if verdict.status is Status.ALLOWED:
        assert without_places(verdict.program) == program and holds_in_order(verdict.program, table)


@given(SEEDS)
def test_a_repair_makes_every_precondition_true_and_keeps_what_was_asked(seed):
    table, program, options = random_case(seed)
    verdict = check(program, table, **options)
    if verdict.status is Status.REPAIRED:
        assert holds_in_order(verdict.program, table) and len(verdict.program) > len(program)
        rest = iter(without_places(verdict.program))
        assert all(any(act == asked for act in rest) for asked in program)  # a subsequence
        added = {act.verb for act in verdict.program} - {act.verb for act in program}
        assert added <= {"put_down", "pick", "put"} and (options["may_clear"] or "pick" not in added)
        assert options["can_put_down"] or "put_down" not in added


@given(SEEDS)
def test_a_refusal_moves_nothing_and_says_why(seed):
    table, program, options = random_case(seed)
    verdict = check(program, table, **options)
    if verdict.status is Status.REFUSED:
        assert verdict.program == () and verdict.sentence.startswith("cannot ") and ": " in verdict.sentence


@given(SEEDS)
def test_asking_again_for_what_was_decided_changes_nothing(seed):
    table, program, options = random_case(seed)
    verdict = check(program, table, **options)
    again = check(verdict.program, table, **options)
    assert verdict.status is Status.REFUSED or (again.status is Status.ALLOWED and again.program == verdict.program)


def possible_acts(seed):
    """Acts whose preconditions hold, with their scene."""
    rng = np.random.default_rng(seed)
    table = random_table(rng)
    acts = [random_act(rng, table) for _ in range(10)]
    return table, [act for act in acts if all(c.holds for c in preconditions(act, table))]


@given(SEEDS)
def test_an_act_achieves_what_it_says_and_moves_nothing_else(seed):
    table, acts = possible_acts(seed)
    for act in acts:
        after = effects(act, table)
        obj, empty = after.find(act.obj), after.held is None
        side = obj.position[1] * (1 if act.direction == "right" else -1)
        achieved = {
            "reach": after == table,
            "pick": after.held == act.obj and obj.support is None,
            "push": empty and side > TABLETOP.side_line_y,
            "put": empty and obj.support == act.target,
            "stack": empty and obj.support == act.target,
            "put_down": empty and obj.support is None and is_upright(obj),
        }
        assert achieved[act.verb], act
        assert all(new == old for new, old in zip(after.objects, table.objects) if new.thing != act.obj)


@given(SEEDS)
def test_the_symbols_after_an_act_are_those_of_the_new_positions(seed):
    table, acts = possible_acts(seed)
    for act in acts:
        after = effects(act, table)
        seen = Scene.from_positions([(o.thing, o.position) for o in after.objects], held=after.held)
        assert seen == after, act


@given(SEEDS, st.floats(0.15, 0.55), st.floats(-0.3, 0.3))
def test_a_free_place_is_free_and_the_nearest_on_the_grid(seed, x, y):
    table = random_table(np.random.default_rng(seed))
    place = free_place(table, (x, y))
    assert place is None or is_free_place(table, *place)
    for column in range(16):
        for row in range(-8, 9):
            candidate = (0.19 + 0.02 * column, 0.02 * row)
            if is_free_place(table, *candidate):
                assert place is not None and math.dist(place, (x, y)) <= math.dist(candidate, (x, y)) + 1e-6
