# SPDX-License-Identifier: Apache-2.0
"""Visual questions with answers from the simulator's ground truth: what colour, where, how many, which is left of, what comes next.

Pure functions of the world and of where its objects appear in the front picture. They serve co-training (RT-2, arXiv 2307.15818:
a policy that also answers keeps its words) and its measurement. A question is asked only where the picture settles it: of objects that
can be seen in it, and not where a few pixels would change the answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
import itertools
import re
from typing import Protocol, TypeVar

import numpy as np

from vla_ros.sim import expert
from vla_ros.sim.scene import BLOCK_KINDS, COLOURS, CONTAINER_KINDS, KINDS
from vla_ros.sim.tasks import ObjectRef, Task, all_tasks, is_held_out, phrasings
from vla_ros.sim.world import WorldState, is_feasible, rests_on

Item = TypeVar("Item")

QUESTION_KINDS = ("colour", "where", "count", "left_of", "next")
NUMBERS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight")
PLACES = ("on the left", "in the middle", "on the right")
YES, NO = "yes", "no"

_EDGES_U = (1 / 3, 2 / 3)  # thirds of the picture's width
_MARGIN_U = 0.03  # parts of the picture's width: about half a block, so that no answer hangs on a few pixels
_BORDER = 0.03  # nearer to the picture's edge an object is cut off
_SEEN_SHARE = 0.0006  # of the picture: about 10 of 128 x 128 pixels; a block that nothing hides has about 100
_MARGIN_TOOL_M, _MARGIN_GRIPPER_M = 0.006, 0.003  # about a pixel, and half of one: the next step must be the same this far to every side

_PHRASES: dict[str, dict[str, tuple[str, ...]]] = {
    "colour": {
        "seen": ("what colour is the {thing}?", "which colour does the {thing} have?", "what is the colour of the {thing}?"),
        "unseen": ("tell me the colour of the {thing}", "the {thing} has what colour?"),
    },
    "where": {
        "seen": ("where is the {thing}?", "where do you see the {thing}?", "in which place is the {thing}?"),
        "unseen": ("tell me where the {thing} is", "where can i find the {thing}?"),
    },
    "count": {
        "seen": ("how many {things} are there?", "how many {things} do you see?", "what is the number of {things}?"),
        "unseen": ("count the {things}", "tell me how many {things} there are"),
    },
    "which_left": {
        "seen": ("which is left of the other, the {a} or the {b}?", "what is further left, the {a} or the {b}?"),
        "unseen": ("tell me which is further left, the {a} or the {b}", "of the {a} and the {b}, which is left of the other?"),
    },
    "is_left": {
        "seen": ("is the {a} left of the {b}?", "is the {a} to the left of the {b}?"),
        "unseen": ("does the {a} lie left of the {b}?", "tell me if the {a} is left of the {b}"),
    },
    "next": {
        "seen": ("what comes next to {task}?", "what is the next step to {task}?", "what should the robot do next to {task}?"),
        "unseen": ("tell me what comes next to {task}", "to {task}, what is next?"),
    },
}

_NEXT = {
    "approach": "go to the {obj}", "descend": "go down to the {obj}", "grasp": "close the gripper", "lift": "lift the {obj}", "carry": "carry the {obj} to the {target}",
    "lower": "lower the {obj}", "release": "open the gripper", "retreat": "move away", "push": "push the {obj}", "done": "nothing",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Question:
    """Words and the right answer; ``kind`` is one of ``QUESTION_KINDS``."""

    kind: str
    text: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class Fact:
    """What a question can be about: the phrasing's name, its blanks, and the answer."""

    phrasing: str
    blanks: tuple[tuple[str, str], ...]
    answer: str

    def ask(self, split: str) -> list[str]:
        """All ways to ask it in one split."""
        return [phrase.format(**dict(self.blanks)) for phrase in _PHRASES[self.phrasing][split]]


class Projector(Protocol):
    """What `places_in_picture` needs of the environment."""

    def world_state(self) -> WorldState:
        """Ground truth."""

    def project(self, camera: str, point: np.ndarray) -> np.ndarray:
        """Where a point (base_link, m) appears, [2], 0..1 with u right and v down."""

    def visible_shares(self, camera: str) -> Mapping[ObjectRef, float]:
        """How much of the picture shows each object."""


def places_in_picture(env: Projector, camera: str = "front", border: float = _BORDER) -> dict[ObjectRef, np.ndarray]:
    """Where the centre of each object appears, [2] as 0..1; what is outside the picture, nearer than `border` to its edge, or hidden is left out."""
    shares = env.visible_shares(camera)
    places = {ref: env.project(camera, state.position) for ref, state in env.world_state().objects.items() if shares[ref] > _SEEN_SHARE}
    return inside(places, border)


