# SPDX-License-Identifier: Apache-2.0
"""The inference worker's loop: newest snapshot and pictures in, chunks and reports out. Knows no ROS.

Pictures come through ``ImageSource``, which the ROS layer (or a test) provides.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from vla_ros.core.chunk import ActionChunk, Reference
from vla_ros.core.errors import ConfigError, DecodeError, InferenceError, InputError, InstructionTooLong
from vla_ros.core.observation import CameraSpec, Observation
from vla_ros.core.safety import StatusCode
from vla_ros.runtime.messages import Snapshot, WorkerReport


_MEMORY = 0.9


@dataclass(frozen=True, kw_only=True)
class CameraFrame:
    """One picture.

    Attributes:
        image: uint8 [height, width, 3], RGB, in the policy's size; nobody writes to it any more.
        stamp_ns: the sensor's stamp, ROS clock.
        is_frozen: the camera has been sending the same picture for too long.
    """

    image: np.ndarray
    stamp_ns: int
    is_frozen: bool = False


class ImageSource(Protocol):
    """The cameras. No method blocks."""

    def frames(self) -> Mapping[str, CameraFrame]:
        """The newest prepared picture of each camera that has sent one."""

    def now_ns(self) -> int:
        """ROS clock."""


class PolicyLike(Protocol):
    """``runtime.policy.Policy`` or a stand-in."""

    def commit(self, observation: Observation, reference: Reference, until_ns: int) -> np.ndarray:
        """The leading steps of the next chunk that repeat the motion that goes on."""

    def infer(self, observation: Observation, prefix_HD: np.ndarray | None = None) -> ActionChunk:
        """Raises InputError, DecodeError or InferenceError."""


class ExchangeLike(Protocol):
    """The worker's side of ``runtime.messages.Exchange``."""

    def read_snapshot(self) -> Snapshot | None:
        """The newest one that was not read before."""

    def write_chunk(self, chunk: ActionChunk) -> None:
        """Publishes an answer."""

    def write_report(self, report: WorkerReport) -> None:
        """Publishes the worker's state."""


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """Settings of the loop.

    Attributes:
        max_image_age_ns: oldest picture, ROS clock.
        max_joint_age_ns: oldest joint state, ROS clock.
        max_future_ns: how far in the future a stamp may lie.
        max_skew_ns: largest time between the stamps of pictures and joints of one observation.
        min_period_ns: shortest time between the starts of two inferences, monotonic clock.
        max_failures: failures of the back end in a row before the worker gives up and has to be replaced.
        poll_s: sleep between two looks while there is nothing to do.
        handover_ns: from an answer written until the control loop acts on it, one control period and a bit.
    """

    max_image_age_ns: int = 300_000_000
    max_joint_age_ns: int = 200_000_000
    max_future_ns: int = 50_000_000
    max_skew_ns: int = 150_000_000
    min_period_ns: int = 0
    max_failures: int = 3
    poll_s: float = 0.002
    handover_ns: int = 25_000_000

    def __post_init__(self) -> None:
        if self.max_failures < 1 or not 0.0 < self.poll_s < 0.1:
            raise ConfigError(f"needs max_failures >= 1 and poll_s in (0, 0.1), got {self.max_failures} and {self.poll_s}")


