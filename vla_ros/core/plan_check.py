# SPDX-License-Identifier: Apache-2.0
"""Checks what a policy says that it is about to do (its plan) against the act that it was asked for and the scene.

A place outside the hand's reach, a phase that the act does not have, or one that the hand is not ready for is refused.
A place that is reachable and yet not where the object is gets repaired to the object's own place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from vla_ros.core.task_check import Status, exists
from vla_ros.core.task_language import Act, PlannedMove, Thing
from vla_ros.core.task_scene import TABLETOP, Scene, TableGeometry

PHASES_OF = {
    "reach": ("approach", "done"),
    "push": ("approach", "descend", "push", "retreat", "done"),
    "pick": ("approach", "descend", "grasp", "lift", "done"),
    "put": ("approach", "descend", "grasp", "lift", "carry", "lower", "release", "retreat", "done"),
    "stack": ("approach", "descend", "grasp", "lift", "carry", "lower", "release", "retreat", "done"),
    "put_down": ("carry", "lower", "release", "retreat", "done"),
}
PHASES = ("approach", "descend", "grasp", "lift", "carry", "lower", "release", "retreat", "push", "done")
_LEAVING = ("retreat", "done")  # the hand goes nowhere near the place any more
_WITH_OBJECT = ("lift", "carry", "lower")


@dataclass(frozen=True, kw_only=True)
class PlanVerdict:
    """The answer to a plan: the move that may be made (None if refused), and why."""

    status: Status
    move: PlannedMove | None
    sentence: str


def check_plan(move: PlannedMove, act: Act, scene: Scene, geometry: TableGeometry = TABLETOP) -> PlanVerdict:
    """Decides on one planned move towards ``act``.

    Args:
        move: the policy's plan.
        act: what it was asked for, allowed by ``task_check.check``.
        scene: the table now, with what the hand holds.
        geometry: sizes and limits; ``place_tolerance`` says how far the place may be from its object.
    """
    refusal = _refusal(move, act, scene, geometry)
    if refusal:
        return PlanVerdict(status=Status.REFUSED, move=None, sentence=refusal)
    if move.phase in _LEAVING:
        return PlanVerdict(status=Status.ALLOWED, move=move, sentence=f"{move.phase} of: {act.describe()}")
    places = _places(move, act, scene)
    if any(math.dist(place, (move.x, move.y)) <= geometry.place_tolerance for place in places.values()):
        return PlanVerdict(status=Status.ALLOWED, move=move, sentence=f"{move.phase} of: {act.describe()}")
    thing, (x, y) = next(iter(places.items()))
    if not geometry.is_reachable(x, y):
        return PlanVerdict(status=Status.REFUSED, move=None, sentence=f"the {thing} at x={x:.2f} m, y={y:.2f} m is outside the hand's reach")
    sentence = f"the plan's {move.phase} at x={move.x:.2f} m, y={move.y:.2f} m is not at the {thing}: use x={x:.2f} m, y={y:.2f} m instead"
    return PlanVerdict(status=Status.REPAIRED, move=replace(move, x=x, y=y), sentence=sentence)


def _refusal(move: PlannedMove, act: Act, scene: Scene, geometry: TableGeometry) -> str:
    """The first reason that no other place mends, or nothing."""
    if move.phase not in PHASES_OF[act.verb]:
        return f"'{move.phase}' is no phase of '{act.describe()}': it has {', '.join(PHASES_OF[act.verb])}"
    missing = [found.sentence for found in (exists(t, scene) for t in (act.obj, act.target) if t is not None) if not found.holds]
    if missing:
        return missing[0]
    if move.phase in _LEAVING:
        return ""
    if not (math.isfinite(move.x) and math.isfinite(move.y) and geometry.is_reachable(move.x, move.y)):
        return f"the plan's place x={move.x:.2f} m, y={move.y:.2f} m is outside the hand's reach"
    if scene.held not in (None, act.obj) and act.verb != "reach":
        return f"the hand holds the {scene.held}, not the {act.obj}: put it down first"
    if act.verb == "push" and scene.held is not None:
        return f"the hand holds the {scene.held}: put it down before pushing"
    if move.phase in _WITH_OBJECT and scene.held != act.obj:
        return f"'{move.phase}' needs the {act.obj} in the hand, which is empty"
    return ""


def _places(move: PlannedMove, act: Act, scene: Scene) -> dict[Thing, tuple[float, float]]:
    """Where the phase may happen, the place that a repair would choose first."""
    if act.verb == "put_down":
        return {act.obj: act.place or (move.x, move.y)}
    goal = act.target if act.target is not None and move.phase in ("lift", "carry", "lower", "release") else act.obj
    things = (goal, act.obj) if move.phase in ("lift", "release") else (goal,)
    return {thing: scene.find(thing).position[:2] for thing in things}
