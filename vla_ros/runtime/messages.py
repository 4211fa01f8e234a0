# SPDX-License-Identifier: Apache-2.0
"""What the control process and the worker tell each other: fixed binary layouts over the slots of ``exchange``.

control -> worker  Snapshot      joints, instruction, generation
worker -> control  ActionChunk   the policy's answer
worker -> control  WorkerReport  sign of life, and what it could not do
Sizes come from the bundle and the robot, which both processes know.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vla_ros.core.chunk import ActionChunk, Reference
from vla_ros.core.errors import InputError
from vla_ros.core.safety import StatusCode
from vla_ros.runtime.exchange import Slot

MAX_INSTRUCTION_BYTES = 2048
MAX_PLAN_BYTES = 512
MAX_DETAIL_BYTES = 512
MAX_HISTORY = 40  # joint states
HISTORY_STEP_NS = 16_000_000  # least time between two of them: 0.64 s in all at any control rate, longer than a picture may be old


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What the policy should answer.

    Attributes:
        generation: goes back with the answer.
        wants_inference: False: only keep warm.
        instruction: normalised text.
        joint_positions: float64 [J], the newest ones, rad or m.
        joint_stamp_ns: their stamp, ROS clock.
        now_ns: ROS clock when it was written.
        history_stamps_N: int64 [N], stamps of the last joint states, increasing; filled by the exchange.
        history_NJ: float64 [N, J], their positions.
        reference: the motion that goes on until the answer arrives; None: unknown.
    """

    generation: int
    wants_inference: bool
    instruction: str
    joint_positions: np.ndarray
    joint_stamp_ns: int
    now_ns: int
    history_stamps_N: np.ndarray | None = None
    history_NJ: np.ndarray | None = None
    reference: Reference | None = None

    def joints_at(self, stamp_ns: int) -> tuple[int, np.ndarray]:
        """Joint positions [J] when a picture was taken, linear between the neighbours; the nearest outside the history.

        A picture is older than the newest joint state by the camera's latency, in which a moving tool covers centimetres.

        Returns:
            The stamp that the positions are for, and the positions.
        """
        if self.history_stamps_N is None or len(self.history_stamps_N) == 0:
            return self.joint_stamp_ns, self.joint_positions
        stamps_N, history_NJ = self.history_stamps_N, self.history_NJ
        stamp_ns = min(max(stamp_ns, int(stamps_N[0])), int(stamps_N[-1]))
        after = int(np.searchsorted(stamps_N, stamp_ns))
        if stamps_N[after] == stamp_ns:
            return stamp_ns, history_NJ[after]
        share = (stamp_ns - int(stamps_N[after - 1])) / int(stamps_N[after] - stamps_N[after - 1])
        return stamp_ns, history_NJ[after - 1] + share * (history_NJ[after] - history_NJ[after - 1])


@dataclass(frozen=True, kw_only=True)
class WorkerReport:
    """The worker's state.

    Attributes:
        heartbeat_ns: monotonic clock (one for all processes of a machine) when it was written.
        generation: that ``code`` and ``detail`` are about.
        code: why nothing is inferred (``IMAGE_LOST``, ``INSTRUCTION_TOO_LONG``, ``INFERENCE_FAILED``...); ``ACTING`` if all is well.
        detail: one sentence, may be empty.
        is_ready: the policy is loaded and warm.
        inferences: answers so far.
        rejected: answers that were no action so far, in all generations.
        rejected_generation: generation of the last one.
        inference_ns: duration of the last inference.
    """

    heartbeat_ns: int
    generation: int = 0
    code: StatusCode = StatusCode.WAITING
    detail: str = ""
    is_ready: bool = False
    inferences: int = 0
    rejected: int = 0
    rejected_generation: int = 0
    inference_ns: int = 0


def snapshot_dtype(horizon: int, num_joints: int) -> np.dtype:
    """Layout of a ``Snapshot``."""
    knots = horizon + 1
    return np.dtype(
        [
            ("generation", "<i8"),
            ("wants_inference", "u1"),
            ("instruction_bytes", "<u4"),
            ("instruction", "u1", (MAX_INSTRUCTION_BYTES,)),
            ("joint_positions", "<f8", (num_joints,)),
            ("joint_stamp_ns", "<i8"),
            ("now_ns", "<i8"),
            ("history_count", "<u4"),
            ("history_stamps_N", "<i8", (MAX_HISTORY,)),
            ("history_NJ", "<f8", (MAX_HISTORY, num_joints)),
            ("knot_count", "<u4"),
            ("knots_ns_K", "<i8", (knots,)),
            ("knot_positions_KJ", "<f8", (knots, num_joints)),
            ("knot_velocities_KJ", "<f8", (knots, num_joints)),
        ]
    )


