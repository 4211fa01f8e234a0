# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from vla_ros.sim.snapshots import SnapshotRecorder


@pytest.fixture
def recorder():
    made = SnapshotRecorder(1, randomize_look=0.0)
    yield made
    made.env.close()


def test_a_squeezed_block_is_felt_by_both_fingers_and_air_by_none(recorder):
    env = recorder.env
    env.reset(3, settle=False)
    task = next(task for task in env.feasible_tasks() if task.family == "pick")
    assert (env.touch_forces() == 0.0).all()
    recorder._hold(task.obj, np.array([0.33, 0.0, 0.12]), 0.0, np.random.default_rng(0))
    joints = env.observe(cameras=False).joint_positions_J
    joints[-1] -= 0.004
    for _ in range(25):
        env.step(joints)
    left, right = env.touch_forces()
    assert left > 0.2 and right > 0.2 and 0.5 < left / right < 2.0  # N; the block hangs between them


def test_demonstrations_carry_the_forces(recorder):
    frame = next(frame for seed in range(10_000_000, 10_000_020) for frame in recorder.episode(seed))
    assert frame["touch"].shape == (2,) and frame["touch"].dtype == np.float32 and (frame["touch"] >= 0).all()
