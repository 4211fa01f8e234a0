# SPDX-License-Identifier: Apache-2.0
"""The control thread's work: everything that touches the control loop happens here, once a period. Must not import rclpy.

Other threads leave messages: the newest joint state, the newest instruction, every e-stop edge, and calls whose answer somebody waits for.
Nothing here waits for them.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout  # another class than TimeoutError up to Python 3.10
from dataclasses import dataclass
from typing import Any, Protocol

from vla_ros.core.chunk import ActionChunk
from vla_ros.core.control import ControlLoop, ControlOutput, Watch
from vla_ros.core.errors import DecodeError, InputError
from vla_ros.core.safety import StatusCode
from vla_ros.ros.joint_states import JointSample

_LONG_AGO_NS = 3_600_000_000_000  # an age of what never came


class PolicyLink(Protocol):
    """The control thread's end of the exchange with the inference process; no method blocks."""

    def update(self) -> None:
        """Takes the worker's newest report: once a period, first."""

    def send(self, loop: ControlLoop, joints: JointSample | None, now_ns: int) -> None:
        """Tells the worker what to infer from."""

    def receive(self) -> ActionChunk | None:
        """The newest answer that was not received before."""

    def apply_refusals(self, loop: ControlLoop) -> None:
        """Tells the loop about rejected answers and refused instructions."""

    @property
    def age_ns(self) -> int:
        """Since the worker's last sign of life, monotonic clock."""

    @property
    def hold(self) -> StatusCode | None:
        """Why the worker cannot see or think (a lost or frozen camera), or None."""


@dataclass(frozen=True, kw_only=True)
class TickSinks:
    """Where a tick's results go; all are called in the control thread and must not block.

    Attributes:
        command: the command, only while something is commanded.
        chunk: a chunk that was taken.
        edge: state, code or warnings changed.
        drop: a message was dropped: code and sentence.
    """

    command: Callable[[ControlOutput], None]
    chunk: Callable[[ActionChunk], None]
    edge: Callable[[ControlOutput], None]
    drop: Callable[[str, str], None]


class ControlRunner:
    """Feeds one control loop and hands its results on. :meth:`tick` runs in the control thread, everything else in any other one."""

    def __init__(self, loop: ControlLoop, link: PolicyLink, now_ns: Callable[[], int], sinks: TickSinks) -> None:
        """Args: the loop, the exchange with the worker, the ROS clock, and where results go."""
        self._loop = loop
        self._link = link
        self._now_ns = now_ns
        self._sinks = sinks
        self._joints: deque[tuple[JointSample, int]] = deque(maxlen=1)
        self._instruction: deque[str] = deque(maxlen=1)
        self._e_stop: deque[bool] = deque(maxlen=64)
        self._calls: deque[tuple[Callable[[ControlLoop, int], Any], Future]] = deque()
        self._joint_sample: JointSample | None = None
        self._joint_received_ns: int | None = None
        self._edge: tuple[Any, ...] = ()
        self._was_commanded = False
        self.output: ControlOutput | None = None

    # ---- any thread ----

    def put_joints(self, sample: JointSample, received_ns: int) -> None:
        """Leaves a joint state; the newest wins. ``received_ns`` is on the monotonic clock."""
        self._joints.append((sample, received_ns))

    def put_instruction(self, text: str) -> None:
        """Leaves an instruction; the newest wins, so that a flood costs one look a period."""
        self._instruction.append(text)

    def put_e_stop(self, pressed: bool) -> None:
        """Leaves an e-stop message. All of them are looked at: a press must latch even if a release follows at once."""
        self._e_stop.append(pressed)

    def post(self, function: Callable[[ControlLoop, int], Any]) -> Future:
        """Leaves a call for the next period."""
        future: Future = Future()
        self._calls.append((function, future))
        return future

    def call(self, function: Callable[[ControlLoop, int], Any], timeout_s: float = 1.0) -> Any:
        """Runs ``function(loop, joint_age_ns)`` in the control thread and returns its result.

        Raises:
            InputError: the loop refused, or ``control_thread_silent`` when no period came within ``timeout_s``.
        """
        future = self.post(function)
        try:
            return future.result(timeout_s)
        except FutureTimeout as error:
            raise InputError(f"the control thread did not answer within {timeout_s} s", code="control_thread_silent") from error

    @property
    def joint_age_ns(self) -> int:
        """Since the last accepted joint state, monotonic clock; an hour if none has come."""
        received = self._joint_received_ns
        return _LONG_AGO_NS if received is None else time.monotonic_ns() - received

    @property
    def counts(self) -> Counter[str]:
        """The loop's counts so far."""
        return Counter(dict(self._loop.counts))

    # ---- control thread ----

    def tick(self, monotonic_ns: int) -> None:
        """One control period."""
        now_ns = self._now_ns()
        self._take_messages(monotonic_ns)
        self._take_answers(now_ns)
        joint_age_ns = _LONG_AGO_NS if self._joint_received_ns is None else monotonic_ns - self._joint_received_ns
        output = self._loop.step(now_ns, Watch(joint_age_ns=joint_age_ns, worker_age_ns=self._link.age_ns, hold=self._link.hold))
        if output.is_commanded or self._was_commanded:  # the last command is the one at rest
            self._sinks.command(output)
        self._was_commanded = output.is_commanded
        self._link.send(self._loop, self._joint_sample, now_ns)
        self.output = output
        edge = (output.state, output.code, output.warnings)
        if edge != self._edge:
            self._edge = edge
            self._sinks.edge(output)

    def _take_messages(self, monotonic_ns: int) -> None:
        while self._e_stop:
            self._loop.set_e_stop(self._e_stop.popleft())
        if self._joints:
            self._take_joints(*self._joints.popleft())
        if self._instruction:
            self._loop.set_instruction(self._instruction.popleft())
        while self._calls:
            function, future = self._calls.popleft()
            self._answer(function, future, self.joint_age_ns)

    def _take_joints(self, sample: JointSample, received_ns: int) -> None:
        try:
            self._loop.put_joints(sample.stamp_ns, sample.positions_J)
        except InputError as error:
            self._sinks.drop(error.code, str(error))
            return
        self._joint_sample, self._joint_received_ns = sample, received_ns

    def _answer(self, function: Callable[[ControlLoop, int], Any], future: Future, joint_age_ns: int) -> None:
        try:
            future.set_result(function(self._loop, joint_age_ns))
        except Exception as error:  # belongs to the caller, not to the loop
            future.set_exception(error)

    def _take_answers(self, now_ns: int) -> None:
        self._link.update()
        self._link.apply_refusals(self._loop)
        chunk = self._link.receive()
        if chunk is None:
            return
        try:
            result = self._loop.put_chunk(chunk, now_ns)
        except DecodeError as error:
            self._sinks.drop("chunk_rejected", str(error))
            return
        if self._loop.chunk is chunk:
            self._sinks.chunk(chunk)
        elif result is not None:
            self._sinks.drop(f"chunk_{result.name.lower()}", f"chunk {result.value}")
