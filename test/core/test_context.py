# SPDX-License-Identifier: Apache-2.0
"""The window is never exceeded, nothing is dropped in silence, and the rule of what goes first is kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_ros.core.context import CONFIGURED, LENGTH, ContextBudget
from vla_ros.core.errors import ConfigError, InputError, InstructionTooLong
from vla_ros.core.manifest import ContextSpec

# 64 + 16 picture tokens and a state token a frame, 24 words, a chunk of 30 tokens, six tokens a past step.
BUDGET = ContextBudget(
    length=256, image_tokens=80, state_tokens=1, max_frames=4, max_text_tokens=24, answer_tokens=30, step_tokens=6, max_history_steps=8
)


@st.composite
def budgets(draw):
    small, frames = st.integers(0, 40), draw(st.integers(0, 3))
    steps = draw(st.integers(0, 8))
    numbers = dict(image_tokens=draw(small), state_tokens=draw(st.integers(0, 3)), max_text_tokens=draw(st.integers(1, 30)), answer_tokens=draw(small))
    needed = frames * (numbers["image_tokens"] + numbers["state_tokens"]) + numbers["max_text_tokens"] + numbers["answer_tokens"]
    return ContextBudget(
        length=needed + draw(st.integers(0, 200)),
        min_frames=frames,
        max_frames=frames + draw(st.integers(0, 5)),
        step_tokens=draw(st.integers(1, 10)),
        max_history_steps=steps,
        **numbers,
    )


@st.composite
def offers(draw):
    budget = draw(budgets())
    return budget, dict(
        frames=draw(st.integers(budget.min_frames, budget.min_frames + 10)),
        text_tokens=draw(st.integers(0, budget.max_text_tokens)),
        history_steps=draw(st.integers(0, 20)),
    )


@given(offers())
def test_the_sequence_never_exceeds_the_window(case):
    budget, offered = case
    share = budget.fit(**offered)
    assert share.image_tokens + share.state_tokens + share.text_tokens + share.action_tokens == share.used <= budget.length
    assert share.image_tokens == share.frames * budget.image_tokens and share.history_tokens == share.history_steps * budget.step_tokens
    assert share.answer_tokens == budget.answer_tokens


@given(offers())
def test_the_instruction_is_whole_and_the_newest_frames_stay(case):
    budget, offered = case
    share = budget.fit(**offered)
    assert share.text_tokens == offered["text_tokens"]
    assert budget.min_frames <= share.frames <= budget.max_frames and share.history_steps <= budget.max_history_steps


@given(offers())
def test_everything_that_is_missing_is_reported_and_nothing_else(case):
    budget, offered = case
    share = budget.fit(**offered)
    told = {s.part: s for s in share.shortenings}
    for part, kept, count, most in (
        ("frames", share.frames, offered["frames"], budget.max_frames),
        ("history", share.history_steps, offered["history_steps"], budget.max_history_steps),
    ):
        assert (part in told) == (kept < count)
        if part in told:
            assert (told[part].kept, told[part].offered) == (kept, count)
            assert told[part].reason == (CONFIGURED if kept == most else LENGTH)
            assert f"newest {kept} of {count}" in told[part].describe()


@given(offers())
def test_no_more_is_dropped_than_must_be(case):
    """One more frame would be too many or too long; one more step of history as well."""
    budget, offered = case
    share = budget.fit(**offered)
    if share.frames < min(offered["frames"], budget.max_frames):
        wanted_steps = min(offered["history_steps"], budget.max_history_steps)
        before_history_went = share.used + (wanted_steps - share.history_steps) * budget.step_tokens
        assert before_history_went + budget.image_tokens + budget.state_tokens > budget.length
    if share.history_steps < min(offered["history_steps"], budget.max_history_steps):
        assert share.used + budget.step_tokens > budget.length


@given(offers())
def test_history_goes_only_after_the_old_frames_went(case):
    budget, offered = case
    share = budget.fit(**offered)
    if share.history_steps < min(offered["history_steps"], budget.max_history_steps):
        assert share.frames == budget.min_frames


@given(offers())
def test_a_longer_instruction_never_leaves_more_room(case):
    budget, offered = case
    share, shorter = budget.fit(**offered), budget.fit(**{**offered, "text_tokens": 0})
    assert shorter.frames >= share.frames and shorter.history_steps >= share.history_steps


@given(offers())
def test_the_newest_items_are_selected_in_order(case):
    budget, offered = case
    frames, history = list(range(offered["frames"])), list(range(offered["history_steps"]))
    context = budget.select(frames, range(offered["text_tokens"]), history)
    assert context.share == budget.fit(**offered)
    assert list(context.frames) == frames[offered["frames"] - context.share.frames :]
    assert list(context.history) == history[offered["history_steps"] - context.share.history_steps :]
    assert context.text_ids == tuple(range(offered["text_tokens"]))


def test_the_rule_on_one_example():
    """81 tokens a frame, 24 words, 30 tokens of answer: two frames fit (216), with eight steps of history (48) only one."""
    assert BUDGET.fit(frames=4, text_tokens=24).frames == 2
    share = BUDGET.fit(frames=4, text_tokens=24, history_steps=8)
    assert (share.frames, share.history_steps, share.used) == (1, 8, 81 + 24 + 48 + 30)
    assert [s.describe() for s in share.shortenings] == ["kept the newest 1 of 4 frames: more would not fit the context window"]


def test_an_instruction_that_is_too_long_is_refused_with_the_limit():
    with pytest.raises(InstructionTooLong, match="needs 25 tokens.*reads 24"):
        BUDGET.fit(frames=1, text_tokens=25)


def test_a_missing_frame_is_an_input_error():
    with pytest.raises(InputError, match="needs 1 frames and got 0") as caught:
        BUDGET.fit(frames=0, text_tokens=1)
    assert caught.value.code == "frames_missing"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"length": 134}, "needs 135"),
        ({"length": 0}, "length"),
        ({"max_text_tokens": 0}, "max_text_tokens"),
        ({"image_tokens": -1}, "image_tokens"),
        ({"max_frames": 0}, "max_frames"),
        ({"min_frames": -1}, "min_frames"),
        ({"min_frames": 3, "max_frames": 3}, "needs 297"),
        ({"step_tokens": 0}, "step_tokens"),
    ],
)
def test_a_budget_that_cannot_hold_is_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        ContextBudget(**{**BUDGET.to_dict(), **change})


@given(budgets())
def test_a_budget_survives_a_dictionary(budget):
    assert ContextBudget.from_dict(budget.to_dict()) == budget


def test_a_dictionary_may_leave_out_what_has_a_default_and_nothing_else():
    plain = {"length": 100, "image_tokens": 20, "max_text_tokens": 24, "answer_tokens": 30}
    assert ContextBudget.from_dict(plain).max_frames == 1
    with pytest.raises(ConfigError, match="'length' is missing"):
        ContextBudget.from_dict({k: v for k, v in plain.items() if k != "length"})
    with pytest.raises(ConfigError, match="unknown keys"):
        ContextBudget.from_dict({**plain, "frames": 3})


def test_the_budget_of_a_bundle():
    budget = ContextBudget.of_manifest(ContextSpec(length=140, image_tokens=80, text_tokens=24, state_tokens=1, action_tokens=30))
    share = budget.fit(frames=1, text_tokens=24)
    assert share.used == 135 and not share.shortenings
    assert budget.fit(frames=2, text_tokens=5).shortenings[0].reason == CONFIGURED
