# SPDX-License-Identifier: Apache-2.0
"""The control state as a pure transition table. What is not in the table is refused."""

from __future__ import annotations

from enum import Enum

from vla_ros.core.errors import InputError


class ControlState(Enum):
    """What the control loop is doing."""

    INACTIVE = "inactive"  # nothing is commanded
    IDLE = "idle"  # at rest, no instruction
    ACTING = "acting"  # following a chunk
    HOLDING = "holding"  # decelerating or at rest, an instruction waits for inputs or for a chunk
    LATCHED = "latched"  # decelerating or at rest until an explicit resume
    FAULT = "fault"  # internal failure: only deactivation leads out


class Event(Enum):
    """What can happen to it."""

    ACTIVATE = "activate"
    DEACTIVATE = "deactivate"
    INSTRUCT = "instruct"  # a new instruction
    CLEAR = "clear"  # an empty or refused instruction, or the task is done
    ACT = "act"  # a chunk is there and all inputs are fresh
    LOSE = "lose"  # an input is lost or the chunk is used up
    LATCH = "latch"  # e-stop, stop request, repeated invalid input
    RESUME = "resume"  # an explicit resume, no instruction waits
    RESUME_TASK = "resume task"  # an explicit resume, an instruction waits
    FAIL = "fail"  # internal failure


_S, _E = ControlState, Event

TRANSITIONS: dict[tuple[ControlState, Event], ControlState] = {
    (_S.INACTIVE, _E.ACTIVATE): _S.IDLE,
    (_S.IDLE, _E.INSTRUCT): _S.HOLDING,
    (_S.IDLE, _E.CLEAR): _S.IDLE,
    (_S.HOLDING, _E.INSTRUCT): _S.HOLDING,
    (_S.HOLDING, _E.CLEAR): _S.IDLE,
    (_S.HOLDING, _E.ACT): _S.ACTING,
    (_S.HOLDING, _E.LOSE): _S.HOLDING,
    (_S.ACTING, _E.INSTRUCT): _S.HOLDING,
    (_S.ACTING, _E.CLEAR): _S.IDLE,
    (_S.ACTING, _E.ACT): _S.ACTING,
    (_S.ACTING, _E.LOSE): _S.HOLDING,
    (_S.LATCHED, _E.RESUME): _S.IDLE,
    (_S.LATCHED, _E.RESUME_TASK): _S.HOLDING,
    **{(state, _E.LATCH): _S.LATCHED for state in (_S.IDLE, _S.HOLDING, _S.ACTING, _S.LATCHED)},
    **{(state, _E.FAIL): _S.FAULT for state in _S},
    **{(state, _E.DEACTIVATE): _S.INACTIVE for state in _S},
}


def is_allowed(state: ControlState, event: Event) -> bool:
    """Whether ``event`` may happen in ``state``."""
    return (state, event) in TRANSITIONS


def next_state(state: ControlState, event: Event) -> ControlState:
    """The state after ``event``.

    Raises:
        InputError: ``transition_refused``, listing the events that ``state`` allows.
    """
    if not is_allowed(state, event):
        allowed = sorted(e.value for s, e in TRANSITIONS if s is state)
        raise InputError(f"'{event.value}' is not possible while {state.value}; possible are {allowed}", code="transition_refused")
    return TRANSITIONS[state, event]
