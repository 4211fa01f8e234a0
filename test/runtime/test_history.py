# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vla_ros.core.observation import CameraSpec, Observation
from vla_ros.runtime.history import PictureHistory

CAMERA = CameraSpec(name="front", height=1, width=1)
STEP_NS = 200


def show(history: PictureHistory, stamp_ns: int) -> list[int]:
    """Asks with a picture that says its own time; returns the times of the pictures shown."""
    picture = np.full((1, 1, 3), stamp_ns // 10 % 256, dtype=np.uint8)
    observation = Observation(
        images={"front": picture}, image_stamp_ns={"front": stamp_ns}, joint_positions=np.zeros(1), joint_stamp_ns=stamp_ns, instruction="go"
    )
    return [10 * int(value) for value in history.add(observation)["front"].reshape(-1, 3)[:, 0]]


def test_a_policy_of_one_picture_gets_it_as_it_is():
    assert show(PictureHistory([CAMERA], 1, STEP_NS), 500) == [500]


def test_pictures_an_action_step_apart_are_shown_newest_first():
    history = PictureHistory([CAMERA], 3, STEP_NS)
    shown = [show(history, stamp) for stamp in (0, 200, 400, 600)]
    assert shown == [[0, 0, 0], [200, 0, 0], [400, 200, 0], [600, 400, 200]]


def test_the_nearest_picture_stands_for_one_that_is_not_there():
    history = PictureHistory([CAMERA], 2, STEP_NS)
    assert [show(history, stamp) for stamp in (0, 120, 240, 360, 480)] == [[0, 0], [120, 0], [240, 0], [360, 120], [480, 240]]


def test_a_pause_and_a_reset_forget_the_past():
    history = PictureHistory([CAMERA], 2, STEP_NS)
    show(history, 1000)
    assert show(history, 1301) == [1300, 1300]  # more than a step and a half ago
    assert show(history, 1500) == [1500, 1300]
    assert show(history, 100) == [100, 100]


def test_the_same_picture_asked_twice_is_no_past():
    history = PictureHistory([CAMERA], 2, STEP_NS)
    show(history, 1000)
    show(history, 1200)
    assert show(history, 1200) == [1200, 1000]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(2, 4))
def test_what_is_shown_is_never_newer_than_what_came_before_it(gaps, frames):
    history = PictureHistory([CAMERA], frames, STEP_NS)
    asked = [10 * int(stamp) for stamp in np.cumsum(gaps) if stamp < 250]
    for index, stamp in enumerate(asked):
        shown = show(history, stamp)
        assert shown[0] == stamp and sorted(shown, reverse=True) == shown
        assert set(shown) <= set(asked[: index + 1])
        assert stamp - shown[-1] <= (frames - 1) * STEP_NS + STEP_NS // 2
