# SPDX-License-Identifier: Apache-2.0
"""What the robot can be told: task families, their phrasings, which combinations training never sees, and parsing of typed text.

Left and right are those of the front picture (an operator who faces the robot): left is negative y of ``base_link``. The front is nearest to the operator.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
import itertools
import re

import numpy as np

from vla_ros.sim.scene import BLOCK_KINDS, COLOURS, CONTAINER_KINDS, KINDS

FAMILIES = ("reach", "push", "pick", "put", "stack")
NEW_FAMILIES = ("front",)  # what the shipped policy was never taught: for learning something new (docs/training.md); never drawn unless asked for
ALL_FAMILIES = FAMILIES + NEW_FAMILIES
DIRECTIONS = ("left", "right")
SPLITS = ("seen", "unseen")
PARTLY_UNSEEN = ("combinations", "phrasings")  # held-out combinations in known words, and known combinations in new words


@dataclass(frozen=True, order=True)
class ObjectRef:
    """An object as words name it."""

    colour: str
    kind: str

    def __str__(self) -> str:
        return f"{self.colour} {self.kind}"


@dataclass(frozen=True, kw_only=True)
class Task:
    """One instruction's meaning: what to do with ``obj``, where (``target``) or to which side (``direction``)."""

    family: str
    obj: ObjectRef
    target: ObjectRef | None = None
    direction: str | None = None


_PHRASINGS: dict[str, dict[str, tuple[str, ...]]] = {
    "reach": {
        "seen": ("reach the {obj}", "go to the {obj}", "move to the {obj}", "touch the {obj}", "reach for the {obj}", "move the gripper to the {obj}", "please go to the {obj}", "hover over the {obj}"),
        "unseen": ("please reach for the {obj}", "go over to the {obj}", "move over the {obj}", "touch the top of the {obj} please"),
    },
    "push": {
        "seen": ("push the {obj} to the {side}", "push the {obj} to the {side} side", "slide the {obj} to the {side}", "move the {obj} to the {side}", "shove the {obj} {side}", "push the {obj} {side}", "please push the {obj} to the {side}", "slide the {obj} over to the {side} side"),
        "unseen": ("please slide the {obj} to the {side} side", "shove the {obj} over to the {side}", "could you push the {obj} over to the {side} side", "slide the {obj} {side} please"),
    },
    "pick": {
        "seen": ("pick up the {obj}", "pick the {obj} up", "grab the {obj}", "lift the {obj}", "take the {obj}", "grasp the {obj}", "please pick up the {obj}", "lift up the {obj}"),
        "unseen": ("please lift the {obj} up", "grab the {obj} and lift it", "could you pick up the {obj}", "take the {obj} please"),
    },
    "put": {
        "seen": ("put the {obj} {prep} the {target}", "place the {obj} {prep} the {target}", "drop the {obj} {prep} the {target}", "move the {obj} {into} the {target}", "pick up the {obj} and put it {prep} the {target}", "please put the {obj} {prep} the {target}", "set the {obj} {prep} the {target}"),
        "unseen": ("please drop the {obj} {into} the {target}", "grab the {obj} and place it {prep} the {target}", "could you put the {obj} {into} the {target}", "take the {obj} and set it {prep} the {target}"),
    },
    "stack": {
        "seen": ("stack the {obj} on the {target}", "put the {obj} on the {target}", "place the {obj} on top of the {target}", "stack the {obj} on top of the {target}", "pick up the {obj} and stack it on the {target}", "please stack the {obj} on the {target}", "put the {obj} on top of the {target}"),
        "unseen": ("please place the {obj} on the {target}", "grab the {obj} and put it on top of the {target}", "could you stack the {obj} on top of the {target}", "set the {obj} on top of the {target}"),
    },
    "front": {
        "seen": ("put the {obj} at the front", "move the {obj} to the front", "place the {obj} at the front", "set the {obj} down at the front", "please put the {obj} at the front", "pick up the {obj} and put it at the front"),
        "unseen": ("please move the {obj} to the front", "could you place the {obj} at the front", "take the {obj} and set it down at the front"),
    },
}


