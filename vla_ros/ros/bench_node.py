# SPDX-License-Identifier: Apache-2.0
"""The node ``vla_policy`` as it is, with a recorder at its control thread: started by ``vla bench`` and by nobody else.

Reads one order a line: ``state``; ``record FILE CYCLES``; the end of the input ends it. Answers one line each (``vla_ros.ros.answers``).
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import rclpy

from vla_ros.core.chunk import ActionChunk
from vla_ros.core.control import ControlOutput
from vla_ros.core.errors import InputError, VlaError
from vla_ros.core.states import ControlState
from vla_ros.ros.answers import reply
from vla_ros.ros.control_runner import TickSinks
from vla_ros.ros.parameters import PolicyNodeParameters
from vla_ros.ros.policy_node import PolicyNode
from vla_ros.ros.process import EXIT_WRONG_USE, StopSignals, add_parameter_arguments, parameter_overrides, serve
from vla_ros.ros.run import Autostart

_OPTIONS = (
    "model",
    "control_rate_hz",
    "execution_provider",
    "sched_fifo_priority",
    "lock_memory",
    "inference_threads",
    "inference_max_rate_hz",
    "worker_start_timeout_s",
)
_ROW = np.dtype(
    [("woke_ns", "<i8"), ("lateness_ns", "<i8"), ("step_ns", "<i8"), ("missed", "<i8"), ("age_ns", "<i8"), ("first_ns", "<i8"), ("inference_ns", "<i8")]
)


def main(argv: list[str] | None = None) -> int:
    """Runs the node until its input ends."""
    parser = argparse.ArgumentParser(prog="vla_ros.ros.bench_node", description="The policy node with a recorder; started by vla bench.")
    add_parameter_arguments(parser, PolicyNodeParameters, _OPTIONS)
    arguments = parser.parse_args(sys.argv[1:] if argv is None else argv)

    def make(signals: StopSignals) -> PolicyNode:
        node = PolicyNode(parameter_overrides(PolicyNodeParameters, arguments), signals.requested)
        recorder = Recorder()
        node.interface.sinks = recorder.listen(node.interface.sinks)
        Autostart(node, refused=lambda: signals.stop(EXIT_WRONG_USE))
        resumer = Resumer(node)
        node.every(0.2, resumer.look)
        threading.Thread(target=_obey, args=(node, recorder, resumer, signals), name="vla_bench", daemon=True).start()
        return node

    return serve(make, close=PolicyNode.close, arguments=arguments, ros_arguments=[])


class Recorder:
    """Keeps one row for each control period in an array that was made before. The sinks and ``add`` run in the control thread.

    Attributes:
        rows: structured array of the record under way; ``age_ns`` is the action's age since its observation (0 without an action),
            ``first_ns`` the same in the period that first acts on a chunk, up to its publication.
    """

    def __init__(self) -> None:
        self.rows = np.zeros(0, _ROW)
        self.count = 0
        self._observed_ns = self._inference_ns = 0
        self._is_new = False
        self._age_ns = self._first_ns = 0

    def listen(self, sinks: TickSinks) -> TickSinks:
        """The sinks, with this recorder between."""

        def on_chunk(chunk: ActionChunk) -> None:
            self._observed_ns, self._inference_ns, self._is_new = chunk.obs_stamp_ns, chunk.inference_ns, True
            sinks.chunk(chunk)

        def on_command(output: ControlOutput) -> None:
            sinks.command(output)
            if output.action_D is not None:
                self._age_ns = output.stamp_ns - self._observed_ns
                self._first_ns, self._is_new = self._age_ns if self._is_new else 0, False

        return replace(sinks, chunk=on_chunk, command=on_command)

    def begin(self, cycles: int) -> None:
        """Makes room; the next periods are recorded."""
        self.count, self.rows = cycles, np.zeros(cycles, _ROW)  # touched here, not in the control thread
        self.rows.fill(0)
        self.count = 0

    @property
    def is_full(self) -> bool:
        """Whether all periods are recorded."""
        return self.count >= len(self.rows)

    def add(self, woke_ns: int, lateness_ns: int, step_ns: int, missed: int) -> None:
        """One period has ended."""
        if self.count < len(self.rows):
            first_ns = self._first_ns + step_ns if self._first_ns else 0
            self.rows[self.count] = (woke_ns, lateness_ns, step_ns, missed, self._age_ns, first_ns, self._inference_ns)
            self.count += 1
        self._age_ns = self._first_ns = 0


class Resumer:
    """Resumes the node when it has latched: noise makes a policy answer what no arm can follow, and the load must go on."""

    def __init__(self, node: PolicyNode) -> None:
        self._node = node
        self.resumed = 0

    def look(self) -> None:
        """Call a few times a second, in the executor's thread."""
        session = self._node.session
        output = None if session is None else session.runner.output
        if output is None or output.state is not ControlState.LATCHED:
            return
        try:
            session.runner.call(lambda loop, joint_age_ns: loop.resume(joint_age_ns))
            self.resumed += 1
        except InputError as error:
            self._node.get_logger().warning(f"cannot resume: {error}")


def _obey(node: PolicyNode, recorder: Recorder, resumer: Resumer, signals: StopSignals) -> None:
    """Reads orders until the input ends; then the process ends."""
    for line in sys.stdin:
        try:
            reply(**_do(line.split(), node, recorder, resumer))
        except (VlaError, ValueError, OSError) as error:
            reply(error=str(error))
    signals.requested.set()


def _do(words: list[str], node: PolicyNode, recorder: Recorder, resumer: Resumer) -> dict[str, Any]:
    if words == ["state"]:
        return _state(node, resumer)
    if len(words) == 3 and words[0] == "record":
        return _record(node, recorder, Path(words[1]), int(words[2]))
    raise ValueError(f"unknown order {' '.join(words)!r}")


def _state(node: PolicyNode, resumer: Resumer) -> dict[str, Any]:
    session = node.session
    output = None if session is None else session.runner.output
    facts: dict[str, Any] = {"label": node.label, "rmw": rclpy.get_rmw_implementation_identifier(), "resumed": resumer.resumed}
    if session is not None and output is not None:
        scheduler = session.runner.call(lambda *_: os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK)
        facts |= {"state": output.state.value, "code": output.code.name, "fifo": scheduler == os.SCHED_FIFO}
    return facts


def _record(node: PolicyNode, recorder: Recorder, path: Path, cycles: int) -> dict[str, Any]:
    session = node.session
    if session is None:
        raise InputError("the node is not configured", code="not_configured")
    recorder.begin(cycles)
    session.thread.on_period = recorder.add
    limit = time.monotonic() + 10.0 + 5.0 * cycles / node.parameters.control_rate_hz
    while not recorder.is_full:
        if time.monotonic() > limit:
            raise InputError(f"only {recorder.count} of {cycles} periods came", code="control_thread_silent")
        time.sleep(0.1)
    session.thread.on_period = None
    np.save(path, recorder.rows)
    return {"cycles": recorder.count}


if __name__ == "__main__":
    sys.exit(main())
