# SPDX-License-Identifier: Apache-2.0
"""The simulator's controller refuses what joint_trajectory_controller refuses, and interpolates like it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_ros.core.errors import InputError
from vla_ros.ros.trajectory_follower import TrajectoryFollower

_NAMES = ("a", "b")
_S = 1_000_000_000
_MAX_ACCELERATION = np.array([4.0, 8.0])


def duration(seconds):
    sec, nanosec = divmod(round(seconds * _S), _S)
    return SimpleNamespace(sec=sec, nanosec=nanosec)


def trajectory(points, names=_NAMES, stamp_s=0.0):
    """points: (time, positions, velocities)."""
    return SimpleNamespace(
        header=SimpleNamespace(stamp=duration(stamp_s)),
        joint_names=list(names),
        points=[SimpleNamespace(time_from_start=duration(t), positions=list(p), velocities=list(v)) for t, p, v in points],
    )


def follower(timeout_s=0.5):
    return TrajectoryFollower(_NAMES, _MAX_ACCELERATION, np.zeros(2), timeout_s)


@pytest.mark.parametrize(
    "message, code",
    [
        (trajectory([(0.1, (1, 1), (0, 0))], names=("a",)), "command_joints"),
        (trajectory([(0.1, (1, 1), (0, 0))], names=("a", "c")), "command_joints"),
        (trajectory([(0.1, (1, 1), (0, 0))], names=("a", "b", "c")), "command_joints"),
        (trajectory([(0.1, (1, 1), (0, 0))], names=("a", "a")), "command_joints"),
        (trajectory([]), "command_points"),
        (trajectory([(0.1, (1,), (0, 0))]), "command_sizes"),
        (trajectory([(0.1, (1, 1), (0,))]), "command_sizes"),
        (trajectory([(0.1, (), (0, 0))]), "command_sizes"),
        (trajectory([(0.1, (1, np.nan), (0, 0))]), "command_not_finite"),
        (trajectory([(0.1, (1, 1), (np.inf, 0))]), "command_not_finite"),
        (trajectory([(0.2, (1, 1), (0, 0)), (0.1, (1, 1), (0, 0))]), "command_times"),
        (trajectory([(0.1, (1, 1), (0, 0)), (0.1, (2, 2), (0, 0))]), "command_times"),
        (trajectory([(-0.1, (1, 1), (0, 0))]), "command_times"),
        (trajectory([(0.1, (1, 1), (1, 0))]), "command_moving_end"),
        (trajectory([(0.1, (1, 1), (0, 0))], stamp_s=9.0), "command_past"),
    ],
)
def test_bad_trajectories_are_refused_and_change_nothing(message, code):
    f = follower()
    with pytest.raises(InputError) as caught:
        f.accept_trajectory(message, 10 * _S)
    assert caught.value.code == code
    np.testing.assert_array_equal(f.sample(10 * _S + 50_000_000), [0, 0])


def test_joints_are_mapped_by_name():
    f = follower()
    f.accept_trajectory(trajectory([(0.1, (2, 1), (0, 0))], names=("b", "a")), 10 * _S)
    np.testing.assert_allclose(f.sample(10 * _S + 100_000_000), [1, 2])


def test_the_spline_passes_points_with_their_velocities_and_holds_the_last():
    f = follower()
    f.accept_trajectory(trajectory([(1.0, (1, 0), (0.5, 0)), (2.0, (2, 0), (0, 0))], stamp_s=10.0), 10 * _S)
    eps = 1000
    at = {t: f._interpolate(10 * _S + int(t * _S))[0] for t in (1.0, 2.0, 3.0)}
    np.testing.assert_allclose([at[1.0][0], at[2.0][0], at[3.0][0]], [1, 2, 2], atol=1e-9)
    slope = (f._interpolate(11 * _S + eps)[0] - f._interpolate(11 * _S - eps)[0]) / (2e-9 * eps)
    np.testing.assert_allclose(slope, [0.5, 0.0], atol=1e-5)


def test_without_velocities_the_way_is_straight():
    f = follower()
    f.accept_trajectory(trajectory([(1.0, (1, 2), ())]), 10 * _S)
    np.testing.assert_allclose(f.sample(10 * _S + _S // 4), [0.25, 0.5])


def test_a_new_trajectory_takes_over_without_a_jump():
    f = follower()
    f.accept_trajectory(trajectory([(1.0, (1, 1), (0, 0))]), 10 * _S)
    before = f.sample(10 * _S + 500_000_000).copy()
    f.accept_trajectory(trajectory([(1.0, (-1, -1), (0, 0))]), 10 * _S + 500_000_000)
    np.testing.assert_allclose(f.sample(10 * _S + 500_000_001), before, atol=1e-6)


def test_a_stream_that_stops_is_decelerated_inside_the_limits_and_held():
    """Linear motion at 1 rad/s; the stream pauses 0.5 s, and the joint comes to rest with at most 4 rad/s^2."""
    f = follower(timeout_s=0.1)
    f.accept_trajectory(trajectory([(1.0, (1, 1), ())]), 0)
    step = 1_000_000
    positions = np.array([f.sample(t).copy() for t in range(0, _S, step)])
    velocities = np.diff(positions, axis=0) / (step * 1e-9)
    accelerations = np.diff(velocities, axis=0)[101:] / (step * 1e-9)
    assert f.timed_out
    assert np.abs(accelerations[:, 0]).max() <= 4.0 * 1.01
    assert np.abs(velocities[-100:]).max() == 0.0
    np.testing.assert_allclose(positions[-1], [0.1 + 0.125] * 2, atol=2e-3)


def test_positions_are_taken_at_once_and_checked():
    f = follower()
    f.accept_positions([0.5, -0.5], 10 * _S)
    np.testing.assert_allclose(f.sample(10 * _S + 1), [0.5, -0.5])
    for bad in ([1.0], [1.0, np.nan], []):
        with pytest.raises(InputError):
            f.accept_positions(bad, 10 * _S)


@settings(max_examples=200, deadline=None)
@given(
    times=st.lists(st.floats(0.0, 2.0), min_size=1, max_size=5),
    values=st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), min_size=2, max_size=2),
    later=st.floats(0.0, 5.0),
)
def test_whatever_comes_the_desired_position_is_finite(times, values, later):
    f = follower()
    try:
        f.accept_trajectory(trajectory([(t, values, (0, 0)) for t in times]), 10 * _S)
    except InputError:
        pass
    assert np.isfinite(f.sample(10 * _S + int(later * _S))).all()