def phrasings(task: Task, split: str = "seen") -> list[str]:
    """All ways to say ``task`` in one split."""
    inside = task.target is not None and task.target.kind == "bowl"
    words = {"obj": task.obj, "target": task.target, "side": task.direction, "prep": "in" if inside else "on", "into": "into" if inside else "onto"}
    return [template.format(**words) for template in _PHRASINGS[task.family][split]]


def is_held_out(task: Task) -> bool:
    """Whether training never sees this combination of family, colours and shapes (about one in seven)."""
    family, obj = ALL_FAMILIES.index(task.family), _index(task.obj)
    if (obj + 3 * family) % 7 == 0:
        return True
    return task.target is not None and (obj + 2 * _index(task.target) + family) % 11 == 0


def _index(ref: ObjectRef) -> int:
    return list(COLOURS).index(ref.colour) + len(COLOURS) * KINDS.index(ref.kind)


def all_tasks(objects: Iterable[ObjectRef], families: Sequence[str] = FAMILIES) -> list[Task]:
    """Every task of ``families`` that words can name among ``objects``, feasible or not."""
    objects = list(objects)
    blocks = [o for o in objects if o.kind in BLOCK_KINDS]
    containers = [o for o in objects if o.kind in CONTAINER_KINDS]
    tasks = [Task(family=family, obj=o) for family in ("reach", "pick") for o in blocks]
    tasks += [Task(family="push", obj=o, direction=d) for o in blocks for d in DIRECTIONS]
    tasks += [Task(family="put", obj=o, target=t) for o in blocks for t in containers]
    tasks += [Task(family="stack", obj=o, target=t) for o, t in itertools.permutations(blocks, 2)]
    tasks += [Task(family="front", obj=o) for o in blocks]
    return [task for task in tasks if task.family in families]


def sample_task(rng: np.random.Generator, tasks: Sequence[Task], split: str = "seen", family: str | None = None) -> tuple[Task, str] | None:
    """Draws a task and a phrasing, families equally likely; None where none fits.

    ``unseen`` draws held-out combinations and phrasings only; ``combinations`` and ``phrasings`` only the one of them.
    """
    pool = [t for t in tasks if family in (None, t.family)]
    pool = [t for t in pool if is_held_out(t) == (split in ("unseen", "combinations"))]
    task = draw_evenly(rng, pool)
    if task is None:
        return None
    words = phrasings(task, "unseen" if split in ("unseen", "phrasings") else "seen")
    return task, words[rng.integers(len(words))]


def draw_evenly(rng: np.random.Generator, tasks: Sequence[Task]) -> Task | None:
    """Draws a task, families equally likely; None where there is none."""
    families = [f for f in ALL_FAMILIES if any(t.family == f for t in tasks)]
    if not families:
        return None
    chosen = families[rng.integers(len(families))]
    fitting = [t for t in tasks if t.family == chosen]
    return fitting[rng.integers(len(fitting))]


def parse_task(text: str, objects: Iterable[ObjectRef] | None = None) -> Task | None:
    """Reads a typed instruction; None where the words name no known task or an object that is not among ``objects``."""
    words = re.sub(r"[^a-z ]", " ", text.lower())
    found = [ObjectRef(c, k) for c, k in re.findall(rf"\b({'|'.join(COLOURS)}) ({'|'.join(KINDS)})\b", words)]
    if not found or found[0].kind not in BLOCK_KINDS or len(found) > 2:
        return None
    if objects is not None and not set(found) <= set(objects):
        return None
    side = re.findall(r"\b(left|right)\b", words)
    if len(found) == 2:
        family = "put" if found[1].kind in CONTAINER_KINDS else "stack"
        return Task(family=family, obj=found[0], target=found[1]) if found[0] != found[1] else None
    if re.search(r"\bfront\b", words):
        return Task(family="front", obj=found[0])
    if side:
        return Task(family="push", obj=found[0], direction=side[0])
    if re.search(r"\b(pick|grab|lift|take|grasp)\b", words):
        return Task(family="pick", obj=found[0])
    if re.search(r"\b(reach|go|move|touch|hover)\b", words):
        return Task(family="reach", obj=found[0])
    return None
