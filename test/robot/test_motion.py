# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

from hypothesis import given, settings, strategies as st
import numpy as np
import pytest

from ruckig import RuckigError

from vla_ros.core.paths import share_dir
from vla_ros.robot import RobotDescription, RuckigMotion

ROBOT = RobotDescription.load(share_dir() / "config" / "robots" / "tabletop_arm.yaml")
LIMITS = ROBOT.limits
DT = 0.02


def assert_inside(motion, before):
    """One period's change of acceleration stays inside the jerk limit, everything else inside its own."""
    assert np.all(np.abs(motion.velocity) <= LIMITS.velocity + 1e-9)
    assert np.all(np.abs(motion.acceleration) <= LIMITS.acceleration + 1e-9)
    assert np.all(np.abs(motion.acceleration - before) <= LIMITS.jerk * DT + 1e-9)
    assert np.all(motion.position >= LIMITS.position_min - 1e-6) and np.all(motion.position <= LIMITS.position_max + 1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_any_targets_stay_inside_all_limits(seed):
    rng = np.random.default_rng(seed)
    motion = RuckigMotion(LIMITS, DT)
    motion.reset(ROBOT.home)
    for _ in range(30):
        target = rng.uniform(LIMITS.position_min - 1.0, LIMITS.position_max + 1.0)
        velocity = rng.normal(0.0, 3.0, 7)
        for _ in range(rng.integers(1, 20)):
            before = motion.acceleration
            motion.track(target, velocity)
            assert_inside(motion, before)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_stop_comes_to_rest_inside_the_limits(seed):
    rng = np.random.default_rng(seed)
    motion = RuckigMotion(LIMITS, DT)
    motion.reset(ROBOT.home)
    for _ in range(rng.integers(1, 50)):
        motion.track(rng.uniform(LIMITS.position_min, LIMITS.position_max), rng.normal(0.0, 1.0, 7))
    # From full speed: v/a for the ramp and a/j for each of the two corners.
    longest = np.max(LIMITS.velocity / LIMITS.acceleration + 2 * LIMITS.acceleration / LIMITS.jerk)
    for _ in range(int(np.ceil(longest / DT)) + 1):
        before = motion.acceleration
        motion.stop()
        assert_inside(motion, before)
    np.testing.assert_allclose(motion.velocity, 0.0, atol=1e-9)


def test_a_reachable_target_is_reached():
    motion = RuckigMotion(LIMITS, DT)
    motion.reset(ROBOT.home)
    target = ROBOT.home + np.array([0.3, -0.2, 0.1, 0.2, -0.1, 0.4, -0.02])
    for _ in range(100):
        motion.track(target, np.zeros(7))
    np.testing.assert_allclose(motion.position, target, atol=1e-6)


@given(st.integers(0, 2**32 - 1))
def test_the_next_state_depends_on_nothing_but_this_one(seed):
    rng = np.random.default_rng(seed)
    motion, other = RuckigMotion(LIMITS, DT), RuckigMotion(LIMITS, DT)
    motion.reset(ROBOT.home)
    target = rng.uniform(LIMITS.position_min, LIMITS.position_max)
    for i in range(120):
        other.position, other.velocity, other.acceleration = motion.position, motion.velocity, motion.acceleration
        for each in (motion, other):
            each.track(target, np.zeros(7)) if i < 40 else each.stop()
        for name in ("position", "velocity", "acceleration"):
            assert getattr(motion, name).tobytes() == getattr(other, name).tobytes()
        other = RuckigMotion(LIMITS, DT)


def wanted_velocities(limits, position, velocity, target, target_velocity):
    """The position loop once more, by its equations and for all joints together, every root taken."""

    def closing_speed(distance):
        corner = limits.acceleration**2 / limits.jerk
        plateau = np.sqrt(0.25 * corner**2 + 2.0 * limits.acceleration * distance) - 0.5 * corner
        braking = np.where(np.cbrt(distance**2 * limits.jerk) < corner, np.cbrt(distance**2 * limits.jerk), plateau)
        return np.minimum(limits.max_rate_1_s * distance, limits.closing * braking)

    ahead, top = position + DT * velocity, 0.999 * limits.velocity
    error = np.clip(target, limits.position_min, limits.position_max) - ahead
    up, down = (np.minimum(closing_speed(np.maximum(room, 0.0)), top) for room in (limits.position_max - ahead, ahead - limits.position_min))
    return np.minimum(np.maximum(target_velocity + np.sign(error) * closing_speed(np.abs(error)), -down), up)


@pytest.mark.parametrize("name", ["tabletop_arm", "franka", "ur5e", "so101", "metaworld_hand"])
def test_the_position_loop_is_its_equations(name):
    """The shortcuts near the target and far from the limits change nothing, at any scale of distances."""
    limits, rng = RobotDescription.load(share_dir() / "config" / "robots" / f"{name}.yaml").limits, np.random.default_rng(0)
    motion, size = RuckigMotion(limits, DT), len(limits.velocity)
    for _ in range(3000):
        position = rng.uniform(limits.position_min, limits.position_max)
        at_a_limit = rng.random(size) < 0.3
        position[at_a_limit] = limits.position_max[at_a_limit] - 10.0 ** rng.uniform(-9, 0)
        velocity = rng.uniform(-1.0, 1.0) * limits.velocity
        target = position + rng.choice([-1.0, 0.0, 1.0], size) * 10.0 ** rng.uniform(-9, 1, size)
        target_velocity = rng.choice([0.0, 1.0]) * rng.normal(0.0, 0.3, size)
        states = zip(motion._loops, position.tolist(), velocity.tolist(), target.tolist(), target_velocity.tolist())
        found = [loop.wanted_velocity(*state) for loop, *state in states]
        np.testing.assert_allclose(found, wanted_velocities(limits, position, velocity, target, target_velocity), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dt_s", [0.0125, 0.02])
def test_fingers_that_follow_quickly_have_closed_before_the_hand_lifts_and_do_not_swing(dt_s):
    """A policy lifts 0.1 s after it closes: then less than half of what an arm's gentle rate leaves of the way is left."""
    robot = RobotDescription.load(share_dir() / "config" / "robots" / "metaworld_hand.yaml")
    gentle = replace(robot.limits, closing=LIMITS.closing, max_rate_1_s=LIMITS.max_rate_1_s)
    left = []
    for limits in (robot.limits, gentle):
        motion = RuckigMotion(limits, dt_s)
        motion.reset(robot.home)
        target, way = np.array([*robot.home[:3], 0.01]), []
        for _ in range(round(0.125 / dt_s)):
            motion.track(target, np.zeros(4))
            way.append(motion.position[3] - 0.01)
        assert np.all(np.diff(way) <= 1e-9) and way[-1] >= -1e-9
        left.append(way[-1] / 0.04)
    assert left[0] < 0.5 * left[1]


def test_a_target_that_is_no_number_moves_nothing():
    motion = RuckigMotion(LIMITS, DT)
    motion.reset(ROBOT.home)
    for bad in (np.full(7, np.nan), np.where(np.arange(7) == 3, np.nan, 0.0)):
        for target, velocity in ((bad, np.zeros(7)), (ROBOT.home, bad)):
            with pytest.raises(RuckigError):
                motion.track(target, velocity)
            np.testing.assert_array_equal(motion.position, ROBOT.home)
