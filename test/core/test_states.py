# SPDX-License-Identifier: Apache-2.0
"""The table keeps its promises for every state and event."""

from __future__ import annotations

import itertools

import pytest

from vla_ros.core.errors import InputError
from vla_ros.core.states import ControlState, Event, is_allowed, next_state

S, E = ControlState, Event


def test_only_an_explicit_resume_or_deactivation_leaves_the_latch():
    leaves = {e for e in E if is_allowed(S.LATCHED, e) and next_state(S.LATCHED, e) is not S.LATCHED}
    assert leaves == {E.RESUME, E.RESUME_TASK, E.DEACTIVATE, E.FAIL}


def test_only_deactivation_leaves_a_fault():
    assert {e for e in E if is_allowed(S.FAULT, e) and next_state(S.FAULT, e) is not S.FAULT} == {E.DEACTIVATE}


def test_the_robot_acts_only_from_a_hold():
    assert {s for s in S if is_allowed(s, E.ACT)} == {S.HOLDING, S.ACTING}


def test_every_active_state_can_latch_fail_and_deactivate():
    for state in (S.IDLE, S.HOLDING, S.ACTING):
        assert next_state(state, E.LATCH) is S.LATCHED
        assert next_state(state, E.FAIL) is S.FAULT
        assert next_state(state, E.DEACTIVATE) is S.INACTIVE


def test_what_is_not_in_the_table_is_refused_with_the_choices():
    for state, event in itertools.product(S, E):
        if not is_allowed(state, event):
            with pytest.raises(InputError, match="possible are"):
                next_state(state, event)
