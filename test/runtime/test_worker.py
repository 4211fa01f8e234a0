# SPDX-License-Identifier: Apache-2.0
"""The worker infers from whole, fresh and matching inputs only, and says why it does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vla_ros.core.chunk import Reference
from vla_ros.core.errors import DecodeError, InferenceError, InstructionTooLong
from vla_ros.core.observation import CameraSpec
from vla_ros.core.safety import StatusCode
from vla_ros.core.testing import make_chunk
from vla_ros.runtime.messages import Snapshot
from vla_ros.runtime.worker import CameraFrame, WorkerLoop, WorkerSettings, WorkerWatch

MS = 1_000_000
CAMERAS = (CameraSpec(name="front", height=4, width=4), CameraSpec(name="wrist", height=2, width=2, required=False))


class Rig:
    """Fakes on all sides; one clock for everything."""

    def __init__(self, **settings) -> None:
        self.time_ns = 10**12
        self.images = {c.name: CameraFrame(image=np.zeros(c.shape, np.uint8), stamp_ns=self.time_ns - 20 * MS) for c in CAMERAS}
        self.snapshot = self.make_snapshot()
        self.fresh = True
        self.error: Exception | None = None
        self.seen, self.prefixes, self.commits, self.chunks, self.reports = [], [], [], [], []
        self.inference_ns = 0
        self.loop = WorkerLoop(
            policy=self, cameras=CAMERAS, source=self, exchange=self, settings=WorkerSettings(**settings), monotonic_ns=lambda: self.time_ns
        )

    def make_snapshot(self, **changes) -> Snapshot:
        facts = {"generation": 1, "wants_inference": True, "instruction": "go", "joint_positions": np.zeros(3)}
        return Snapshot(**{**facts, "joint_stamp_ns": self.time_ns - 5 * MS, "now_ns": self.time_ns, **changes})

    def change(self, **changes) -> None:
        self.snapshot, self.fresh = replace(self.snapshot, **changes), True

    def new_picture(self, camera: str = "front", **changes) -> None:
        self.time_ns += 30 * MS
        self.images[camera] = replace(self.images[camera], stamp_ns=self.time_ns - 10 * MS, **changes)
        self.change(joint_stamp_ns=self.time_ns)

    # ImageSource
    def frames(self):
        return self.images

    def now_ns(self):
        return self.time_ns

    # ExchangeLike
    def read_snapshot(self):
        fresh, self.fresh = self.fresh, False
        return self.snapshot if fresh else None

    def write_chunk(self, chunk):
        self.chunks.append(chunk)

    def write_report(self, report):
        self.reports.append(report)

    # PolicyLike
    def commit(self, observation, reference, until_ns):
        self.commits.append((observation, reference, until_ns))
        return np.full((5, 6), 7)

    def infer(self, observation, prefix_HD=None):
        self.seen.append(observation)
        self.prefixes.append(prefix_HD)
        if self.error is not None:
            raise self.error
        return replace(make_chunk(observation.stamp_ns, observation.generation), inference_ns=self.inference_ns)


def test_it_answers_a_whole_observation_once():
    rig = Rig()
    assert rig.loop.step() and not rig.loop.step()
    assert len(rig.chunks) == 1 and rig.reports[-1].inferences == 1 and rig.reports[-1].code is StatusCode.ACTING
    rig.new_picture()
    assert rig.loop.step() and len(rig.chunks) == 2


def test_the_stamp_is_the_oldest_required_pictures():
    rig = Rig()
    rig.images["wrist"] = replace(rig.images["wrist"], stamp_ns=5)
    rig.loop.step()
    assert rig.chunks[0].obs_stamp_ns == rig.images["front"].stamp_ns


def test_joints_are_those_of_the_picture():
    rig = Rig()
    stamp = rig.images["front"].stamp_ns
    rig.change(history_stamps_N=np.array([stamp - 10, stamp + 10]), history_NJ=np.array([[0.0] * 3, [2.0] * 3]))
    rig.loop.step()
    np.testing.assert_allclose(rig.seen[0].joint_positions, 1.0)
    assert rig.seen[0].joint_stamp_ns == stamp


def test_what_the_robot_does_until_the_answer_comes_is_committed():
    """The time until then is the longest of the last inferences, and the handover to the control loop."""
    rig = Rig(handover_ns=25 * MS)
    rig.loop.step()
    assert rig.prefixes == [None] and not rig.commits  # the motion is not known
    reference = Reference.at_rest(rig.time_ns, np.zeros(3))
    for inference_ms, remembered_ms in ((40, 0), (10, 40), (10, 36)):
        rig.inference_ns = inference_ms * MS
        rig.new_picture()
        rig.change(reference=reference)
        rig.loop.step()
        observation, used, until_ns = rig.commits[-1]
        assert observation is rig.seen[-1] and used is reference and rig.prefixes[-1].shape == (5, 6)
        assert until_ns == rig.time_ns + (remembered_ms + 25) * MS


def test_a_new_generation_looks_at_the_same_picture_again():
    rig = Rig()
    rig.loop.step()
    rig.change(generation=2)
    assert rig.loop.step() and rig.chunks[-1].generation == 2


def test_it_keeps_its_period():
    rig = Rig(min_period_ns=100 * MS)
    assert rig.loop.step()
    rig.new_picture()
    assert not rig.loop.step()
    rig.time_ns += 75 * MS
    assert rig.loop.step()


def test_nothing_is_inferred_while_nobody_asks_but_it_lives():
    rig = Rig()
    rig.change(wants_inference=False)
    assert not rig.loop.step() and not rig.seen
    assert rig.reports[-1].heartbeat_ns == rig.time_ns and rig.reports[-1].code is StatusCode.WAITING


def test_a_missing_picture_is_not_invented():
    for camera in ("front", "wrist"):
        rig = Rig()
        del rig.images[camera]
        assert not rig.loop.step() and not rig.seen
        assert rig.reports[-1].code is StatusCode.IMAGE_LOST and camera in rig.reports[-1].detail


@pytest.mark.parametrize("age_ms, code", [(400, StatusCode.IMAGE_LOST), (-80, StatusCode.IMAGE_LOST)])
def test_a_stale_or_future_picture_is_lost(age_ms, code):
    rig = Rig()
    rig.images["front"] = replace(rig.images["front"], stamp_ns=rig.time_ns - age_ms * MS)
    assert not rig.loop.step() and rig.reports[-1].code is code
    rig.new_picture()
    assert rig.loop.step() and rig.reports[-1].code is StatusCode.ACTING


def test_a_frozen_required_camera_is_reported():
    rig = Rig()
    rig.images["front"] = replace(rig.images["front"], is_frozen=True)
    assert not rig.loop.step() and rig.reports[-1].code is StatusCode.IMAGE_FROZEN


def test_stale_joints_are_reported():
    rig = Rig()
    rig.change(joint_stamp_ns=rig.time_ns - 300 * MS)
    assert not rig.loop.step() and rig.reports[-1].code is StatusCode.JOINTS_STALE


def test_a_pair_too_far_apart_waits():
    rig = Rig(max_skew_ns=10 * MS)
    assert not rig.loop.step() and rig.reports[-1].code is StatusCode.WAITING and "apart" in rig.reports[-1].detail


def test_a_long_instruction_is_refused_until_another_comes():
    rig = Rig()
    rig.error = InstructionTooLong(30, 24)
    rig.loop.step()
    assert rig.reports[-1].code is StatusCode.INSTRUCTION_TOO_LONG and "24" in rig.reports[-1].detail
    rig.new_picture()
    assert not rig.loop.step() and rig.reports[-1].code is StatusCode.INSTRUCTION_TOO_LONG
    rig.error = None
    rig.change(generation=2)
    assert rig.loop.step() and len(rig.chunks) == 1


def test_rejected_answers_are_counted_with_their_generation():
    rig = Rig()
    rig.error = DecodeError("NaN")
    for _ in range(2):
        rig.loop.step()
        rig.new_picture()
    assert (rig.reports[-1].rejected, rig.reports[-1].rejected_generation) == (2, 1) and not rig.chunks


def test_a_failing_back_end_is_tried_again_and_then_given_up():
    rig = Rig(max_failures=3)
    rig.error = InferenceError("out of memory")
    assert rig.loop.step() and rig.loop.step()
    assert rig.reports[-1].code is StatusCode.INFERENCE_FAILED
    with pytest.raises(InferenceError):
        rig.loop.step()


def test_run_stops_when_told():
    rig = Rig(poll_s=0.001)
    looks = iter([False] * 5 + [True])
    rig.loop.run(lambda: next(looks))
    assert len(rig.reports) >= 5


class Sink:
    def __init__(self):
        self.calls = []

    def reject_chunk(self, generation):
        self.calls.append(("reject", generation))

    def refuse_instruction(self, generation, code):
        self.calls.append(("refuse", generation, code))


def test_the_watch_passes_each_rejection_on_once_and_knows_the_age():
    rig, sink = Rig(), Sink()
    watch = WorkerWatch(lambda: rig.reports[-1] if rig.reports else None, lambda: rig.time_ns)
    rig.time_ns += 7 * MS
    watch.update()
    assert watch.age_ns == 7 * MS and watch.hold is None
    rig.error = DecodeError("NaN")
    rig.loop.step()
    for _ in range(3):
        watch.update()
        watch.apply(sink)
    assert sink.calls == [("reject", 1)] and watch.age_ns == 0
    rig.time_ns += 10**9
    assert watch.age_ns == 10**9
    rig.error = InstructionTooLong(30, 24)
    rig.new_picture()
    rig.images["front"] = replace(rig.images["front"], stamp_ns=rig.time_ns)
    rig.loop.step()
    watch.update()
    watch.apply(sink)
    assert sink.calls[-1] == ("refuse", 1, StatusCode.INSTRUCTION_TOO_LONG)


def test_the_watch_holds_on_a_lost_camera_in_every_generation():
    rig = Rig()
    del rig.images["front"]
    rig.loop.step()
    watch = WorkerWatch(lambda: rig.reports[-1], lambda: rig.time_ns)
    watch.update()
    assert watch.hold is StatusCode.IMAGE_LOST
    watch.restarted()
    assert watch.hold is None and watch.age_ns == 0
