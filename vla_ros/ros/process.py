# SPDX-License-Identifier: Apache-2.0
"""One ROS process from its arguments to its exit code: signals, spinning, and an exit within five seconds.

rclpy's own signal handlers shut the context down at once, and then nothing more can be published. Here a signal only wakes the executor:
the node publishes its HOLD first.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from types import TracebackType

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.logging import LoggingSeverity
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions

from vla_ros.core.errors import ConfigError
from vla_ros.processes import die_with_parent
from vla_ros.ros.log_pump import LogPump
from vla_ros.ros.parameters import parameter_specs
from vla_ros.ros.transport import use_fastdds_profile

EXIT_DONE, EXIT_FAILED, EXIT_WRONG_USE = 0, 1, 2
_EXIT_DEADLINE_S = 4.5  # below the five seconds after which launch and systemd begin to kill


class StopSignals:
    """Turns SIGINT and SIGTERM into a set event and a woken executor. Use as a context manager in the main thread.

    Attributes:
        requested: the process shall end.
        exit_code: with which code.
    """

    def __init__(self) -> None:
        self.requested = threading.Event()
        self.exit_code = EXIT_DONE
        self._wake: Callable[[], None] = lambda: None
        self._read, self._write = socket.socketpair()
        self._write.setblocking(False)

    def wakes(self, wake: Callable[[], None]) -> None:
        """Sets what to call, from another thread, when a signal has come."""
        self._wake = wake

    def stop(self, exit_code: int) -> None:
        """Ends the process as a signal would, from the executor's thread; a signal that came before keeps its exit code."""
        if not self.requested.is_set():
            self.exit_code = exit_code
            self.requested.set()

    def __enter__(self) -> StopSignals:
        threading.Thread(target=self._wait, name="vla_signals", daemon=True).start()
        # A handler runs only between bytecodes of the main thread, which may be waiting in C; the descriptor is written at once.
        signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        self._before = {s: signal.signal(s, lambda *_: None) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(-1)
        self._write.close()

    def _wait(self) -> None:
        while True:
            received = self._read.recv(1)
            if not received:
                return
            if received[0] in (signal.SIGINT, signal.SIGTERM):
                self.requested.set()
                self._wake()


def split_ros_arguments(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits at ``--ros-args``: ours before it, ROS's from it on."""
    argv = list(argv)
    at = argv.index("--ros-args") if "--ros-args" in argv else len(argv)
    return argv[:at], argv[at:]


def add_parameter_arguments(parser: argparse.ArgumentParser, cls: type, only: Sequence[str] = ()) -> None:
    """Adds an option for each parameter of ``cls`` (or those whose field is in ``only``), and what every node takes.

    An option that is not given leaves its parameter to ROS: params files and ``-p``.
    """
    for spec in parameter_specs(cls):
        if (only and spec.field_name not in only) or isinstance(spec.default, tuple):
            continue
        option = "--" + spec.field_name.replace("_", "-")
        text = f"{spec.full_description} (default: {spec.default!r})".replace("%", "%%")
        if isinstance(spec.default, bool):
            parser.add_argument(option, dest=spec.field_name, action="store_true", default=None, help=text)
        else:
            parser.add_argument(
                option, dest=spec.field_name, type=type(spec.default), choices=spec.choices or None, default=None, help=text
            )
    parser.add_argument("--params-file", help="YAML file of ROS parameters")
    parser.add_argument("--namespace", default="", help="ROS namespace of the node (default: none)")
    parser.add_argument("--use-sim-time", action="store_true", default=None, help="take the time from /clock")
    parser.add_argument(
        "--log-level",
        default="info",
        choices=("debug", "info", "warn", "error", "fatal"),
        help="least severity that is logged (default: info)",
    )
    parser.add_argument(
        "--end-with", type=int, metavar="PID", help="end, as at SIGTERM, when this parent process has ended (launch files set it)"
    )


def parameter_overrides(cls: type, arguments: argparse.Namespace) -> list[Parameter]:
    """ROS parameters from the parsed options that were given (those that are not None)."""
    given = {spec.name: getattr(arguments, spec.field_name, None) for spec in parameter_specs(cls)}
    given["use_sim_time"] = arguments.use_sim_time
    return [Parameter(name, value=value) for name, value in given.items() if value is not None]


def _ros_arguments(arguments: argparse.Namespace, given: list[str]) -> list[str]:
    more = ["-r", f"__ns:=/{arguments.namespace.strip('/')}"] if arguments.namespace.strip("/") else []
    if arguments.params_file:
        more += ["--params-file", arguments.params_file]
    return [*given, *(["--ros-args"] if more and not given else []), *more]


def serve(
    make_node: Callable[[StopSignals], Node], *, close: Callable[[Node], None], arguments: argparse.Namespace, ros_arguments: list[str]
) -> int:
    """Makes a node, spins it until SIGINT or SIGTERM, closes it. Returns the exit code.

    Args:
        make_node: called after rclpy is up; what it raises as ConfigError becomes one line and exit code 2.
        close: called while publishing is still possible.
        arguments: parsed options of :func:`add_parameter_arguments`.
        ros_arguments: from ``--ros-args`` on.
    """
    use_fastdds_profile()
    if arguments.end_with:
        end_with(arguments.end_with)
    with LogPump(), StopSignals() as signals:
        rclpy.init(args=_ros_arguments(arguments, ros_arguments), signal_handler_options=SignalHandlerOptions.NO)
        executor = SingleThreadedExecutor()
        signals.wakes(executor.wake)
        try:
            rclpy.logging.set_logger_level("", LoggingSeverity[arguments.log_level.upper()])
            node = make_node(signals)
        except ConfigError as error:
            sys.stderr.write(f"error: {error}\n")
            rclpy.try_shutdown()
            return EXIT_WRONG_USE
        executor.add_node(node)
        while not signals.requested.is_set() and rclpy.ok():
            _spin_once(executor, node)
        _exit_anyway(_EXIT_DEADLINE_S)
        close(node)
        executor.remove_node(node)
        node.destroy_node()
        executor.shutdown(timeout_sec=1.0)
        rclpy.try_shutdown()
    return signals.exit_code


def end_with(parent_pid: int) -> None:
    """Has the kernel send SIGTERM when the parent ends, however that happens: ``ros2 launch`` leaves its processes behind at SIGTERM."""
    die_with_parent()
    if os.getppid() != parent_pid and not os.path.exists(f"/proc/{parent_pid}"):  # it ended before the call
        raise SystemExit(EXIT_DONE)


def _spin_once(executor: SingleThreadedExecutor, node: Node) -> None:
    """What a callback raises is logged: not even one of rclpy's own services may end the process and with it the robot's control."""
    try:
        executor.spin_once()
    except Exception as error:
        node.get_logger().error(f"a callback failed: {type(error).__name__}: {error}", throttle_duration_sec=1.0)


def _exit_anyway(seconds: float) -> None:
    """Ends the process after ``seconds`` even if something never returns (a driver, a library's thread)."""
    timer = threading.Timer(seconds, os._exit, [EXIT_FAILED])
    timer.daemon = True
    timer.start()
