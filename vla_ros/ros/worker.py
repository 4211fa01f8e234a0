# SPDX-License-Identifier: Apache-2.0
"""The inference process: ``python -m vla_ros.ros.worker CONFIG_JSON``, started by the node ``vla_policy`` and by nobody else.

It holds cameras, image preparation and inference, so that the control process never decodes a picture. It dies with its parent.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

import rclpy
from rclpy.logging import LoggingSeverity
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from vla_ros.core.errors import InferenceError, VlaError
from vla_ros.robot.description import RobotDescription
from vla_ros.ros.cameras import RosCameras
from vla_ros.ros.policy_link import FiguresSlot, exchange_sizes
from vla_ros.ros.replay_topics import DecisionPublisher
from vla_ros.ros.worker_process import WorkerConfig
from vla_ros.runtime.bundle import load_bundle
from vla_ros.runtime.messages import Exchange, Snapshot
from vla_ros.runtime.policy import Policy
from vla_ros.runtime.worker import WorkerLoop, WorkerSettings

EXIT_DONE, EXIT_REFUSED, EXIT_FAILED = 0, 3, 4
_PR_SET_PDEATHSIG = 1
_FIGURES_PERIOD_S = 0.5


def main(argv: list[str] | None = None) -> int:
    """Loads, warms up and infers until SIGTERM. Returns the exit code."""
    config = WorkerConfig.from_json((sys.argv[1:] if argv is None else argv)[0])
    die_with_parent(config.parent_pid)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    figures = FiguresSlot(config.exchange, create=False)
    try:
        _Worker(config, figures).run(stop)
    except VlaError as error:
        figures.write({"failure": str(error)})
        return EXIT_FAILED if isinstance(error, InferenceError) else EXIT_REFUSED
    finally:
        rclpy.try_shutdown()
    return EXIT_DONE


def die_with_parent(parent_pid: int) -> None:
    """Has the kernel kill this process when its parent ends, however that happens (prctl(2), Linux)."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:  # it ended before the call
        sys.exit(EXIT_FAILED)


class _Worker:
    """Everything of the process, made in the order in which it can fail."""

    def __init__(self, config: WorkerConfig, figures: FiguresSlot) -> None:
        self._config = config
        self._figures = figures
        # The middleware's threads keep their priority: they share locks with the other processes on this machine, the control thread's
        # among them. Only what comes after is nice: this thread, and those of the session that it makes.
        self._node = _make_node(config)
        os.nice(config.nice)
        bundle, robot = load_bundle(config.bundle), RobotDescription.load(config.robot)
        self._policy = Policy(bundle, robot, provider=config.provider, threads=config.threads, allow_cpu=config.allow_cpu)
        self._policy.warm_up()
        facts = {"bundle_sha256": bundle.sha256, "provider": self._policy.backend.provider, "threads": config.threads}
        policy_node = f"{config.namespace.rstrip('/')}/{config.node_name.removesuffix('_worker')}"
        self._decisions = DecisionPublisher(self._node, self._policy, bundle.manifest.cameras, policy_node, facts)
        self._cameras = RosCameras(self._node, config, bundle.manifest.cameras)
        self._exchange = _ObservedExchange(Exchange(config.exchange, **exchange_sizes(bundle.manifest, robot), create=False), self._cameras)
        self._loop = WorkerLoop(
            policy=self._decisions,
            cameras=bundle.manifest.cameras,
            source=self._cameras,
            exchange=self._exchange,
            settings=WorkerSettings(
                max_image_age_ns=config.max_image_age_ns,
                max_joint_age_ns=config.max_joint_age_ns,
                max_future_ns=config.max_future_ns,
                max_skew_ns=config.max_skew_ns,
                min_period_ns=config.min_period_ns,
            ),
        )
        self._next_figures = 0.0

    def run(self, stop: threading.Event) -> None:
        """Infers until told to stop; raises InferenceError when the back end keeps failing."""
        self._tell_figures()

        def should_stop() -> bool:
            if time.monotonic() >= self._next_figures:
                self._tell_figures()
            self._decisions.flush()
            return stop.is_set()

        try:
            self._loop.run(should_stop)
        finally:
            self._exchange.close()
            self._node.destroy_node()

    def _tell_figures(self) -> None:
        self._next_figures = time.monotonic() + _FIGURES_PERIOD_S
        backend = self._policy.backend
        facts = {"provider": backend.provider, "runs_on": backend.description, "pid": os.getpid()}
        self._figures.write({**facts, "drops": dict(self._cameras.drops.counts)})


class _ObservedExchange:
    """The exchange, seen by the cameras: they judge a still picture by how far the joints have moved."""

    def __init__(self, exchange: Exchange, cameras: RosCameras) -> None:
        self._exchange = exchange
        self._cameras = cameras
        self.write_chunk, self.write_report, self.close = exchange.write_chunk, exchange.write_report, exchange.close

    def read_snapshot(self) -> Snapshot | None:
        """The newest one that was not read before."""
        snapshot = self._exchange.read_snapshot()
        if snapshot is not None:
            self._cameras.note_joints(snapshot.joint_positions)
        return snapshot


def _make_node(config: WorkerConfig) -> Node:
    """A node without services; topics come fully resolved, so no remapping rule may apply a second time."""
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    rclpy.logging.set_logger_level("", LoggingSeverity[config.log_level.upper()])
    return rclpy.create_node(config.node_name, namespace=config.namespace, start_parameter_services=False, use_global_arguments=False)


if __name__ == "__main__":
    sys.exit(main())
