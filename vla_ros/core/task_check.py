# SPDX-License-Identifier: Apache-2.0
"""The neural-symbolic check: what an instruction or a plan asks for is allowed, repaired or refused before the arm moves.

Every verb has preconditions over a scene and effects on it. A program's acts are checked one after another, each in the
scene that the earlier ones leave. ``ALLOWED`` means that all preconditions hold in that order; ``REPAIRED`` that acts
were put in front so that they do; ``REFUSED`` comes with a sentence and no acts. Pure functions; the scene is what the
caller believes, so that a wrong scene gives a wrong verdict.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from vla_ros.core.errors import InputError
from vla_ros.core.task_language import Act, Program, Thing, describe_program, parse_instruction
from vla_ros.core.task_scene import (
    TABLETOP,
    Scene,
    TableGeometry,
    can_start_push,
    free_place,
    in_push_lane,
    is_beyond_line,
    is_free_place,
    is_upright,
    side_sign,
)

LIFTED_Z = 0.16  # m; where a picked block ends up, far from every resting height
PUSHED_PAST_LINE = 0.03  # m


class Status(Enum):
    """What a check decides."""

    ALLOWED = "allowed"
    REPAIRED = "repaired"
    REFUSED = "refused"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The answer to a program: the acts that may move the arm (none if refused), and why."""

    status: Status
    program: Program
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One precondition: its name, the thing that it is about, whether it holds, and the sentence for when it does not."""

    name: str
    thing: Thing
    holds: bool
    sentence: str


# ---- preconditions ----


def preconditions(act: Act, scene: Scene, geometry: TableGeometry = TABLETOP) -> list[Condition]:
    """The conditions of ``act`` in order; where an object is missing, what depends on it is left out."""
    conditions: list[Condition] = []
    for condition in _conditions(act, scene, geometry):
        conditions.append(condition)
        if condition.name == "exists" and not condition.holds:
            break
    return conditions


def _conditions(act: Act, scene: Scene, geometry: TableGeometry) -> Iterator[Condition]:
    for thing in (act.obj, act.target):
        if thing is not None:
            yield exists(thing, scene)
    if act.verb == "put_down":
        yield from _put_down_conditions(act, scene, geometry)
        return
    yield _hand_is_free_for(act, scene)
    if act.verb in ("put", "stack"):
        there = scene.find(act.obj).support == act.target
        yield Condition(name="not_there", thing=act.obj, holds=not there, sentence=f"the {act.obj} already is where it should go: on the {act.target}")
    for thing in (act.obj, act.target):
        if thing is not None and thing != scene.held:
            yield from _can_be_handled(thing, scene, geometry)
    if act.verb == "push":
        yield from _push_conditions(act, scene, geometry)


def exists(thing: Thing, scene: Scene) -> Condition:
    """Whether the words name exactly one object."""
    count, present = scene.count(thing), ", ".join(sorted({f"the {entry.thing}" for entry in scene.objects})) or "nothing"
    sentence = f"there is no {thing} on the table, there is {present}" if not count else f"there are {count} objects '{thing}': which one is meant is not clear"
    return Condition(name="exists", thing=thing, holds=count == 1, sentence=sentence)


def _hand_is_free_for(act: Act, scene: Scene) -> Condition:
    """Picking and placing may start with the object in the hand; a push needs the hand empty; reaching for what is held means nothing."""
    held, thing = scene.held, scene.held or act.obj
    if act.verb == "reach":
        return Condition(name="not_held", thing=thing, holds=held != act.obj, sentence=f"the hand already holds the {act.obj}")
    allowed = (None, act.obj) if act.verb in ("pick", "put", "stack") else (None,)
    return Condition(name="hand_free", thing=thing, holds=held in allowed, sentence=f"the hand holds the {held}")


def _can_be_handled(thing: Thing, scene: Scene, geometry: TableGeometry) -> Iterator[Condition]:
    entry = scene.find(thing)
    x, y, _ = entry.position
    yield Condition(
        name="reachable", thing=thing, holds=geometry.is_reachable(x, y), sentence=f"the {thing} at x={x:.2f} m, y={y:.2f} m is outside the hand's reach"
    )
    above = scene.on_top(thing)
    blocking = above[0] if above else thing
    yield Condition(name="clear_top", thing=thing, holds=not above, sentence=f"the {blocking} stands on the {thing}: take it away first")
    if thing.is_block:
        yield Condition(name="upright", thing=thing, holds=is_upright(entry, geometry), sentence=f"the {thing} has fallen over or is not at rest")


def _push_conditions(act: Act, scene: Scene, geometry: TableGeometry) -> Iterator[Condition]:
    entry, obj, side = scene.find(act.obj), act.obj, act.direction
    yield Condition(name="not_there", thing=obj, holds=not is_beyond_line(entry, side, geometry), sentence=f"the {obj} already is on the {side} side")
    yield Condition(
        name="can_start", thing=obj, holds=can_start_push(entry, side, geometry), sentence=f"there is no room to push the {obj} to the {side} from where it is"
    )
    blocking = in_push_lane(scene, obj, side, geometry)
    sentence = f"the {blocking[0] if blocking else obj} is in the way of pushing the {obj} to the {side}"
    yield Condition(name="lane_free", thing=obj, holds=not blocking, sentence=sentence)


def _put_down_conditions(act: Act, scene: Scene, geometry: TableGeometry) -> Iterator[Condition]:
    yield Condition(name="held", thing=act.obj, holds=scene.held == act.obj, sentence=f"the hand does not hold the {act.obj}")
    place = _place_of(act, scene, geometry)
    free = place is not None and is_free_place(scene, *place, geometry)
    where = "on the table" if act.place is None else f"at x={act.place[0]:.2f} m, y={act.place[1]:.2f} m"
    yield Condition(name="place_free", thing=act.obj, holds=free, sentence=f"there is no free and reachable place {where} for the {act.obj}")


def _place_of(act: Act, scene: Scene, geometry: TableGeometry) -> tuple[float, float] | None:
    return act.place if act.place is not None else free_place(scene, scene.find(act.obj).position[:2], geometry)


# ---- effects ----


def effects(act: Act, scene: Scene, geometry: TableGeometry = TABLETOP) -> Scene:
    """The scene after ``act``, whose preconditions hold; raises InputError (code ``bad_scene``) where its objects are missing."""
    entry = scene.find(act.obj)
    x, y, z = entry.position
    half = geometry.half_height[act.obj.kind]
    if act.verb == "reach":
        return scene
    if act.verb == "pick":
        return scene.with_object(replace(entry, position=(x, y, max(z, LIFTED_Z)), support=None), held=act.obj)
    if act.verb == "push":
        pushed = (x, side_sign(act.direction) * (geometry.side_line_y + PUSHED_PAST_LINE), z)
        return scene.with_object(replace(entry, position=pushed), held=None)
    if act.verb == "put_down":
        place = _place_of(act, scene, geometry)
        if place is None:
            raise InputError(f"there is no free place on the table for the {act.obj}", code="bad_scene")
        return scene.with_object(replace(entry, position=(*place, half), support=None), held=None)
    target = scene.find(act.target)
    top = target.position[2] + geometry.half_height[act.target.kind]
    return scene.with_object(replace(entry, position=(*target.position[:2], top + half), support=act.target), held=None)


# ---- verdicts ----


def check(
    program: Sequence[Act], scene: Scene, geometry: TableGeometry = TABLETOP, *, may_clear: bool = False, can_put_down: bool = True
) -> Verdict:
    """Decides on ``program`` in ``scene``.

    What is held and in the way is put down first: on a free place of the table, or, where the policy cannot do that, in
    a free container. A ``put_down`` without a place gets one, which is no repair.

    Args:
        program: acts in order.
        scene: the table now.
        geometry: sizes and limits.
        may_clear: also take away what stands on an object that is to be moved or is a target.
        can_put_down: whether the policy can put something on the bare table.
    """
    allowed: list[Act] = []
    reasons: list[str] = []
    for position, act in enumerate(program):
        for _ in range(2 * len(scene.objects) + 3):  # at most: put down, then pick and put down everything that stands on two objects
            failed = next((c for c in preconditions(act, scene, geometry) if not c.holds), None)
            if failed is None:
                break
            needed = {t for later in program[position:] for t in (later.obj, later.target)}
            remedy = _remedy(failed, act, scene, geometry, needed, may_clear, can_put_down)
            unmet = failed if remedy is None else next((c for c in preconditions(remedy, scene, geometry) if not c.holds), None)
            if unmet is not None:
                return Verdict(status=Status.REFUSED, program=(), sentence=f"cannot {act.describe()}: {unmet.sentence}")
            reasons.append(failed.sentence)
            remedy = _with_place(remedy, scene, geometry)
            allowed, scene = [*allowed, remedy], effects(remedy, scene, geometry)
        else:
            return Verdict(status=Status.REFUSED, program=(), sentence=f"cannot {act.describe()}: {failed.sentence}")
        act = _with_place(act, scene, geometry)
        allowed, scene = [*allowed, act], effects(act, scene, geometry)
    if not reasons:
        return Verdict(status=Status.ALLOWED, program=tuple(allowed), sentence=describe_program(allowed))
    return Verdict(status=Status.REPAIRED, program=tuple(allowed), sentence=f"{'; '.join(reasons)}; instead: {describe_program(allowed)}")


def check_instruction(text: str, scene: Scene, geometry: TableGeometry = TABLETOP, *, may_clear: bool = False, can_put_down: bool = True) -> Verdict:
    """``check`` of typed words; words that are no program are refused with what is understood."""
    try:
        program = parse_instruction(text)
    except InputError as error:
        return Verdict(status=Status.REFUSED, program=(), sentence=str(error))
    return check(program, scene, geometry, may_clear=may_clear, can_put_down=can_put_down)


def _with_place(act: Act, scene: Scene, geometry: TableGeometry) -> Act:
    return replace(act, place=_place_of(act, scene, geometry)) if act.verb == "put_down" else act


def _remedy(
    failed: Condition, act: Act, scene: Scene, geometry: TableGeometry, needed: set[Thing | None], may_clear: bool, can_put_down: bool
) -> Act | None:
    """The one act that helps, or None."""
    if failed.name == "hand_free":
        return _put_away(scene, geometry, needed, can_put_down)
    if failed.name == "clear_top" and may_clear:
        if scene.held is not None:
            return _put_away(scene, geometry, needed, can_put_down)
        top = scene.on_top(failed.thing)[0]
        while scene.on_top(top):
            top = scene.on_top(top)[0]
        return Act(verb="pick", obj=top)
    return None


def _put_away(scene: Scene, geometry: TableGeometry, needed: set[Thing | None], can_put_down: bool) -> Act | None:
    held = scene.held
    if can_put_down:
        return Act(verb="put_down", obj=held)
    puts = [Act(verb="put", obj=held, target=o.thing) for o in scene.objects if not o.thing.is_block and o.thing not in needed]
    return next((put for put in puts if all(c.holds for c in preconditions(put, scene, geometry))), None)
