# SPDX-License-Identifier: Apache-2.0
"""The flight recorder, a process of its own: ``python -m vla_ros.ros.flight_recorder --folder DIR`` beside ``vla_policy``.

It keeps the last half minute of everything that ``vla record`` writes (the policy's pictures in its own small size, joints, instructions,
tokens, actions, commands, every status), and when the node latches or fails writes it as MCAP. What it costs the control loop is what any
subscriber costs; writing to the disk happens here.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vla_ros.core.errors import VlaError
from vla_ros.flight_ring import FlightRing

STOPPED_STATES = ("latched", "fault")
_AFTERMATH_S = 1.0  # the stop itself belongs to the story


class FlightTrigger:
    """Says when a flight is to be written: a while after the state became one in which a person is needed. Pure."""

    def __init__(self, aftermath_s: float = _AFTERMATH_S) -> None:
        self._aftermath_s = aftermath_s
        self._state = ""
        self._due_s: float | None = None
        self.reason = ""

    def note(self, state: str, code: str, now_s: float) -> None:
        """Takes one ``~/status``; repetitions change nothing."""
        is_edge = state in STOPPED_STATES and self._state not in STOPPED_STATES
        self._state = state
        if is_edge and self._due_s is None:
            self._due_s, self.reason = now_s + self._aftermath_s, code

    def is_due(self, now_s: float) -> bool:
        """True once for each stop."""
        if self._due_s is None or now_s < self._due_s:
            return False
        self._due_s = None
        return True


class FlightRecorder:
    """Ring, trigger and files. One thread: the one that spins ``node``."""

    def __init__(self, node: Any, policy_node: str, folder: Path, *, seconds: float, keep: int, say: Callable[[str], None]) -> None:
        """Args: see the command line; ``say`` takes one sentence about each file and each failure."""
        from diagnostic_msgs.msg import DiagnosticStatus

        from vla_ros.ros import qos
        from vla_ros.ros.recorder import Recorder

        self._ring, self._trigger = FlightRing(seconds), FlightTrigger()
        self._recorder = Recorder(node, self._ring, policy_node, sent_images=False, say=say)
        self._folder, self._keep, self._say, self._policy_node = folder, keep, say, policy_node
        node.create_subscription(DiagnosticStatus, f"{policy_node}/status", self._on_status, qos.STATUS)
        node.create_timer(0.5, self._recorder.look)
        node.create_timer(0.2, self._write_when_due)

    def _on_status(self, message: Any) -> None:
        values = {pair.key: pair.value for pair in message.values}
        self._trigger.note(values.get("state", ""), values.get("control_code", values.get("code", "")), time.monotonic())

    def _write_when_due(self) -> None:
        if not self._trigger.is_due(time.monotonic()):
            return
        reason = self._trigger.reason
        path = self._folder / time.strftime(f"flight_%Y-%m-%d_%H-%M-%S_{reason.lower()}.mcap")
        try:
            counts = self._ring.dump(path, {"flight.json": json.dumps({"reason": reason, "node": self._policy_node})})
            self._remove_oldest()
        except (VlaError, OSError) as error:  # the next flight may find room
            self._say(f"the flight recorder could not write {path}: {error}")
            return
        self._say(f"{reason}: the last seconds are in {path} ({sum(counts.values())} messages of {len(counts)} topics)")

    def _remove_oldest(self) -> None:
        for path in sorted(self._folder.glob("flight_*.mcap"))[: -self._keep]:
            path.unlink(missing_ok=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Records until SIGINT or SIGTERM; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="where files go; made if absent")
    parser.add_argument("--node", default="/vla_policy", help="fully qualified name of the policy node (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=30.0, help="how much is kept (default: %(default)s)")
    parser.add_argument("--keep", type=int, default=20, help="newest files that stay (default: %(default)s)")
    arguments = parser.parse_args(argv)
    if arguments.seconds <= 0 or arguments.keep < 1:
        parser.error("--seconds must be positive and --keep at least 1")
    return _serve(arguments)


def _serve(arguments: argparse.Namespace) -> int:
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.signals import SignalHandlerOptions

    from vla_ros.ros.process import StopSignals
    from vla_ros.ros.transport import use_fastdds_profile

    use_fastdds_profile()
    with StopSignals() as signals:
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        node = rclpy.create_node("vla_flight_recorder", start_parameter_services=False)
        options = {"seconds": arguments.seconds, "keep": arguments.keep, "say": node.get_logger().info}
        FlightRecorder(node, arguments.node, arguments.folder, **options)
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        while not signals.requested.is_set():
            executor.spin_once(timeout_sec=0.1)
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
