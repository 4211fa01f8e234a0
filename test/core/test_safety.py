# SPDX-License-Identifier: Apache-2.0
"""The last guard and the fallback brake."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_ros.core.safety import CommandCheck, StatusCode, box_excess_m, brake, outside_limits
from vla_ros.core.testing import J, make_limits
from vla_ros.core.window import stopping_window

DT = 0.02
LIMITS = make_limits()
REST = (np.zeros(J), np.zeros(J), np.zeros(J))


def command(position=0.0, velocity=0.0, acceleration=0.0):
    return np.full(J, position), np.full(J, velocity), np.full(J, acceleration)


@pytest.mark.parametrize(
    "after, word",
    [
        (command(np.nan), "not finite"),
        (command(0.0, np.inf), "not finite"),
        (command(0.0, 0.0, np.nan), "not finite"),
        (command(0.0, 1.01), "velocity"),
        (command(0.0, 0.0, 5.1), "acceleration"),
        (command(0.021), "step"),
        (command(0.001, 0.05, 2.5), None),
    ],
)
def test_violations_are_named(after, word):
    assert CommandCheck(LIMITS, DT).violation(REST, after) == word


def test_a_position_outside_may_only_get_better():
    outside = (np.full(J, 1.01), np.zeros(J), np.zeros(J))
    assert CommandCheck(LIMITS, DT).violation(outside, command(1.005)) is None
    assert CommandCheck(LIMITS, DT).violation(outside, command(1.02)) == "position"


def test_jerk_is_the_change_of_acceleration():
    limits = make_limits()
    limits.jerk = np.full(J, 50.0)
    assert CommandCheck(limits, DT).violation(REST, command(0.0, 0.0, 1.1)) == "jerk"


def violation_by_arrays(limits, before, after):
    """The same rules for all joints at once."""
    if not np.isfinite(np.concatenate(after)).all():
        return "not finite"
    outward, outward_before = (np.maximum(limits.position_min - q, q - limits.position_max) for q in (after[0], before[0]))
    if ((outward > limits.velocity * DT * 1e-3) & (outward > outward_before)).any():
        return "position"
    changes = (after[1], after[2], after[2] - before[2], after[0] - before[0])
    bounds = (limits.velocity, limits.acceleration, limits.jerk * DT, limits.velocity * DT)
    kinds = ("velocity", "acceleration", "jerk", "step")
    return next((kind for kind, value, bound in zip(kinds, changes, bounds) if (np.abs(value) > bound * (1 + 1e-6) + 1e-9).any()), None)


def test_commands_near_every_limit_are_judged_joint_by_joint_as_all_at_once():
    rng, limits, seen = np.random.default_rng(0), make_limits(), set()
    limits.jerk = np.full(J, 50.0)
    check = CommandCheck(limits, DT)
    for _ in range(20_000):
        scale = 1.0 + rng.choice([-1e-3, -1e-7, 1e-7, 2e-6, 1e-3]) * (rng.random((4, J)) < 0.3)
        sign = rng.choice([-1.0, 0.0, 0.0, 0.0, 1.0], (4, J))
        position = rng.choice([0.0, 0.999, 1.0, 1.00001, 1.5], J) * rng.choice([-1.0, 1.0])
        before = (position, np.zeros(J), rng.choice([0.0, 4.5, -4.5], J))
        step, velocity, acceleration, change = scale * sign * np.array([[0.02], [1.0], [5.0], [1.0]])
        after = (position + step, velocity, np.where(sign[2] != 0.0, acceleration, before[2] + change))
        if rng.random() < 0.02:
            after[int(rng.integers(3))][int(rng.integers(J))] = rng.choice([np.nan, np.inf, -np.inf])
        word = violation_by_arrays(limits, before, after)
        assert check.violation(before, after) == word
        seen.add(word)
    assert seen == {None, "not finite", "position", "velocity", "acceleration", "jerk", "step"}


def test_the_brake_stops_at_the_acceleration_limit():
    state = (np.zeros(J), np.array([1.0, -0.5, 0.0]))
    speeds = [state[1]]
    for _ in range(20):
        position, velocity, _ = brake(*state, LIMITS, DT)
        state = (position, velocity)
        speeds.append(velocity)
    assert (np.abs(np.diff(speeds, axis=0)) <= LIMITS.acceleration * DT + 1e-12).all()
    np.testing.assert_array_equal(state[1], 0.0)
    np.testing.assert_allclose(state[0], [0.1, -0.025, 0.0], atol=1e-9)  # v^2 / 2a


def test_checks():
    assert outside_limits(np.array([0.0, 1.2, -1.05]), LIMITS, 0.1).tolist() == [1]
    box = (np.zeros(3), np.ones(3))
    assert box_excess_m(np.array([0.5, 0.5, 0.5]), *box) == 0.0
    assert box_excess_m(np.array([0.5, 1.25, -0.1]), *box) == pytest.approx(0.25)


def test_every_code_has_a_number_and_a_sentence_of_its_own():
    assert len({code.number for code in StatusCode}) == len(StatusCode) == len({code.sentence for code in StatusCode})
    for code in StatusCode:
        assert StatusCode.from_number(code.number) is code
        assert code.sentence.endswith(".")
    with pytest.raises(ValueError):
        StatusCode.from_number(9999)


def test_a_window_starts_with_the_command_and_ends_at_rest_inside_the_limits():
    velocity = np.array([1.0, -0.4, 0.0])
    window = stopping_window(np.zeros(J), velocity, DT, LIMITS)
    assert len(window.times_ns) == 4 and window.times_ns[0] == 20_000_000 and (np.diff(window.times_ns) > 0).all()
    np.testing.assert_array_equal(window.velocities_NJ[-1], 0.0)
    steps_s = np.diff(window.times_ns)[:, None] * 1e-9
    decelerations = np.abs(np.diff(window.velocities_NJ, axis=0)) / steps_s
    assert (decelerations <= LIMITS.acceleration * (1 + 1e-6)).all()
    mean_velocities = 0.5 * (window.velocities_NJ[1:] + window.velocities_NJ[:-1])
    np.testing.assert_allclose(np.diff(window.positions_NJ, axis=0), mean_velocities * steps_s, atol=1e-8)


def test_a_window_at_rest_stays():
    window = stopping_window(np.ones(J), np.zeros(J), DT, LIMITS)
    assert (window.positions_NJ == 1.0).all() and (window.velocities_NJ == 0.0).all() and len(window.times_ns) >= 3


@given(seed=st.integers(0, 2**32 - 1), stop_points=st.integers(2, 6))
def test_a_window_keeps_the_position_limits_between_its_points_too(seed, stop_points):
    """Any state from which the joint can stop; followed as joint_trajectory_controller does, by cubics through positions and velocities."""
    rng = np.random.default_rng(seed)
    velocity = rng.uniform(-LIMITS.velocity, LIMITS.velocity)
    room = velocity**2 / (2.0 * LIMITS.acceleration) * (1.0 + rng.exponential(1.0, J))
    limit = np.where(velocity > 0.0, LIMITS.position_max, LIMITS.position_min)
    position = limit - np.sign(velocity) * room
    window = stopping_window(position, velocity, DT, LIMITS, stop_points)
    np.testing.assert_array_equal(window.velocities_NJ[-1], 0.0)
    assert (np.abs(window.velocities_NJ) <= np.abs(velocity) + 1e-12).all()
    # Points are at least 1 ms apart: a joint that would be at rest sooner passes its end by up to 4/27 of a (1 ms)^2, below 1e-6.
    slack = 1e-6
    for i in range(len(window.times_ns) - 1):
        span_s = (window.times_ns[i + 1] - window.times_ns[i]) * 1e-9
        for s in np.linspace(0.0, 1.0, 21):
            between = hermite(s, span_s, window.positions_NJ[i : i + 2], window.velocities_NJ[i : i + 2])
            assert (between <= LIMITS.position_max + slack).all() and (between >= LIMITS.position_min - slack).all()


def hermite(s, span_s, positions, velocities):
    h01 = s * s * (3.0 - 2.0 * s)
    tangents = s * (1.0 - s) ** 2 * velocities[0] - s * s * (1.0 - s) * velocities[1]
    return positions[0] + h01 * (positions[1] - positions[0]) + span_s * tangents
