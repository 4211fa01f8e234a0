# SPDX-License-Identifier: Apache-2.0
"""The control process's end of the exchange with the inference process. Must not import rclpy.

Besides the runtime's slots there is one for figures that people read: provider, dropped pictures, why loading failed.
"""

from __future__ import annotations

import json
import os
import secrets
from typing import Any

import numpy as np

from vla_ros.core.chunk import ActionChunk
from vla_ros.core.control import ControlLoop
from vla_ros.core.errors import InputError
from vla_ros.core.manifest import Manifest
from vla_ros.core.safety import StatusCode
from vla_ros.robot.description import RobotDescription
from vla_ros.ros.joint_states import JointSample
from vla_ros.runtime.exchange import Slot
from vla_ros.runtime.messages import Exchange, Snapshot
from vla_ros.runtime.worker import WorkerWatch

_TEXT_BYTES = 8192


class FiguresSlot:
    """A small JSON object in shared memory; the worker writes, the node reads. One thread each."""

    _DTYPE = np.dtype([("length", "<u4"), ("text", "u1", (_TEXT_BYTES,))])

    def __init__(self, name: str, *, create: bool) -> None:
        """``name`` is the exchange's name."""
        self._slot = Slot(f"{name}_figures", self._DTYPE, create=create)
        self._record = np.zeros((), self._DTYPE)
        self._last: dict[str, Any] = {}

    def write(self, figures: dict[str, Any]) -> None:
        """Replaces the figures. Those that have no room are left out as a whole."""
        data = json.dumps(figures).encode()
        if len(data) > _TEXT_BYTES:
            data = json.dumps({"failure": str(figures.get("failure", ""))[:1000]}).encode()
        self._record["text"][: len(data)] = np.frombuffer(data, np.uint8)
        self._record["length"] = len(data)
        self._slot.write(self._record)

    def read(self) -> dict[str, Any]:
        """The newest figures, empty before the first."""
        record = self._slot.read()
        if record is not None:
            self._last = json.loads(record["text"][: int(record["length"])].tobytes())
        return self._last

    def close(self) -> None:
        """Lets the segment go."""
        self._slot.close()


def exchange_sizes(manifest: Manifest, robot: RobotDescription) -> dict[str, int]:
    """Arguments of ``Exchange`` that both processes derive from bundle and robot."""
    return {"horizon": manifest.action.horizon, "num_dims": manifest.action.num_dims, "num_joints": len(robot.joint_names)}


class SharedMemoryLink:
    """One end for the control thread (``update`` to ``hold``), and read-only figures for the executor's thread."""

    def __init__(self, manifest: Manifest, robot: RobotDescription) -> None:
        """Creates the shared memory under a name of its own."""
        self.name = f"vla_{os.getpid()}_{secrets.token_hex(4)}"
        self._exchange = Exchange(self.name, **exchange_sizes(manifest, robot), create=True)
        try:
            self._figures = FiguresSlot(self.name, create=True)
        except Exception:
            self._exchange.close()
            raise
        self._watch = WorkerWatch(self._exchange.read_report)

    # ---- control thread ----

    def update(self) -> None:
        """Takes the worker's newest report."""
        self._watch.update()

    def send(self, loop: ControlLoop, joints: JointSample | None, now_ns: int) -> None:
        """Tells the worker what to infer from; without a joint state there is nothing."""
        if joints is None:
            return
        instruction, wanted = loop.instruction, loop.wants_inference
        try:
            self._write(loop, joints, now_ns, instruction, wanted)
        except InputError:  # longer than the exchange's room, far beyond any context window
            loop.refuse_instruction(loop.generation, StatusCode.INSTRUCTION_TOO_LONG)
            self._write(loop, joints, now_ns, "", False)

    def _write(self, loop: ControlLoop, joints: JointSample, now_ns: int, instruction: str, wanted: bool) -> None:
        self._exchange.write_snapshot(
            Snapshot(
                generation=loop.generation,
                wants_inference=wanted,
                instruction=instruction,
                joint_positions=joints.positions_J,
                joint_stamp_ns=joints.stamp_ns,
                now_ns=now_ns,
                reference=loop.reference if wanted else None,
            )
        )

    def receive(self) -> ActionChunk | None:
        """The newest answer that was not received before."""
        return self._exchange.read_chunk()

    def apply_refusals(self, loop: ControlLoop) -> None:
        """Tells the loop about rejected answers and refused instructions."""
        self._watch.apply(loop)

    @property
    def hold(self) -> StatusCode | None:
        """Why the worker cannot see or think, or None."""
        return self._watch.hold

    def forget_worker(self) -> None:
        """A new worker begins; the old one must have ended."""
        self._watch.restarted()

    # ---- any thread ----

    @property
    def age_ns(self) -> int:
        """Since the worker's last sign of life, monotonic clock."""
        return self._watch.age_ns

    @property
    def is_ready(self) -> bool:
        """Whether the worker has loaded and warmed up."""
        report = self._watch.report
        return report is not None and report.is_ready

    @property
    def inferences(self) -> int:
        """Answers of the present worker."""
        report = self._watch.report
        return 0 if report is None else report.inferences

    # ---- executor's thread ----

    def figures(self) -> dict[str, Any]:
        """What people want to know about the worker, flat, for diagnostics."""
        report, figures = self._watch.report, dict(self._figures.read())
        drops = figures.pop("drops", {})
        figures |= {f"image_dropped.{k}": v for k, v in sorted(drops.items())}
        if report is not None:
            figures |= {
                "code": report.code.name,
                "detail": report.detail,
                "inferences": report.inferences,
                "rejected": report.rejected,
                "inference_ms": f"{report.inference_ns * 1e-6:.1f}",
            }
        return figures

    def detail(self, code: StatusCode) -> str:
        """What the worker says about this code (which camera, how old), empty where the code is not its own."""
        report = self._watch.report
        return report.detail if report is not None and report.code is code else ""

    @property
    def provider(self) -> str:
        """Execution provider in use, empty before the worker is ready."""
        return str(self._figures.read().get("provider", ""))

    @property
    def failure(self) -> str:
        """Why the last worker could not go on, in its own words."""
        return str(self._figures.read().get("failure", ""))

    def close(self) -> None:
        """Frees the shared memory; both threads must have ended."""
        self._exchange.close()
        self._figures.close()
