# SPDX-License-Identifier: Apache-2.0
"""What a stopping path may lead into, and how long a blocked chunk is waited for. One joint, in metres, makes it plain."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vla_ros.core.testing import DT_NS, J, PERIOD_NS, FakeMotion, make_chunk, make_limits

from vla_ros.core.control import ControlConfig, ControlLoop, Watch
from vla_ros.core.danger import BlockedChunk, PathCheck
from vla_ros.core.errors import VlaError
from vla_ros.core.safety import StatusCode

MARGIN = 0.01
# The fake motion's last period of a stop is longer than the path that it tells: v (dt - v / a) / 2, at most a dt^2 / 8 for each joint.
FAKE_STOP = make_limits().acceleration[0] * (PERIOD_NS * 1e-9) ** 2 / 8


def outside(q):
    """The workspace ends at zero."""
    return max(0.0, float(q[0]))


def check(*path, now=0.0, ahead=(), start=None, workspace=outside, collision=None):
    paths = PathCheck(workspace, collision, MARGIN)
    if start is not None:
        paths.start_at(np.array([start]))
    return paths.of(np.array(path)[:, None], np.array([now]), np.array(ahead or path[-1:])[:, None])


@pytest.mark.parametrize(
    "path, now, ahead, refused",
    [
        ((-0.1, -0.05, 0.0), -0.2, (-0.1,), False),
        ((0.001, 0.004, 0.005), 0.0, (0.1,), False),  # half the margin for everybody
        ((0.001, 0.006), 0.0, (0.1,), True),
        ((0.006, 0.001), 0.0, (-0.1,), True),  # the whole way counts
        ((0.006, 0.004), 0.004, (-0.1,), False),  # a way back may begin with a detour,
        ((0.0099, 0.004), 0.0049, (0.009, -0.1), False),
        ((0.0101, 0.004), 0.004, (-0.1,), True),  # inside the margin
        ((0.006, 0.004), 0.004, (0.02, -0.1), True),  # a chunk that leads beyond it first is none
        ((0.006,), 0.004, (0.004,), True),  # nor one that comes no nearer
        ((0.029, 0.028), 0.03, (0.1,), False),  # no worse than now
        ((0.031, 0.028), 0.03, (-0.1,), True),
    ],
)
def test_ways_out_end_at_half_the_margin_and_ways_back_may_use_all_of_it(path, now, ahead, refused):
    assert (check(*path, now=now, ahead=ahead) is StatusCode.WORKSPACE) == refused


def test_a_robot_that_was_put_outside_has_room_for_a_detour_until_it_is_back():
    paths = PathCheck(outside, None, MARGIN)
    paths.start_at(np.array([0.03]))

    def of(*path, now):
        return paths.of(np.array(path)[:, None], np.array([now]), np.array([[-0.1]]))

    assert of(0.034, 0.03, now=0.03) is None
    assert of(0.036, 0.03, now=0.03) is StatusCode.WORKSPACE
    assert of(0.034, 0.02, now=0.02) is None, "the same bound, however often it is tried"
    assert of(-0.1, now=0.001) is None
    assert of(0.011, 0.0, now=0.004) is StatusCode.WORKSPACE, "once back, the margin holds again"


@pytest.mark.parametrize(
    "path, now, refused",
    [((0.0, 0.0), 0.0, False), ((0.0, 1e-9, 0.0), 0.0, True), ((0.002, 0.001), 0.003, False), ((0.002, 0.004, 0.001), 0.003, True), ((0.001, 0.004), 0.003, True)],
)
def test_nothing_leads_into_a_collision_or_deeper_into_one(path, now, refused):
    assert (check(*path, now=now, workspace=None, collision=outside) is StatusCode.COLLISION) == refused


def test_nothing_is_refused_where_nothing_is_checked():
    assert check(0.5, now=0.0, workspace=None) is None


@given(seed=st.integers(0, 2**32 - 1))
def test_what_passes_is_inside_the_bounds_whatever_the_motion(seed):
    """The rule again, written as bounds instead of cases."""
    rng = np.random.default_rng(seed)
    now, start = rng.choice([0.0, rng.uniform(0.0, 0.04)]), rng.choice([0.0, rng.uniform(0.0, 0.04)])
    path, ahead = now + rng.normal(0.0, 0.01, 5), now + rng.normal(0.0, 0.02, 3)
    if check(*path, now=now, ahead=tuple(ahead), start=start) is None:
        assert max(0.0, *path) <= max(MARGIN, start + 0.5 * MARGIN, now)
        if min(ahead[-1], now) >= max(now, 0.0):
            assert max(0.0, *path) <= max(0.5 * MARGIN, now)
    if check(*path, now=now, workspace=None, collision=outside) is None:
        assert max(0.0, *path) <= now


@given(seed=st.integers(0, 2**32 - 1))
def test_no_command_leaves_the_margin_or_enters_what_is_forbidden(seed):
    """Wild chunks, stops and lost inputs: through the whole loop, from a start inside or outside."""
    rng, limits = np.random.default_rng(seed), make_limits()
    start = np.array([rng.choice([0.0, 0.12]), 0.0, 0.0])
    config = ControlConfig(period_ns=PERIOD_NS)
    loop = ControlLoop(
        config=config,
        limits=limits,
        motion=FakeMotion(limits),
        workspace_excess_m=lambda q: max(0.0, q[0] - 0.1, -0.3 - q[0]),
        collision_depth_m=lambda q: max(0.0, q[1] + q[2] - 0.2),
    )
    now_ns = 10**12
    loop.put_joints(now_ns, start)
    loop.activate(0)
    loop.set_instruction("go")
    worst_m, deepest_m = 0.0, 0.0
    for _ in range(150):
        now_ns += PERIOD_NS
        output = loop.step(now_ns, Watch(hold=StatusCode.IMAGE_LOST if rng.random() < 0.02 else None))
        loop.put_joints(now_ns, output.positions_J)
        worst_m = max(worst_m, output.positions_J[0] - 0.1, -0.3 - output.positions_J[0])
        deepest_m = max(deepest_m, output.positions_J[1] + output.positions_J[2] - 0.2)
        if rng.random() < 0.1:
            steps = np.cumsum(rng.normal(0.0, 0.1, (5, J)), axis=0)
            loop.put_chunk(make_chunk(now_ns - int(rng.integers(DT_NS)), loop.generation, np.clip(output.positions_J + steps, -0.8, 0.8)), now_ns)
        elif rng.random() < 0.02:
            loop.stop()
        elif rng.random() < 0.1:
            try:
                loop.resume()
            except VlaError:  # there was nothing to resume
                pass
    assert worst_m <= max(0.01, start[0] - 0.1 + 0.005) + FAKE_STOP
    assert deepest_m <= 2 * FAKE_STOP
    assert not [name for name in loop.counts if name.startswith("fault")]


def test_a_blocked_chunk_is_tried_again_after_braking_and_given_up_after_a_while():
    blocked = BlockedChunk(3, 10)
    tries = 0
    while not blocked.is_given_up():
        tries += 1
        assert [blocked.brakes() for _ in range(3)] == [True, True, False]
    assert tries == 3


def test_a_new_chunk_is_tried_at_once_and_progress_makes_patient_again():
    blocked = BlockedChunk(3, 4)
    assert not blocked.is_given_up()
    blocked.try_again()
    assert not blocked.brakes()
    for _ in range(3):
        blocked.went_on()
    assert not blocked.is_given_up() and blocked.brakes() and blocked.brakes() and blocked.is_given_up()
    blocked.forget()
    assert not blocked.brakes() and not blocked.is_given_up()