def inside(places: Mapping[ObjectRef, np.ndarray], border: float = _BORDER) -> dict[ObjectRef, np.ndarray]:
    """The places that are not nearer than `border` to the picture's edge."""
    return {ref: uv for ref, uv in places.items() if (uv > border).all() and (uv < 1.0 - border).all()}


# ---- facts ----


def facts(kind: str, world: WorldState, places: Mapping[ObjectRef, np.ndarray], split: str = "seen") -> list[Fact]:
    """Everything of one kind that can be asked of a picture, in a stable order.

    Args:
        kind: one of ``QUESTION_KINDS``.
        world: ground truth.
        places: where each object that may be asked about appears, [2] as 0..1; what is hidden is left out.
        split: for ``next``: ``unseen`` has only tasks that training never sees (`tasks.is_held_out`), ``seen`` only the others.

    Raises:
        ValueError: an unknown kind.
    """
    if kind not in QUESTION_KINDS:
        raise ValueError(f"no questions of kind {kind!r}: there are {', '.join(QUESTION_KINDS)}")
    if kind == "next":
        return list(_next_facts(world, places, split))
    return list({"colour": _colour_facts, "where": _where_facts, "count": _count_facts, "left_of": _left_facts}[kind](world, places))


def _colour_facts(world: WorldState, places: Mapping[ObjectRef, np.ndarray]) -> Iterator[Fact]:
    """The colour of a shape that is there once, and of what lies farthest left or right."""
    for kind in KINDS:
        alike = [ref for ref in world.objects if ref.kind == kind]
        if len(alike) == 1 and alike[0] in places:
            yield Fact(phrasing="colour", blanks=(("thing", kind),), answer=alike[0].colour)
    if len(places) < len(world.objects):
        return  # something that is not in the picture may lie farther out
    order = sorted(places, key=lambda ref: places[ref][0])
    for name, last, before in (("object farthest to the left", 0, 1), ("object farthest to the right", -1, -2)):
        if len(order) > 1 and abs(places[order[last]][0] - places[order[before]][0]) > _MARGIN_U:
            yield Fact(phrasing="colour", blanks=(("thing", name),), answer=order[last].colour)


def _where_facts(world: WorldState, places: Mapping[ObjectRef, np.ndarray]) -> Iterator[Fact]:
    for ref in places:
        answer = place_in_words(ref, world, float(places[ref][0]))
        if answer is not None:
            yield Fact(phrasing="where", blanks=(("thing", str(ref)),), answer=answer)


def place_in_words(ref: ObjectRef, world: WorldState, u: float) -> str | None:
    """In the gripper, on or in something, else a third of the picture; None too near to where two thirds meet.

    Args:
        ref: the object.
        world: ground truth.
        u: where its centre appears, 0 at the picture's left edge, 1 at its right one.
    """
    if world.held() == ref:
        return "in the gripper"
    below = [other for other in world.objects if other != ref and ref.kind in BLOCK_KINDS and rests_on(ref, other, world)]
    if below:
        return f"{'in' if below[0].kind == 'bowl' else 'on'} the {below[0]}"
    if any(abs(u - edge) < _MARGIN_U for edge in _EDGES_U):
        return None
    return PLACES[sum(u > edge for edge in _EDGES_U)]


def _count_facts(world: WorldState, places: Mapping[ObjectRef, np.ndarray]) -> Iterator[Fact]:
    groups = {plural(kind): [r for r in world.objects if r.kind == kind] for kind in KINDS}
    groups |= {f"{colour} objects": [r for r in world.objects if r.colour == colour] for colour in COLOURS}
    groups |= {"blocks": [r for r in world.objects if r.kind in BLOCK_KINDS], "objects": list(world.objects)}
    for things, members in groups.items():
        if all(ref in places for ref in members):
            yield Fact(phrasing="count", blanks=(("things", things),), answer=NUMBERS[len(members)])


def plural(kind: str) -> str:
    """``cubes`` of ``cube``."""
    return f"{kind}s"


def _left_facts(world: WorldState, places: Mapping[ObjectRef, np.ndarray]) -> Iterator[Fact]:
    """Every ordered pair whose sides are clear, so that neither the first nor the second is right more often."""
    for a, b in itertools.permutations(places, 2):
        apart = places[b][0] - places[a][0]
        if abs(apart) > _MARGIN_U:
            blanks = (("a", str(a)), ("b", str(b)))
            yield Fact(phrasing="which_left", blanks=blanks, answer=str(a if apart > 0 else b))
            yield Fact(phrasing="is_left", blanks=blanks, answer=YES if apart > 0 else NO)


def _next_facts(world: WorldState, places: Mapping[ObjectRef, np.ndarray], split: str) -> Iterator[Fact]:
    """The expert's next phase for every task that can be done from here, unless it would be another one with the gripper a little elsewhere."""
    nearby = _nearby(world)
    for task in all_tasks(world.objects):
        involved = [ref for ref in (task.obj, task.target) if ref is not None]
        if is_held_out(task) == (split == "unseen") and all(ref in places for ref in involved) and is_feasible(task, world):
            step = next_step(task, world)
            if all(next_step(task, other) == step for other in nearby):
                yield Fact(phrasing="next", blanks=(("task", phrasings(task)[0]),), answer=step)