def chunk_dtype(horizon: int, num_dims: int, num_joints: int) -> np.dtype:
    """Layout of an ``ActionChunk``."""
    return np.dtype(
        [
            ("obs_stamp_ns", "<i8"),
            ("generation", "<i8"),
            ("dt_ns", "<i8"),
            ("inference_ns", "<i8"),
            ("committed", "<i4"),
            ("actions_HD", "<f8", (horizon, num_dims)),
            ("tokens_HD", "<i4", (horizon, num_dims)),
            ("confidence_HD", "<f4", (horizon, num_dims)),
            ("joint_positions_HJ", "<f8", (horizon, num_joints)),
            ("terminate_H", "u1", (horizon,)),
            ("plan_bytes", "<u4"),
            ("plan", "u1", (MAX_PLAN_BYTES,)),
        ]
    )


def report_dtype() -> np.dtype:
    """Layout of a ``WorkerReport``."""
    return np.dtype(
        [
            ("heartbeat_ns", "<i8"),
            ("generation", "<i8"),
            ("code", "<i4"),
            ("is_ready", "u1"),
            ("inferences", "<i8"),
            ("rejected", "<i8"),
            ("rejected_generation", "<i8"),
            ("inference_ns", "<i8"),
            ("detail_bytes", "<u4"),
            ("detail", "u1", (MAX_DETAIL_BYTES,)),
        ]
    )


