# SPDX-License-Identifier: Apache-2.0
"""A small task language for the tabletop: instructions and plans as data that can be checked before the arm moves.

    program  = act {"then" act}
    act      = reach OBJ | push OBJ (left | right) | pick OBJ | put OBJ CONTAINER | stack OBJ BLOCK | put_down OBJ [PLACE]
    OBJ      = COLOUR KIND

Typed words are read as the simulator's phrasings have them (``could you put the red cube into the green bowl``); words
that name no act are refused with what is understood, and are never guessed. Left and right are an operator's who faces
the robot: left is negative y of ``base_link``. Places are x, y in ``base_link``, m.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from vla_ros.core.errors import InputError
from vla_ros.core.plan import PlanSpec
from vla_ros.core.text import normalize_instruction

COLOURS = ("red", "green", "blue", "yellow", "purple")
BLOCK_KINDS = ("cube", "cylinder", "brick")
CONTAINER_KINDS = ("bowl", "pad")
DIRECTIONS = ("left", "right")
VERBS = ("reach", "push", "pick", "put", "stack", "put_down")

_PICK_WORDS = ("pick", "grab", "lift", "take", "grasp")
_REACH_WORDS = ("reach", "go", "move", "touch", "hover")
_PUSH_WORDS = ("push", "slide", "shove", "move")
_PLACE_WORDS = ("put", "place", "drop", "set", "stack", "move")
_THING = rf"\b({'|'.join(COLOURS)}) ({'|'.join((*BLOCK_KINDS, *CONTAINER_KINDS))})\b"


@dataclass(frozen=True, order=True)
class Thing:
    """An object as words name it."""

    colour: str
    kind: str

    @property
    def is_block(self) -> bool:
        """Whether the hand can hold it."""
        return self.kind in BLOCK_KINDS

    def __str__(self) -> str:
        return f"{self.colour} {self.kind}"


@dataclass(frozen=True, kw_only=True)
class Act:
    """One node of a program: a verb with what it needs.

    Attributes:
        verb: one of ``VERBS``.
        obj: the block that it is about.
        target: what ``put`` (a container) and ``stack`` (a block) place it on.
        direction: where ``push`` goes.
        place: where ``put_down`` sets it on the table, x, y in ``base_link``, m; None: wherever there is room.

    Raises:
        InputError: parts that do not belong together (code ``no_task``).
    """

    verb: str
    obj: Thing
    target: Thing | None = None
    direction: str | None = None
    place: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.verb not in VERBS:
            raise _no_task(f"'{self.verb}' is no verb of the task language: there are {', '.join(VERBS)}")
        if not self.obj.is_block:
            raise _no_task(f"the {self.obj} cannot be moved or held: name one of {', '.join(BLOCK_KINDS)} first")
        if (self.target is not None) != (self.verb in ("put", "stack")):
            raise _no_task(f"'{self.verb}' takes {'a' if self.verb in ('put', 'stack') else 'no'} target, got {self.target}")
        if (self.direction is not None) != (self.verb == "push") or self.direction not in (None, *DIRECTIONS):
            raise _no_task(f"'{self.verb}' takes {'left or right' if self.verb == 'push' else 'no direction'}, got {self.direction}")
        if self.place is not None and self.verb != "put_down":
            raise _no_task(f"'{self.verb}' takes no place")
        if self.target == self.obj:
            raise _no_task(f"the {self.obj} cannot be placed on itself")
        if self.target is not None and self.target.is_block != (self.verb == "stack"):
            raise _no_task(f"'{self.verb}' takes a {'block' if self.verb == 'stack' else 'container'} as target, got the {self.target}")

    def describe(self) -> str:
        """The act in words that ``parse_instruction`` reads back to it (a place of ``put_down`` is left out)."""
        if self.verb == "push":
            return f"push the {self.obj} to the {self.direction}"
        if self.verb == "put":
            return f"put the {self.obj} {'in' if self.target.kind == 'bowl' else 'on'} the {self.target}"
        if self.verb == "stack":
            return f"stack the {self.obj} on the {self.target}"
        return {"reach": "go to the {}", "pick": "pick up the {}", "put_down": "put the {} down"}[self.verb].format(self.obj)


Program = tuple[Act, ...]


def describe_program(program: Sequence[Act]) -> str:
    """The acts in words, such as ``put the red cube down, then go to the blue brick``."""
    return ", then ".join(act.describe() for act in program)


def parse_instruction(text: str) -> Program:
    """Reads typed words as acts in order; ``then`` separates them.

    Raises:
        InputError: words that are no act (code ``no_task``). The message says what is missing and what is understood.
    """
    words = re.sub(r"[^a-z ]", " ", normalize_instruction(text).lower())
    return tuple(_parse_act(" ".join(clause.split())) for clause in re.split(r"\band then\b|\bthen\b", words))


def _parse_act(words: str) -> Act:
    things = [Thing(colour, kind) for colour, kind in re.findall(_THING, words)]
    if not things:
        raise _no_task(f"'{words}' names no object: say a colour ({', '.join(COLOURS)}) and a shape ({', '.join((*BLOCK_KINDS, *CONTAINER_KINDS))})")
    if len(things) > 2:
        raise _no_task(f"'{words}' names {len(things)} objects, an act has one or two: separate acts with 'then'")
    said = set(words.split())
    if len(things) == 2:
        _require(words, said, _PLACE_WORDS)
        return Act(verb="stack" if things[1].is_block else "put", obj=things[0], target=things[1])
    obj = things[0]
    if said & set(DIRECTIONS):
        _require(words, said, _PUSH_WORDS)
        if said >= set(DIRECTIONS):
            raise _no_task(f"'{words}' says both left and right: say one")
        return Act(verb="push", obj=obj, direction="left" if "left" in said else "right")
    if "down" in said and said & {"put", "set"}:
        return Act(verb="put_down", obj=obj)
    if said & set(_PICK_WORDS):
        return Act(verb="pick", obj=obj)
    _require(words, said, _REACH_WORDS)
    return Act(verb="reach", obj=obj)


def _require(words: str, said: set[str], verbs: tuple[str, ...]) -> None:
    if not said & set(verbs):
        raise _no_task(f"'{words}' has no verb that fits: say one of {', '.join(verbs)}")


def _no_task(message: str) -> InputError:
    return InputError(message, code="no_task")


@dataclass(frozen=True, kw_only=True)
class PlannedMove:
    """What a policy says that it is about to do: a phase and the place that it is about (x, y in ``base_link``, m)."""

    phase: str
    x: float
    y: float


def read_plan(spec: PlanSpec, tokens: Sequence[int]) -> PlannedMove:
    """The policy's plan tokens as a move that can be checked.

    Raises:
        DecodeError: a wrong number of tokens, or one that is no value of its slot.
        InputError: the plan's slots are not a phase of words and x and y in m (code ``no_task``).
    """
    spec.describe(tokens)  # every token is a value of its slot
    slots = {slot.name: slot for slot in spec.slots}
    values = {slot.name: slot.decode(int(token)) for slot, token in zip(spec.slots, tokens)}
    if not {"phase", "x", "y"} <= set(slots) or not slots["phase"].words or slots["x"].unit != "m" or slots["y"].unit != "m":
        raise _no_task(f"a plan that can be checked has the slots phase (words), x and y (m), this one has {[slot.name for slot in spec.slots]}")
    return PlannedMove(phase=str(values["phase"]), x=float(values["x"]), y=float(values["y"]))


def parse_plan(text: str) -> PlannedMove:
    """Reads a plan as ``PlanSpec.describe`` writes it, such as ``grasp x=0.312 m y=-0.041 m``.

    Raises:
        InputError: other text (code ``no_task``).
    """
    match = re.fullmatch(r"\s*([a-z_]+)\s+x=(-?\d+\.?\d*) m\s+y=(-?\d+\.?\d*) m\s*", text)
    if match is None:
        raise _no_task(f"{text!r} is no plan: expected a phase and a place, such as 'grasp x=0.312 m y=-0.041 m'")
    return PlannedMove(phase=match[1], x=float(match[2]), y=float(match[3]))