def _nearby(world: WorldState) -> list[WorldState]:
    """Worlds that a picture cannot well tell from this one: the tool, with what it holds, a little to every side, or opened a little otherwise."""
    held, worlds = world.held(), []
    for shift in _MARGIN_TOOL_M * np.vstack([np.eye(3), -np.eye(3)]):
        objects = dict(world.objects)
        if held is not None:
            objects[held] = replace(objects[held], position=objects[held].position + shift)
        worlds.append(replace(world, tool=world.tool + shift, objects=objects))
    return worlds + [replace(world, gripper=max(0.0, world.gripper + change)) for change in (-_MARGIN_GRIPPER_M, _MARGIN_GRIPPER_M)]


def next_step(task: Task, world: WorldState) -> str:
    """What the expert does next for ``task``, in words."""
    return _NEXT[expert.plan(task, world).phase].format(obj=task.obj, target=task.target)


# ---- questions ----


def all_questions(world: WorldState, places: Mapping[ObjectRef, np.ndarray], split: str = "seen", kinds: Sequence[str] = QUESTION_KINDS) -> list[Question]:
    """Every question that the picture settles, in every phrasing of the split; arguments as in `facts`."""
    found = [(kind, fact) for kind in kinds for fact in facts(kind, world, places, split)]
    return [Question(kind=kind, text=text, answer=fact.answer) for kind, fact in found for text in fact.ask(split)]


def draw_questions(
    rng: np.random.Generator, count: int, world: WorldState, places: Mapping[ObjectRef, np.ndarray], split: str = "seen", kinds: Sequence[str] = QUESTION_KINDS
) -> list[Question]:
    """Draws so many questions: kinds equally likely, then forms, then answers, so that no answer is right more often without looking.

    Returns:
        None at all where the picture settles nothing of these kinds.
    """
    by_kind = {kind: found for kind in kinds if (found := facts(kind, world, places, split))}
    return [_draw(rng, by_kind, split) for _ in range(count)] if by_kind else []


def _draw(rng: np.random.Generator, by_kind: Mapping[str, list[Fact]], split: str) -> Question:
    kind = _pick(rng, list(by_kind))
    form = _pick(rng, list(dict.fromkeys(fact.phrasing for fact in by_kind[kind])))
    of_form = [fact for fact in by_kind[kind] if fact.phrasing == form]
    answer = _pick(rng, list(dict.fromkeys(fact.answer for fact in of_form)))
    fact = _pick(rng, [fact for fact in of_form if fact.answer == answer])
    return Question(kind=kind, text=_pick(rng, fact.ask(split)), answer=answer)


def _pick(rng: np.random.Generator, items: Sequence[Item]) -> Item:
    return items[rng.integers(len(items))]


def is_right(question: Question, said: str) -> bool:
    """Whether the words are the answer, apart from case, blanks, punctuation and articles."""
    return _bare(said) == _bare(question.answer)


def _bare(text: str) -> list[str]:
    return [word for word in re.findall(r"[a-z]+", text.lower()) if word not in ("the", "a", "an")]


def all_texts() -> list[str]:
    """Every question in every phrasing and every answer that any scene may give, sorted: what a tokenizer must have words for."""
    refs = [ObjectRef(colour, kind) for colour in COLOURS for kind in KINDS]
    names = {str(ref) for ref in refs}
    things = {"thing": names | set(KINDS) | {"object farthest to the left", "object farthest to the right"}}
    things["things"] = {plural(kind) for kind in KINDS} | {f"{colour} objects" for colour in COLOURS} | {"blocks", "objects"}
    things["task"] = {phrasings(task)[0] for task in all_tasks(refs)}
    texts = {*COLOURS, *NUMBERS, *PLACES, YES, NO, "in the gripper", *names}
    texts |= {f"{'in' if ref.kind == 'bowl' else 'on'} the {ref}" for ref in refs}
    blocks, containers = [r for r in refs if r.kind in BLOCK_KINDS], [r for r in refs if r.kind in CONTAINER_KINDS]
    texts |= {answer.format(obj=obj, target=target) for answer in _NEXT.values() for obj in blocks for target in (*blocks, *containers)}
    for form, splits in _PHRASES.items():
        for phrase in itertools.chain.from_iterable(splits.values()):
            if form in ("which_left", "is_left"):
                texts |= {phrase.format(a=a, b=b) for a, b in itertools.permutations(sorted(names), 2)}
            else:
                blank = re.findall(r"{(\w+)}", phrase)[0]
                texts |= {phrase.format(**{blank: value}) for value in things[blank]}
    return sorted(texts)