class Exchange:
    """The three slots. Each process makes its own; the control process owns them.

    Args:
        name: system-wide base name.
        horizon: H of the bundle.
        num_dims: D of the bundle.
        num_joints: J of the robot.
        create: True in the control process.

    Raises:
        ConfigError: a segment exists already, does not exist, or has another layout.
    """

    def __init__(self, name: str, *, horizon: int, num_dims: int, num_joints: int, create: bool) -> None:
        self._slots: list[Slot] = []
        dtypes = {
            "snapshot": snapshot_dtype(horizon, num_joints),
            "chunk": chunk_dtype(horizon, num_dims, num_joints),
            "report": report_dtype(),
        }
        try:
            for suffix, dtype in dtypes.items():
                self._slots.append(Slot(f"{name}_{suffix}", dtype, create=create))
        except Exception:
            self.close()
            raise
        self._snapshot, self._chunk, self._report = self._slots
        self._snapshot_record, self._chunk_record, self._report_record = (np.zeros((), dtype) for dtype in dtypes.values())

    def write_snapshot(self, snapshot: Snapshot) -> None:
        """Control process; keeps the history of joint states. Raises InputError ``instruction_too_long`` if the text has no room."""
        record = self._snapshot_record
        _put_text(record, "instruction", snapshot.instruction, cut=False)
        for name in ("generation", "wants_inference", "joint_positions", "joint_stamp_ns", "now_ns"):
            record[name] = getattr(snapshot, name)
        _remember(record, snapshot)
        _put_reference(record, snapshot.reference)
        self._snapshot.write(record)

    def read_snapshot(self) -> Snapshot | None:
        """Worker. The newest one that was not read before, or None."""
        record = self._snapshot.read()
        if record is None:
            return None
        return Snapshot(
            generation=int(record["generation"]),
            wants_inference=bool(record["wants_inference"]),
            instruction=_get_text(record, "instruction"),
            joint_positions=record["joint_positions"].copy(),
            joint_stamp_ns=int(record["joint_stamp_ns"]),
            now_ns=int(record["now_ns"]),
            history_stamps_N=record["history_stamps_N"][: int(record["history_count"])].copy(),
            history_NJ=record["history_NJ"][: int(record["history_count"])].copy(),
            reference=_get_reference(record),
        )

    def write_chunk(self, chunk: ActionChunk) -> None:
        """Worker. A plan that has no room is cut at the end."""
        record = self._chunk_record
        _put_text(record, "plan", chunk.plan, cut=True)
        for name in record.dtype.names:
            if name not in ("plan", "plan_bytes"):
                record[name] = getattr(chunk, name)
        self._chunk.write(record)

    def read_chunk(self) -> ActionChunk | None:
        """Control process. The newest one that was not read before, or None."""
        record = self._chunk.read()
        if record is None:
            return None
        return ActionChunk(
            obs_stamp_ns=int(record["obs_stamp_ns"]),
            generation=int(record["generation"]),
            dt_ns=int(record["dt_ns"]),
            inference_ns=int(record["inference_ns"]),
            committed=int(record["committed"]),
            actions_HD=record["actions_HD"].copy(),
            tokens_HD=record["tokens_HD"].copy(),
            confidence_HD=record["confidence_HD"].copy(),
            joint_positions_HJ=record["joint_positions_HJ"].copy(),
            terminate_H=record["terminate_H"].astype(bool),
            plan=_get_text(record, "plan"),
        )

    def write_report(self, report: WorkerReport) -> None:
        """Worker."""
        record = self._report_record
        _put_text(record, "detail", report.detail, cut=True)
        record["code"] = report.code.number
        for name in ("heartbeat_ns", "generation", "is_ready", "inferences", "rejected", "rejected_generation", "inference_ns"):
            record[name] = getattr(report, name)
        self._report.write(record)

    def read_report(self) -> WorkerReport | None:
        """Control process. The newest one that was not read before, or None."""
        record = self._report.read()
        if record is None:
            return None
        return WorkerReport(
            code=StatusCode.from_number(int(record["code"])),
            detail=_get_text(record, "detail"),
            is_ready=bool(record["is_ready"]),
            **{n: int(record[n]) for n in ("heartbeat_ns", "generation", "inferences", "rejected", "rejected_generation", "inference_ns")},
        )

    def close(self) -> None:
        """Lets the segments go; their owner also removes them."""
        for slot in self._slots:
            slot.close()

    def __enter__(self) -> Exchange:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _remember(record: np.ndarray, snapshot: Snapshot) -> None:
    """Appends the newest joint state to the record's history; a stamp that goes back begins a new one.

    The newest is always there; the one before gives way to it where it came too soon after its own predecessor.
    """
    count, stamps_N, history_NJ = int(record["history_count"]), record["history_stamps_N"], record["history_NJ"]
    if count and snapshot.joint_stamp_ns == stamps_N[count - 1]:
        return
    if count and snapshot.joint_stamp_ns < stamps_N[count - 1]:
        count = 0
    if count >= 2 and snapshot.joint_stamp_ns - stamps_N[count - 2] < HISTORY_STEP_NS:
        count -= 1
    elif count == len(stamps_N):
        stamps_N[:-1], history_NJ[:-1] = stamps_N[1:].copy(), history_NJ[1:].copy()
        count -= 1
    stamps_N[count], history_NJ[count] = snapshot.joint_stamp_ns, snapshot.joint_positions
    record["history_count"] = count + 1


def _put_reference(record: np.ndarray, reference: Reference | None) -> None:
    count = 0 if reference is None else len(reference.knots_ns)
    record["knot_count"] = count
    if count:
        record["knots_ns_K"][:count] = reference.knots_ns
        record["knot_positions_KJ"][:count] = reference.positions_KJ
        record["knot_velocities_KJ"][:count] = reference.velocities_KJ


def _get_reference(record: np.ndarray) -> Reference | None:
    count = int(record["knot_count"])
    if not count:
        return None
    return Reference(
        knots_ns=tuple(record["knots_ns_K"][:count].tolist()),
        positions_KJ=record["knot_positions_KJ"][:count].copy(),
        velocities_KJ=record["knot_velocities_KJ"][:count].copy(),
    )


def _put_text(record: np.ndarray, name: str, text: str, *, cut: bool) -> None:
    room = record.dtype[name].shape[0]
    data = text.encode("utf-8", "replace")
    if len(data) > room and not cut:
        raise InputError(f"{name} has {len(data)} bytes, {room} are allowed: shorten it", code=f"{name}_too_long")
    data = data[:room]
    record[name][: len(data)] = np.frombuffer(data, np.uint8)
    record[f"{name}_bytes"] = len(data)


def _get_text(record: np.ndarray, name: str) -> str:
    count = min(int(record[f"{name}_bytes"]), record.dtype[name].shape[0])
    return record[name][:count].tobytes().decode("utf-8", "ignore")
