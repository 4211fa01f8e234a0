# SPDX-License-Identifier: Apache-2.0
"""JointState messages of FAULTS rows 1 to 7."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_ros.core.errors import InputError
from vla_ros.ros.joint_states import JointStateReader

_NAMES = ("shoulder", "elbow", "gripper")


def message(names=_NAMES, position=(0.1, 0.2, 0.3), velocity=(1.0, 2.0, 3.0)):
    return SimpleNamespace(name=list(names), position=list(position), velocity=list(velocity), effort=[])


def code_of(msg):
    with pytest.raises(InputError) as caught:
        JointStateReader(_NAMES).read(msg, 1)
    return caught.value.code, str(caught.value)


@given(order=st.permutations([*_NAMES, "wheel", "mast"]))
def test_joints_are_mapped_by_name_and_extra_ones_ignored(order):
    value = {"shoulder": 0.1, "elbow": 0.2, "gripper": 0.3, "wheel": np.nan, "mast": np.inf}
    sample = JointStateReader(_NAMES).read(message(order, [value[n] for n in order], [10 * value[n] for n in order]), 5)
    np.testing.assert_array_equal(sample.positions_J, [0.1, 0.2, 0.3])
    np.testing.assert_array_equal(sample.velocities_J, [1.0, 2.0, 3.0])
    assert sample.stamp_ns == 5 and not sample.velocity_is_derived


def test_order_may_change_between_messages():
    reader = JointStateReader(_NAMES)
    reader.read(message(), 1)
    np.testing.assert_array_equal(reader.read(message(_NAMES[::-1]), 2).positions_J, [0.3, 0.2, 0.1])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("field", ["position", "velocity"])
def test_values_that_are_not_finite_are_dropped_and_named(bad, field):
    code, text = code_of(message(**{field: (0.1, bad, 0.3)}))
    assert code == "joint_not_finite" and "elbow" in text and "shoulder" not in text


def test_a_missing_joint_is_named():
    code, text = code_of(message(("shoulder", "gripper"), (0, 0), (0, 0)))
    assert code == "joint_missing" and "lacks elbow" in text


def test_a_name_twice_is_dropped():
    code, text = code_of(message((*_NAMES, "elbow"), (0, 0, 0, 0), ()))
    assert code == "joint_twice" and "elbow" in text


@pytest.mark.parametrize("fields", [{"position": (0.1, 0.2)}, {"position": ()}, {"velocity": (1.0,)}, {"position": (1, 2, 3, 4)}])
def test_arrays_of_other_length_are_dropped(fields):
    assert code_of(message(**fields))[0] == "joint_lengths"


def test_velocities_are_derived_when_absent():
    reader = JointStateReader(_NAMES)
    first = reader.read(message(velocity=()), 1_000_000_000)
    np.testing.assert_array_equal(first.velocities_J, np.zeros(3))
    second = reader.read(message(position=(0.2, 0.2, 0.1), velocity=()), 1_100_000_000)
    np.testing.assert_allclose(second.velocities_J, [1.0, 0.0, -2.0], atol=1e-9)
    assert first.velocity_is_derived and second.velocity_is_derived


def test_no_velocity_is_derived_across_a_reset_or_back_in_time():
    reader = JointStateReader(_NAMES)
    reader.read(message(velocity=()), 2_000_000_000)
    np.testing.assert_array_equal(reader.read(message(position=(9, 9, 9), velocity=()), 1_000_000_000).velocities_J, np.zeros(3))
    reader.reset()
    np.testing.assert_array_equal(reader.read(message(velocity=()), 3_000_000_000).velocities_J, np.zeros(3))


def test_a_dropped_message_leaves_the_last_good_one_for_differentiating():
    reader = JointStateReader(_NAMES)
    reader.read(message(velocity=()), 1_000_000_000)
    with pytest.raises(InputError):
        reader.read(message(position=(np.nan, 0, 0), velocity=()), 1_100_000_000)
    np.testing.assert_allclose(
        reader.read(message(position=(0.3, 0.2, 0.3), velocity=()), 1_200_000_000).velocities_J, [1.0, 0.0, 0.0], atol=1e-9
    )
