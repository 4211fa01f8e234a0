# SPDX-License-Identifier: Apache-2.0
"""What the node owns between configure and cleanup: bundle, robot, inference process, control thread. Must not import rclpy."""

from __future__ import annotations

import gc
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla_ros.core.control import ControlConfig, ControlLoop
from vla_ros.core.errors import ConfigError, InferenceError
from vla_ros.core.paths import bundle_dir, robot_config_path
from vla_ros.core.takeover import Takeover
from vla_ros.robot.control import new_control_loop
from vla_ros.robot.description import RobotDescription
from vla_ros.ros.control_runner import ControlRunner, Inputs, TickSinks
from vla_ros.ros.loop import PeriodicThread
from vla_ros.ros.parameters import PolicyNodeParameters
from vla_ros.ros.policy_link import SharedMemoryLink
from vla_ros.ros.restarts import MAX_SILENT_LIVES, RestartPolicy
from vla_ros.ros.scheduling import lock_memory, niceness, set_niceness, unlock_memory
from vla_ros.ros.tape import TapedLoop
from vla_ros.ros.worker_process import CameraTopic, WorkerConfig, WorkerProcess
from vla_ros.runtime.bundle import Bundle, load_bundle

_SWITCH_INTERVAL_S = 0.0001  # how long another thread may keep the interpreter from the control thread; Python's own is 5 ms
_EXECUTOR_NICE = -20


@dataclass(frozen=True, kw_only=True)
class Contract:
    """Bundle and robot, verified against each other."""

    bundle: Bundle
    robot: RobotDescription
    robot_path: Path

    @classmethod
    def load(cls, parameters: PolicyNodeParameters) -> Contract:
        """Loads and verifies both.

        Raises:
            ConfigError: with what to mend.
        """
        bundle = load_bundle(bundle_dir(parameters.model))
        robot_path = Path(parameters.robot) if parameters.robot else robot_config_path(bundle.manifest.robot)
        robot = RobotDescription.load(robot_path)
        if robot.name != bundle.manifest.robot:
            raise ConfigError(
                f"bundle {bundle.manifest.name} is for the robot {bundle.manifest.robot!r}, "
                f"{robot_path} describes {robot.name!r}: choose matching ones"
            )
        topics, cameras = parameters.camera_topics, bundle.manifest.cameras
        if topics and len(topics) != len(cameras):
            raise ConfigError(
                f"cameras.topics names {len(topics)} topics, the bundle has {len(cameras)} cameras "
                f"({', '.join(c.name for c in cameras)}): name one each"
            )
        return cls(bundle=bundle, robot=robot, robot_path=robot_path)


