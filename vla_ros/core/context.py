# SPDX-License-Identifier: Apache-2.0
"""Context window management: N_img + N_text + N_action <= L_max, shared by a stated rule and never in silence.

The instruction, the newest frames and the answer's room are always kept. What else is offered is shortened in this
order until the sequence fits: the oldest frames first, then the oldest steps of the action history. The instruction is
never cut: one that is too long is refused. Every shortening is in the result, with its reason.
A frame is what all cameras (and the state, if it has tokens) say at one moment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar

from vla_ros.core.errors import ConfigError, InputError, InstructionTooLong
from vla_ros.core.manifest import ContextSpec
from vla_ros.core.schema import Fields

Frame = TypeVar("Frame")
Step = TypeVar("Step")

CONFIGURED, LENGTH = "configured", "length"


@dataclass(frozen=True, kw_only=True)
class Shortening:
    """Something that was offered and is not in the sequence.

    Attributes:
        part: ``frames`` or ``history``.
        offered: how many there were.
        kept: how many are in the sequence, the newest ones.
        reason: ``configured`` if the budget never keeps more, ``length`` if the sequence would be longer than L_max.
    """

    part: str
    offered: int
    kept: int
    reason: str

    def describe(self) -> str:
        """One sentence for a log."""
        noun = {"frames": "frames", "history": "steps of action history"}[self.part]
        why = "more would not fit the context window" if self.reason == LENGTH else "the budget keeps no more"
        return f"kept the newest {self.kept} of {self.offered} {noun}: {why}"


@dataclass(frozen=True, kw_only=True)
class ContextShare:
    """Tokens of each part of one sequence, and what was shortened."""

    frames: int
    history_steps: int
    image_tokens: int
    state_tokens: int
    text_tokens: int
    history_tokens: int
    answer_tokens: int
    shortenings: tuple[Shortening, ...] = ()

    @property
    def action_tokens(self) -> int:
        """N_action: history and answer."""
        return self.history_tokens + self.answer_tokens

    @property
    def used(self) -> int:
        """Tokens of the whole sequence."""
        return self.image_tokens + self.state_tokens + self.text_tokens + self.action_tokens


@dataclass(frozen=True, kw_only=True)
class Context(Generic[Frame, Step]):
    """The items of one sequence, oldest first, and how the window is shared among them."""

    frames: tuple[Frame, ...]
    text_ids: tuple[int, ...]
    history: tuple[Step, ...]
    share: ContextShare


@dataclass(frozen=True, kw_only=True)
class ContextBudget:
    """How a window of ``length`` tokens may be shared.

    Attributes:
        length: L_max.
        image_tokens: of one frame, all cameras together.
        state_tokens: of one frame; 0 if the state is no token.
        max_frames: frames kept at most.
        min_frames: newest frames that are never dropped.
        max_text_tokens: limit of the instruction with its prompt.
        step_tokens: of one past action step.
        max_history_steps: past action steps kept at most.
        answer_tokens: reserved for the chunk that is to be generated.

    Raises:
        ConfigError: a number out of range, or the window cannot hold the longest instruction with the fewest frames.
    """

    length: int
    image_tokens: int
    max_text_tokens: int
    answer_tokens: int
    state_tokens: int = 0
    max_frames: int = 1
    min_frames: int = 1
    step_tokens: int = 0
    max_history_steps: int = 0

    def __post_init__(self) -> None:
        least = {"image_tokens": 0, "state_tokens": 0, "step_tokens": 0, "max_history_steps": 0, "answer_tokens": 0, "min_frames": 0}
        least |= {"length": 1, "max_text_tokens": 1, "max_frames": self.min_frames}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ConfigError(f"context.{name} must be at least {bound}, got {getattr(self, name)}")
        if self.max_history_steps and not self.step_tokens:
            raise ConfigError("context.step_tokens must be at least 1 where max_history_steps is: say how many tokens a past action has")
        needed = self._tokens(self.min_frames, self.max_text_tokens, 0)
        if needed > self.length:
            raise ConfigError(
                f"context.length is {self.length}, the longest instruction with {self.min_frames} frames and the answer needs {needed}: "
                "raise length, or lower max_text_tokens or min_frames"
            )

    def fit(self, *, frames: int, text_tokens: int, history_steps: int = 0) -> ContextShare:
        """How the window is shared among what is offered.

        Args:
            frames: frames there are.
            text_tokens: of the instruction with its prompt.
            history_steps: past action steps there are.

        Raises:
            InstructionTooLong: the instruction is never cut.
            InputError: fewer frames than ``min_frames`` (code ``frames_missing``).
        """
        if text_tokens > self.max_text_tokens:
            raise InstructionTooLong(text_tokens, self.max_text_tokens)
        if frames < self.min_frames:
            raise InputError(f"the policy needs {self.min_frames} frames and got {frames}: wait for the next pictures", code="frames_missing")
        kept, steps = min(frames, self.max_frames), min(history_steps, self.max_history_steps)
        while kept > self.min_frames and self._tokens(kept, text_tokens, steps) > self.length:
            kept -= 1
        while steps > 0 and self._tokens(kept, text_tokens, steps) > self.length:
            steps -= 1
        lost = (("frames", frames, kept, self.max_frames), ("history", history_steps, steps, self.max_history_steps))
        return ContextShare(
            frames=kept,
            history_steps=steps,
            image_tokens=kept * self.image_tokens,
            state_tokens=kept * self.state_tokens,
            text_tokens=text_tokens,
            history_tokens=steps * self.step_tokens,
            answer_tokens=self.answer_tokens,
            shortenings=tuple(
                Shortening(part=part, offered=offered, kept=k, reason=CONFIGURED if k == most else LENGTH) for part, offered, k, most in lost if k < offered
            ),
        )

    def select(self, frames: Sequence[Frame], text_ids: Sequence[int], history: Sequence[Step] = ()) -> Context[Frame, Step]:
        """The items of the sequence: the newest frames and steps that fit, and the whole instruction.

        Args:
            frames: oldest first.
            text_ids: ids of the instruction with its prompt, without padding.
            history: past action steps, oldest first.

        Raises:
            InstructionTooLong, InputError: as in ``fit``.
        """
        share = self.fit(frames=len(frames), text_tokens=len(text_ids), history_steps=len(history))
        return Context(
            frames=tuple(frames[len(frames) - share.frames :]),
            text_ids=tuple(text_ids),
            history=tuple(history[len(history) - share.history_steps :]),
            share=share,
        )

    @classmethod
    def of_manifest(cls, context: ContextSpec) -> ContextBudget:
        """The budget of a bundle: one frame, no action history."""
        return cls(
            length=context.length,
            image_tokens=context.image_tokens,
            state_tokens=context.state_tokens,
            max_text_tokens=context.text_tokens,
            answer_tokens=context.action_tokens,
        )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "context") -> ContextBudget:
        """Reads a plain mapping; raises ConfigError naming the key."""
        fields = Fields(data, where)
        names = ("state_tokens", "step_tokens", "max_history_steps", "min_frames", "max_frames")
        given = {name: fields.integer(name, 0) for name in names if name in data}
        budget = cls(
            length=fields.integer("length", 1),
            image_tokens=fields.integer("image_tokens", 0),
            max_text_tokens=fields.integer("max_text_tokens", 1),
            answer_tokens=fields.integer("answer_tokens", 0),
            **given,
        )
        for name in names:
            fields.raw(name, None)
        fields.finish()
        return budget

    def to_dict(self) -> dict[str, Any]:
        """The inverse of ``from_dict``."""
        return asdict(self)

    def _tokens(self, frames: int, text_tokens: int, history_steps: int) -> int:
        return frames * (self.image_tokens + self.state_tokens) + text_tokens + history_steps * self.step_tokens + self.answer_tokens
