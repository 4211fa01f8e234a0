# SPDX-License-Identifier: Apache-2.0
"""Entry of ``vla run``: the node ``vla_policy`` as a process, configured and activated without launch.

Takes the arguments of ``policy.launch.py`` as options, and ROS arguments after ``--ros-args``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from vla_ros.processes import die_with_parent
from vla_ros.ros.parameters import PolicyNodeParameters
from vla_ros.ros.policy_node import PolicyNode
from vla_ros.ros.process import EXIT_WRONG_USE, StopSignals, add_parameter_arguments, parameter_overrides, serve, split_ros_arguments

_OPTIONS = (
    "model",
    "robot",
    "control_rate_hz",
    "execution_provider",
    "image_transport",
    "command_interface",
    "sched_fifo_priority",
    "inference_threads",
)
_RETRY_S = 2.0


def main(argv: list[str] | None = None) -> int:
    """Runs the node until SIGINT or SIGTERM, then holds and exits within five seconds.

    Returns:
        the exit code: 2 where the node was to start at once and cannot be configured (an unknown bundle, a wrong hash, another robot).
    """
    ours, ros = split_ros_arguments(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="vla run", description="The policy node vla_policy: camera images and an instruction to joint commands."
    )
    add_parameter_arguments(parser, PolicyNodeParameters, _OPTIONS)
    parser.add_argument(
        "--autostart",
        nargs="?",
        const=True,
        default=True,
        type=_to_bool,
        metavar="BOOL",
        help="configure and activate at once; false waits for lifecycle requests (default: true)",
    )
    parser.add_argument(
        "--flight-recorder", type=Path, metavar="DIR", help="keep the last half minute, and write it there as MCAP when the node latches or fails"
    )
    arguments = parser.parse_args(ours)
    recorders: list[subprocess.Popen] = []

    def make(signals: StopSignals) -> PolicyNode:
        node = PolicyNode(parameter_overrides(PolicyNodeParameters, arguments), signals.requested)
        if arguments.autostart:
            Autostart(node, refused=lambda: signals.stop(EXIT_WRONG_USE))
        if arguments.flight_recorder is not None:
            recorders.append(start_flight_recorder(arguments.flight_recorder, node.get_fully_qualified_name()))
        return node

    def close(node: PolicyNode) -> None:
        node.close()
        for recorder in recorders:
            recorder.terminate()

    return serve(make, close=close, arguments=arguments, ros_arguments=ros)


def start_flight_recorder(folder: Path, policy_node: str) -> subprocess.Popen:
    """Starts the process that ends with this one."""
    command = [sys.executable, "-m", "vla_ros.ros.flight_recorder", "--folder", str(folder), "--node", policy_node]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=die_with_parent, start_new_session=True)


class Autostart:
    """Configures and activates a node once, and tries again while it is refused (a driver that is not up yet)."""

    def __init__(self, node: PolicyNode, refused: Callable[[], None]) -> None:
        """Begins as soon as the node spins; calls ``refused`` when the node cannot be configured: somebody must mend the reason."""
        self._node = node
        self._refused = refused
        node.repeats_requests = True
        self._timer = node.every(0.0, self._step)

    def _step(self) -> None:
        self._timer.cancel()
        if self._node.label == "unconfigured":
            self._node.trigger_configure()
            if self._node.label == "unconfigured":
                self._refused()
        if self._node.label == "inactive":
            self._node.trigger_activate()
        if self._node.label == "inactive":
            self._timer = self._node.every(_RETRY_S, self._step)


def _to_bool(text: str) -> bool:
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in known:
        raise argparse.ArgumentTypeError(f"expected true or false, found {text!r}")
    return known[text.lower()]


if __name__ == "__main__":
    sys.exit(main())
