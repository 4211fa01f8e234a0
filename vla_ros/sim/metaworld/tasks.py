# SPDX-License-Identifier: Apache-2.0
"""The fifty tasks: names, groups of difficulty, what one can say for them, and what they are about."""

from __future__ import annotations

from dataclasses import dataclass

from vla_ros.core.errors import ConfigError
from vla_ros.core.text import normalize_instruction
from vla_ros.sim.metaworld.words import NOUNS, PHRASINGS

SUITE = "mt50"

# The groups of Seo et al. (arXiv 2206.14244), by which published policies report.
GROUPS: dict[str, tuple[str, ...]] = {
    "easy": (
        "button-press-topdown-v3", "button-press-topdown-wall-v3", "button-press-v3", "button-press-wall-v3", "coffee-button-v3",
        "dial-turn-v3", "door-close-v3", "door-lock-v3", "door-open-v3", "door-unlock-v3", "drawer-close-v3", "drawer-open-v3",
        "faucet-close-v3", "faucet-open-v3", "handle-press-side-v3", "handle-press-v3", "handle-pull-side-v3", "handle-pull-v3",
        "lever-pull-v3", "peg-unplug-side-v3", "plate-slide-back-side-v3", "plate-slide-back-v3", "plate-slide-side-v3",
        "plate-slide-v3", "reach-v3", "reach-wall-v3", "window-close-v3", "window-open-v3",
    ),
    "medium": (
        "basketball-v3", "bin-picking-v3", "box-close-v3", "coffee-pull-v3", "coffee-push-v3", "hammer-v3", "peg-insert-side-v3",
        "push-wall-v3", "soccer-v3", "sweep-into-v3", "sweep-v3",
    ),
    "hard": ("assembly-v3", "hand-insert-v3", "pick-out-of-hole-v3", "pick-place-v3", "push-back-v3", "push-v3"),
    "very_hard": ("disassemble-v3", "pick-place-wall-v3", "shelf-place-v3", "stick-pull-v3", "stick-push-v3"),
}
TASKS: tuple[str, ...] = tuple(sorted(name for names in GROUPS.values() for name in names))
SPLITS = ("seen", "unseen")


@dataclass(frozen=True)
class MetaWorldTask:
    """One task. ``family`` is its name, so that results are counted by task."""

    family: str

    def __post_init__(self) -> None:
        if self.family not in TASKS:
            raise ConfigError(f"Meta-World has no task '{self.family}': there are {', '.join(TASKS)}")


def group_of(name: str) -> str:
    """``easy``, ``medium``, ``hard`` or ``very_hard``."""
    return next(group for group, names in GROUPS.items() if name in names)


def phrasings(task: MetaWorldTask, split: str = "seen") -> list[str]:
    """All ways to say ``task`` in one split; those of ``unseen`` are in no demonstration."""
    seen, unseen = PHRASINGS[task.family]
    return list(seen if split == "seen" else unseen)


def nouns(task: MetaWorldTask) -> tuple[str, str]:
    """What is moved, and where to."""
    return NOUNS[task.family]


def parse_task(text: str) -> MetaWorldTask | None:
    """The task that an instruction names: its own name or one of its phrasings; None for any other text."""
    words = normalize_instruction(text).lower().rstrip(".!?")
    if words in TASKS:
        return MetaWorldTask(words)
    for name, (seen, unseen) in PHRASINGS.items():
        if words in (*seen, *unseen):
            return MetaWorldTask(name)
    return None


def tasks_of(environment: str) -> tuple[str, ...]:
    """The tasks of an environment's name: ``metaworld:mt50``, ``metaworld:<group>`` or ``metaworld:<task>``.

    Raises:
        ConfigError: listing the choices.
    """
    _, _, part = environment.partition(":")
    if part in ("", SUITE):
        return TASKS
    if part in GROUPS:
        return GROUPS[part]
    return (MetaWorldTask(part).family,)
