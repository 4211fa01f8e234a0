# SPDX-License-Identifier: Apache-2.0
"""The bodies that simulators, demonstrations and training know."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vla_ros.core import tabletop
from vla_ros.core.embodiment import EMBODIMENTS, METAWORLD, METAWORLD_HORIZON_STEPS, TABLETOP, embodiment_of, embodiment_of_robot
from vla_ros.core.errors import ConfigError


@pytest.mark.parametrize("body", EMBODIMENTS.values(), ids=EMBODIMENTS)
def test_what_an_action_moves_is_in_the_proprioception_and_in_the_same_unit(body):
    units = {entry.name: entry.unit for entry in body.proprio}
    for dim, entry in body.moved_state:
        assert body.action.dims[body.action.index(dim)].unit == units[entry]


@pytest.mark.parametrize("body", EMBODIMENTS.values(), ids=EMBODIMENTS)
def test_it_is_found_by_environment_and_by_robot(body):
    assert embodiment_of(body.name) is embodiment_of(f"{body.name}:something") is embodiment_of_robot(body.robot) is body


def test_the_tabletop_is_what_the_simulator_and_the_training_were_built_for():
    assert TABLETOP.proprio_names == tabletop.PROPRIO_NAMES and TABLETOP.action == tabletop.ACTION_SPEC and TABLETOP.cameras == tabletop.CAMERAS


def test_a_policy_of_metaworld_sees_one_picture_the_hand_and_the_fingers():
    assert [camera.name for camera in METAWORLD.cameras] == ["corner2"]
    assert METAWORLD.proprio_names == ("tool_x", "tool_y", "tool_z", "gripper_joint")


def test_steps_of_metaworlds_chunks_are_whole_steps_of_its_benchmark():
    steps = METAWORLD.action.dt_s / METAWORLD.control_period_s
    np.testing.assert_allclose(steps, round(steps), atol=1e-12)
    np.testing.assert_allclose(METAWORLD.episode_limit_s, METAWORLD_HORIZON_STEPS * 0.0125)


def test_a_body_of_ones_own_is_described_by_a_mapping():
    body = replace(TABLETOP, name="mine", robot="ur5e")
    assert embodiment_of(body.to_dict()) == body
    for changes, message in (({"name": "tabletop"}, "ships with the package"), ({"moved_state": {"x": "tool_w"}}, "must lead from one of"), ({"fps": 5}, "unknown keys")):
        with pytest.raises(ConfigError, match=message):
            embodiment_of({**body.to_dict(), **changes})


@pytest.mark.parametrize("find", [embodiment_of, embodiment_of_robot])
def test_an_unknown_one_is_refused_with_the_choices(find):
    with pytest.raises(ConfigError, match=r"metaworld"):
        find("unknown")
