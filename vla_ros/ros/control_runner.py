# SPDX-License-Identifier: Apache-2.0
"""The control thread's work: everything that touches the control loop happens here, once a period. Must not import rclpy.

It takes the robot's inputs itself. Other threads leave calls whose answer somebody waits for; nothing here waits for them.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout  # another class than TimeoutError up to Python 3.10
from dataclasses import dataclass
from typing import Any, Protocol

from vla_ros.core.chunk import ActionChunk, PutResult
from vla_ros.core.control import ControlLoop, ControlOutput, Watch
from vla_ros.core.errors import DecodeError, InputError
from vla_ros.core.safety import StatusCode
from vla_ros.ros.joint_states import JointSample


class Inputs(Protocol):
    """What comes from the robot and from people."""

    sample: JointSample | None

    def apply(self, loop: ControlLoop, now_ns: int) -> None:
        """Gives the loop what is new; raises nothing."""

    @property
    def joint_age_ns(self) -> int:
        """Since the last accepted joint state, monotonic clock."""


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

    def __init__(self, loop: ControlLoop, link: PolicyLink, inputs: Inputs, now_ns: Callable[[], int], sinks: TickSinks) -> None:
        """Args: the loop, the exchange with the worker, what the robot and people say, the ROS clock, and where results go."""
        self._loop = loop
        self._inputs = inputs
        self._link = link
        self._now_ns = now_ns
        self._sinks = sinks
        self._calls: deque[tuple[Callable[[ControlLoop, int], Any], Future]] = deque()
        self._edge: tuple[Any, ...] = ()
        self.output: ControlOutput | None = None

    # ---- any thread ----

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
            future.cancel()  # a caller who was told that nothing happened must not be surprised later
            raise InputError(f"the control thread did not answer within {timeout_s} s", code="control_thread_silent") from error

    @property
    def joint_age_ns(self) -> int:
        """Since the last accepted joint state, monotonic clock."""
        return self._inputs.joint_age_ns

    @property
    def counts(self) -> Counter[str]:
        """The loop's counts so far."""
        return Counter(dict(self._loop.counts))

    # ---- control thread ----

    def tick(self, _monotonic_ns: int) -> None:
        """One control period."""
        now_ns = self._now_ns()
        self._inputs.apply(self._loop, now_ns)
        while self._calls:
            self._answer(*self._calls.popleft())
        self._take_answers(now_ns)
        watch = Watch(joint_age_ns=self._inputs.joint_age_ns, worker_age_ns=self._link.age_ns, hold=self._link.hold)
        output = self._loop.step(now_ns, watch)
        if output.is_commanded:
            self._sinks.command(output)
        self._link.send(self._loop, self._inputs.sample, now_ns)
        self.output = output
        edge = (output.state, output.code, output.warnings)
        if edge != self._edge:
            self._edge = edge
            self._sinks.edge(output)

    def _answer(self, function: Callable[[ControlLoop, int], Any], future: Future) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(function(self._loop, self._inputs.joint_age_ns))
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
        if result is PutResult.TAKEN:
            self._sinks.chunk(chunk)
        elif result is PutResult.TOO_LATE:  # the other reasons are daily life; the loop counts them
            self._sinks.drop("chunk_too_late", f"the policy's answer came too late: {result.value}")
