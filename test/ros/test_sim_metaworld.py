# SPDX-License-Identifier: Apache-2.0
"""A Meta-World task that runs on while it waits for somebody's instruction."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("metaworld")

from vla_ros.core.embodiment import METAWORLD_HORIZON_STEPS, METAWORLD_STEP_S
from vla_ros.ros.sim_metaworld import RealtimeMetaWorld
from vla_ros.sim.metaworld.expert import ScriptedExpert


@pytest.fixture(scope="module")
def world():
    return RealtimeMetaWorld("metaworld:drawer-open-v3")


def test_a_task_that_begins_late_is_still_judged(world):
    world.restart(0)
    expert, rest = ScriptedExpert(world), np.array([*world.hand_target(), 0.05])
    world.advance(rest, (METAWORLD_HORIZON_STEPS + 20) * METAWORLD_STEP_S)
    assert not world.success()
    for _ in range(METAWORLD_HORIZON_STEPS):
        world.act(expert.action())
        if world.success():
            break
    assert world.success()


def test_time_goes_on_over_a_restart_and_success_does_not(world):
    before = world.elapsed_ns
    world.restart(1)
    assert world.elapsed_ns == before and not world.success()
    np.testing.assert_allclose(world.robot.home[:3], world.hand_target())


def test_an_instruction_is_found_by_its_words(world):
    assert world.find_task("Open the drawer.")[0].family == "drawer-open-v3"
    task, hint = world.find_task("sing a song")
    assert task is None and "drawer" in hint