class WorkerLoop:
    """One step looks at the inputs once and infers at most once. One thread only.

    Args:
        policy: answers observations.
        cameras: in the manifest's order.
        source: the cameras' pictures.
        exchange: the worker's side of the shared memory.
        settings: ages and periods.
        monotonic_ns: clock of heartbeats and periods.
    """

    def __init__(
        self,
        *,
        policy: PolicyLike,
        cameras: tuple[CameraSpec, ...],
        source: ImageSource,
        exchange: ExchangeLike,
        settings: WorkerSettings | None = None,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._policy = policy
        self._cameras = cameras
        self._source = source
        self._exchange = exchange
        self._settings = settings or WorkerSettings()
        self._monotonic_ns = monotonic_ns
        self._snapshot: Snapshot | None = None
        self._answered: tuple[int, int] | None = None  # generation and stamp of the last observation
        self._refused: int | None = None  # generation whose instruction cannot be read
        self._started_ns: int | None = None
        self._failures = 0
        self._inference_ns = 0  # a slow one is remembered for some answers, so that the next slow one is not underestimated
        self.report = WorkerReport(heartbeat_ns=monotonic_ns(), is_ready=True)

    def run(self, should_stop: Callable[[], bool]) -> None:
        """Steps until told to stop.

        Raises:
            InferenceError: the back end failed ``max_failures`` times in a row: this process has to be replaced.
        """
        while not should_stop():
            if not self.step():
                time.sleep(self._settings.poll_s)

    def step(self) -> bool:
        """One look and at most one inference; returns whether it inferred.

        Raises:
            InferenceError: the back end failed ``max_failures`` times in a row.
        """
        self._snapshot = self._exchange.read_snapshot() or self._snapshot
        snapshot = self._snapshot
        if snapshot is not None and snapshot.generation == self._refused:
            self._tell()
            return False
        if snapshot is None or not snapshot.wants_inference:
            self._tell(code=StatusCode.WAITING, detail="")
            return False
        try:
            observation = self._observe(snapshot)
        except InputError as error:
            self._tell(code=_code_of(error), detail=str(error), generation=snapshot.generation)
            return False
        if self._is_too_early(observation):
            self._tell(code=StatusCode.ACTING, detail="", generation=snapshot.generation)
            return False
        self._tell(code=StatusCode.ACTING, detail="", generation=snapshot.generation)
        self._answer(observation)
        return True

    def _is_too_early(self, observation: Observation) -> bool:
        """The same pictures are not looked at twice for one generation, and the period is kept."""
        if self._answered == (observation.generation, observation.stamp_ns):
            return True
        return self._started_ns is not None and self._monotonic_ns() - self._started_ns < self._settings.min_period_ns

    def _observe(self, snapshot: Snapshot) -> Observation:
        frames, now_ns = self._source.frames(), self._source.now_ns()
        for camera in self._cameras:
            self._check_frame(camera, frames.get(camera.name), now_ns)
        self._check_stamp("joint state", snapshot.joint_stamp_ns, now_ns, self._settings.max_joint_age_ns, "joints_stale")
        stamps = {c.name: frames[c.name].stamp_ns for c in self._cameras if c.required}
        joint_stamp_ns, joint_positions = snapshot.joints_at(min(stamps.values(), default=snapshot.joint_stamp_ns))
        together = [*stamps.values(), joint_stamp_ns]
        if max(together) - min(together) > self._settings.max_skew_ns:
            raise InputError(f"images and joints are {(max(together) - min(together)) * 1e-9:.3f} s apart", code="observation_skew")
        return Observation(
            images={c.name: frames[c.name].image for c in self._cameras},
            image_stamp_ns=stamps,
            joint_positions=joint_positions,
            joint_stamp_ns=joint_stamp_ns,
            instruction=snapshot.instruction,
            generation=snapshot.generation,
        )

    def _check_frame(self, camera: CameraSpec, frame: CameraFrame | None, now_ns: int) -> None:
        """A camera that is not required may be old, but it must have sent one picture: none is ever invented."""
        if frame is None:
            raise InputError(f"camera '{camera.name}' has sent no picture", code="image_missing")
        if not camera.required:
            return
        self._check_stamp(f"image of camera '{camera.name}'", frame.stamp_ns, now_ns, self._settings.max_image_age_ns, "image_stale")
        if frame.is_frozen:
            raise InputError(f"camera '{camera.name}' sends the same picture again and again", code="image_frozen")

    def _check_stamp(self, noun: str, stamp_ns: int, now_ns: int, max_age_ns: int, code: str) -> None:
        age_ns = now_ns - stamp_ns
        if age_ns > max_age_ns:
            raise InputError(f"{noun} is {age_ns * 1e-9:.3f} s old, allowed are {max_age_ns * 1e-9:.3f} s", code=code)
        if -age_ns > self._settings.max_future_ns:
            raise InputError(f"{noun} is {-age_ns * 1e-9:.3f} s in the future: synchronise the clocks", code=code)

    def _answer(self, observation: Observation) -> None:
        generation = observation.generation
        self._started_ns = self._monotonic_ns()
        self._answered = (generation, observation.stamp_ns)
        try:
            chunk = self._policy.infer(observation, self._prefix(observation))
        except InstructionTooLong as error:
            self._refused = generation
            self._tell(code=StatusCode.INSTRUCTION_TOO_LONG, detail=str(error), generation=generation)
        except (DecodeError, InputError) as error:
            self._tell(
                code=StatusCode.WAITING,
                detail=str(error),
                generation=generation,
                rejected=self.report.rejected + 1,
                rejected_generation=generation,
            )
        except InferenceError as error:
            self._fail(error, generation)
        else:
            self._failures = 0
            self._exchange.write_chunk(chunk)
            self._inference_ns = max(chunk.inference_ns, round(_MEMORY * self._inference_ns))
            self._tell(inferences=self.report.inferences + 1, inference_ns=chunk.inference_ns)

    def _prefix(self, observation: Observation) -> np.ndarray | None:
        """What the robot will do anyway until the answer arrives."""
        reference = self._snapshot.reference
        if reference is None:
            return None
        return self._policy.commit(observation, reference, self._source.now_ns() + self._inference_ns + self._settings.handover_ns)

    def _fail(self, error: InferenceError, generation: int) -> None:
        self._failures += 1
        self._answered = None
        self._tell(code=StatusCode.INFERENCE_FAILED, detail=str(error), generation=generation)
        if self._failures >= self._settings.max_failures:
            raise error

    def _tell(self, **changes: object) -> None:
        self.report = replace(self.report, heartbeat_ns=self._monotonic_ns(), **changes)
        self._exchange.write_report(self.report)


def _code_of(error: InputError) -> StatusCode:
    """What a missing input means; a pair of inputs too far apart only waits for the next one."""
    codes = {"image_frozen": StatusCode.IMAGE_FROZEN, "joints_stale": StatusCode.JOINTS_STALE, "observation_skew": StatusCode.WAITING}
    return codes.get(error.code, StatusCode.IMAGE_LOST)


_HOLDING_CODES = (StatusCode.IMAGE_LOST, StatusCode.IMAGE_FROZEN, StatusCode.JOINTS_STALE, StatusCode.INFERENCE_FAILED)


class WorkerWatch:
    """The control process's reading of the worker's reports. One thread only.

    ``age_ns`` is for the watchdog, ``hold`` for ``Watch.hold``; ``apply`` tells the control loop what was refused.
    """

    def __init__(self, read_report: Callable[[], WorkerReport | None], monotonic_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._read_report = read_report
        self._monotonic_ns = monotonic_ns
        self._since_ns = monotonic_ns()
        self._rejected = 0
        self.report: WorkerReport | None = None

    def restarted(self) -> None:
        """A new worker process begins: its counters start at zero, and what the last one still wrote is none of its words."""
        self._read_report()
        self.report, self._rejected, self._since_ns = None, 0, self._monotonic_ns()

    def update(self) -> None:
        """Takes the newest report."""
        self.report = self._read_report() or self.report

    @property
    def age_ns(self) -> int:
        """Since the worker's last sign of life (or its start)."""
        return self._monotonic_ns() - (self._since_ns if self.report is None else self.report.heartbeat_ns)

    @property
    def hold(self) -> StatusCode | None:
        """Why the worker cannot see or think, or None. It is about the inputs, so that it outlives a generation."""
        return self.report.code if self.report is not None and self.report.code in _HOLDING_CODES else None

    def apply(self, loop: RefusalSink) -> None:
        """Passes on each rejected answer once, and an instruction that cannot be read."""
        report = self.report
        if report is None:
            return
        for _ in range(max(report.rejected - self._rejected, 0)):
            loop.reject_chunk(report.rejected_generation)
        self._rejected = report.rejected
        if report.code is StatusCode.INSTRUCTION_TOO_LONG:
            loop.refuse_instruction(report.generation, report.code)


class RefusalSink(Protocol):
    """The part of ``ControlLoop`` that a watch tells."""

    def reject_chunk(self, generation: int) -> None:
        """One answer was no action."""

    def refuse_instruction(self, generation: int, code: StatusCode) -> None:
        """The instruction cannot be read."""