class PolicySession:
    """The running parts. Made by configure, closed by cleanup; used by the executor's thread only."""

    def __init__(
        self,
        contract: Contract,
        parameters: PolicyNodeParameters,
        inputs: Inputs,
        now_ns: Callable[[], int],
        sinks: TickSinks,
        on_warning: Callable[[str], None],
    ) -> None:
        """Builds loop and exchange; starts nothing."""
        self.contract = contract
        self._parameters = parameters
        self._on_warning = on_warning
        self._restarts = RestartPolicy()
        self._restart_due_s: float | None = None
        self.gave_up = False
        self._niceness = niceness()
        manifest, robot = contract.bundle.manifest, contract.robot
        self.link = SharedMemoryLink(manifest, robot)
        self.loop = TapedLoop(make_loop(robot, parameters))
        self.runner = ControlRunner(self.loop, self.link, inputs, now_ns, sinks)
        self.thread = PeriodicThread(
            self.runner.tick,
            parameters.period_ns,
            name="vla_control",
            sched_fifo_priority=parameters.sched_fifo_priority,
            cpu_affinity=parameters.cpu_affinity,
            on_warning=on_warning,
            on_error=lambda error: sinks.drop("control_step", _describe(error)),
        )
        self.worker: WorkerProcess | None = None

    def start_worker(self, config: WorkerConfig, stop_requested: threading.Event) -> None:
        """Starts the inference process and waits until it has loaded, warmed up and subscribed.

        Raises:
            InferenceError: it refused, died, took too long, or a stop was requested meanwhile.
        """
        self.worker = WorkerProcess(config)
        self.worker.start()
        deadline = time.monotonic() + self._parameters.worker_start_timeout_s
        while True:
            self.link.update()
            if self.link.is_ready:
                return
            if self.worker.exit_code is not None:
                raise InferenceError(
                    f"the inference process ended with code {self.worker.exit_code} while loading: "
                    f"{self.link.failure or 'see its log above'}"
                )
            if time.monotonic() > deadline:
                raise InferenceError(
                    f"the inference process was not ready after {self._parameters.worker_start_timeout_s} s: "
                    "raise inference.start_timeout_s or choose a smaller model"
                )
            if stop_requested.wait(0.02):
                raise InferenceError("a stop was requested while the inference process was loading")

    def start_control(self) -> None:
        """Starts the control thread; everything allocated so far is put out of the garbage collector's sight."""
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        self._ask_for_privileges()
        gc.collect()
        gc.freeze()
        self.thread.start()

    def _ask_for_privileges(self) -> None:
        """For this thread, which shares the interpreter with the control thread, and for the process."""
        if self._parameters.sched_fifo_priority:
            try:
                set_niceness(_EXECUTOR_NICE)
            except OSError as error:
                self._on_warning(
                    f"niceness {_EXECUTOR_NICE} was refused ({error.strerror}): other programs may delay the control period by milliseconds. "
                    "Allow it with a line 'nice -20' in /etc/security/limits.conf or CAP_SYS_NICE"
                )
        if self._parameters.lock_memory:
            try:
                lock_memory()
            except OSError as error:
                self._on_warning(
                    f"realtime.lock_memory was refused ({error.strerror}): memory may be swapped out. "
                    "Allow it with a line 'memlock unlimited' in /etc/security/limits.conf or CAP_IPC_LOCK"
                )

    def watch_worker(self, timeout_s: float) -> str | None:
        """Replaces a worker that died or stalled. Call a few times a second. Returns a sentence when it did something."""
        if self.worker is None or self.gave_up:
            return None
        if self._restart_due_s is not None:
            return self._restart_when_due(self.worker)
        exit_code, starting = self.worker.exit_code, not self.link.is_ready
        limit_s = self._parameters.worker_start_timeout_s if starting else timeout_s
        age_s = (self.worker.running_ns if starting else self.link.age_ns) * 1e-9
        if exit_code is None and age_s <= limit_s:
            return None
        reason = f"ended with code {exit_code}" if exit_code is not None else f"has not answered for {age_s:.1f} s"
        delay_s = self._restarts.delay_s(self.worker.running_ns * 1e-9, self.link.inferences > 0)
        self.worker.stop(0.0)
        if delay_s is None:
            self.gave_up = True
            return f"the inference process {reason}; {MAX_SILENT_LIVES} new ones failed as well: giving up. {self.link.failure}"
        self._restart_due_s = time.monotonic() + delay_s
        if delay_s > 0.0:
            return f"the inference process {reason}, not for the first time: a new one starts in {delay_s:g} s"
        return f"the inference process {reason}: {self._restart_when_due(self.worker)}"

    def _restart_when_due(self, worker: WorkerProcess) -> str | None:
        if time.monotonic() < self._restart_due_s:
            return None
        self._restart_due_s = None
        self.runner.call(lambda *_: self.link.forget_worker())  # the reports belong to the control thread
        worker.restarts += 1
        worker.start()
        return f"a new inference process starts (restart {worker.restarts})"

    def figures(self) -> dict[str, Any]:
        """What people want to know about the worker."""
        waits = self._restart_due_s is not None
        state = "gave up" if self.gave_up else "waiting to restart" if waits else "ready" if self.link.is_ready else "starting"
        return {"state": state, "restarts": 0 if self.worker is None else self.worker.restarts, **self.link.figures()}

    def close(self) -> None:
        """Stops the control thread and the worker, frees the shared memory. Safe to call twice."""
        self.thread.stop()
        if self.worker is not None:
            self.worker.stop()
            self.worker = None
        self.link.close()
        set_niceness(self._niceness)
        unlock_memory()
        gc.unfreeze()


def make_loop(robot: RobotDescription, parameters: PolicyNodeParameters) -> ControlLoop:
    """The control loop of one robot."""
    config = ControlConfig(
        period_ns=parameters.period_ns,
        max_joint_age_ns=round(parameters.max_joint_age_s * 1e9),
        max_worker_age_ns=round(parameters.worker_timeout_s * 1e9),
        max_rejected_chunks=parameters.max_rejected_chunks,
        min_confidence=parameters.min_confidence,
        takeover=Takeover(parameters.takeover),
    )
    return new_control_loop(robot, config)


def worker_config(contract: Contract, parameters: PolicyNodeParameters, link_name: str, topics: dict[str, str], node: Any) -> WorkerConfig:
    """What the inference process is told.

    Args:
        topics: fully resolved topic of each camera.
        node: mapping with node_name, namespace, use_sim_time and log_level.
    """
    return WorkerConfig(
        bundle=str(contract.bundle.directory),
        robot=str(contract.robot_path),
        exchange=link_name,
        cameras=tuple(CameraTopic(name=name, topic=topic) for name, topic in topics.items()),
        transport=parameters.image_transport,
        max_pixels=parameters.max_image_pixels,
        provider=parameters.execution_provider,
        allow_cpu=parameters.allow_cpu,
        threads=parameters.inference_threads,
        nice=parameters.inference_nice,
        min_period_ns=round(1e9 / parameters.inference_max_rate_hz),
        max_image_age_ns=round(parameters.max_image_age_s * 1e9),
        max_joint_age_ns=round(parameters.max_joint_age_s * 1e9),
        max_future_ns=round(parameters.max_future_s * 1e9),
        max_skew_ns=round(parameters.max_skew_s * 1e9),
        frozen_timeout_ns=round(parameters.frozen_image_timeout_s * 1e9),
        **node,
    )


def _describe(error: Exception) -> str:
    """Kind, text and place of an unexpected error, in one line."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(frame.filename).name}:{frame.lineno})"
