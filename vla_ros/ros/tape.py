# SPDX-License-Identifier: Apache-2.0
"""The control loop's tape: every call that reached it, tick by tick, with what came of it. Must not import rclpy.

``ControlLoop`` reads no clock and keeps no secret: from the same state and the same calls come the same commands, bit for bit. A *key* is
its whole state between two ticks: a tape can be repeated from any of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import is_dataclass
from enum import Enum
from typing import Any

from vla_ros.core.control import ControlLoop, ControlOutput, Watch
from vla_ros.core.errors import VlaError
from vla_ros.ros.plain import first_difference, from_plain, to_plain

CALLS = (
    "activate",
    "deactivate",
    "set_instruction",
    "refuse_instruction",
    "set_e_stop",
    "stop",
    "resume",
    "put_joints",
    "put_chunk",
    "reject_chunk",
)
"""Every method of the loop that changes it, ``step`` apart; a test compares."""

_KEPT_TICKS = 3000  # one minute at 50 Hz, if the reader falls behind
_KEY_EVERY = 50  # ticks between two keys: what a lost message costs at most
_NOT_STATE = ("_config", "_limits", "_motion")  # the same for the same robot and parameters; the motion generator is written apart
_MOTION = ("position", "velocity", "acceleration")


class TapedLoop:
    """A ``ControlLoop`` that can be overheard. One thread (the control thread), except ``wanted`` and ``take``.

    Attributes:
        wanted: whether ticks are to be kept; set by any thread, looked at between two ticks.
        failure: why the tape ended by itself, empty otherwise. The loop goes on whatever happens to its tape.
    """

    def __init__(self, loop: ControlLoop) -> None:
        self._loop = loop
        self._ticks: deque[dict[str, Any]] = deque(maxlen=_KEPT_TICKS)
        self._calls: list[list[Any]] = []
        self._key: dict[str, Any] | None = None
        self._is_on = False
        self._number = self._since_key = 0
        self.wanted = False
        self.failure = ""
        for name in CALLS:
            setattr(self, name, self._taped(name))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def take(self) -> list[dict[str, Any]]:
        """Ticks since the last call, oldest first, not yet plain. One thread, any."""
        return [self._ticks.popleft() for _ in range(len(self._ticks))]

    def step(self, now_ns: int, watch: Watch) -> ControlOutput:
        """As the loop's."""
        output = self._loop.step(now_ns, watch)
        if self._is_on:
            tick = {"tick": self._number, "calls": self._calls, "now_ns": now_ns, "watch": watch, "output": output}
            self._ticks.append(tick if self._key is None else {"key": self._key, **tick})
        self._calls, self._key = [], None
        self._number += 1
        if self.wanted != self._is_on:
            self._is_on, self._since_key = self.wanted, _KEY_EVERY
        if self._is_on:
            self._make_key()
        return output

    def _make_key(self) -> None:
        self._since_key += 1
        if self._since_key < _KEY_EVERY:
            return
        try:
            self._key, self._since_key = capture(self._loop), 0
        except Exception as error:  # a tape that cannot go on must not cost the robot its control
            self.failure, self.wanted, self._is_on = f"{type(error).__name__}: {error}", False, False

    def _taped(self, name: str) -> Callable[..., Any]:
        call = getattr(self._loop, name)

        def taped(*arguments: Any, **named: Any) -> Any:
            if not self._is_on:
                return call(*arguments, **named)
            entry = [name, list(arguments), named, None]
            self._calls.append(entry)
            try:
                result = call(*arguments, **named)
            except VlaError as error:
                entry[3] = f"{type(error).__name__}: {error}"
                raise
            entry[3] = result
            return result

        return taped


def capture(loop: ControlLoop) -> dict[str, Any]:
    """The loop's state between two ticks, as plain data.

    Raises:
        TypeError: the loop has an attribute of a kind that is not known here.
    """
    motion = loop._guard._motion
    return {"loop": _capture(loop), "motion": {name: to_plain(getattr(motion, name)) for name in _MOTION}}


def restore(loop: ControlLoop, key: dict[str, Any]) -> None:
    """Puts a fresh loop of the same robot and parameters into the state of ``key``."""
    for name in _MOTION:
        setattr(loop._guard._motion, name, from_plain(key["motion"][name]))
    _restore(loop, key["loop"])


def _capture(part: Any) -> dict[str, Any]:
    state = {}
    for name, value in vars(part).items():
        if name in _NOT_STATE or callable(value):
            continue
        is_part = type(value).__module__.startswith("vla_ros.core.") and not is_dataclass(value) and not isinstance(value, Enum)
        state[name] = {"part": _capture(value)} if is_part else to_plain(value)
    return state


def _restore(part: Any, state: dict[str, Any]) -> None:
    for name, value in state.items():
        if isinstance(value, dict) and "part" in value:
            _restore(getattr(part, name), value["part"])
        else:
            setattr(part, name, from_plain(value))


def plain_tick(tick: dict[str, Any]) -> dict[str, Any]:
    """A taken tick as plain data, for JSON."""
    calls = [
        [name, [to_plain(a) for a in arguments], to_plain(named), to_plain(result)] for name, arguments, named, result in tick["calls"]
    ]
    return {**tick, "calls": calls, "watch": to_plain(tick["watch"]), "output": to_plain(tick["output"])}


def replay_tick(loop: ControlLoop, tick: dict[str, Any]) -> str | None:
    """Repeats one plain tick on ``loop``; returns where its outcome differs from the recorded one, or None."""
    for name, arguments, named, recorded in tick["calls"]:
        if name not in CALLS:
            return f"the recording calls {name}, which this release does not know"
        difference = first_difference(from_plain(recorded), _call(loop, name, arguments, named), f"{name}()")
        if difference is not None:
            return difference
    return first_difference(from_plain(tick["output"]), loop.step(tick["now_ns"], from_plain(tick["watch"])), "")


def _call(loop: ControlLoop, name: str, arguments: list[Any], named: Any) -> Any:
    try:
        return getattr(loop, name)(*(from_plain(a) for a in arguments), **from_plain(named))
    except VlaError as error:
        return f"{type(error).__name__}: {error}"
