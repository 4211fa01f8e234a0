# SPDX-License-Identifier: Apache-2.0
"""Domain values as JSON and back, bit for bit."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_np

from vla_ros.core.chunk import ActionChunk
from vla_ros.core.command import Watch
from vla_ros.core.errors import InputError
from vla_ros.core.safety import StatusCode
from vla_ros.ros.plain import dumps, first_difference, loads

DTYPES = st.sampled_from([np.float64, np.float32, np.int64, np.int32, np.uint8, np.bool_])


def chunk(**changes):
    values = {
        "obs_stamp_ns": 5,
        "generation": 2,
        "dt_ns": 200_000_000,
        "actions_HD": np.array([[0.1, 1 / 3]]),
        "tokens_HD": np.array([[300, 301]], np.int32),
        "confidence_HD": np.array([[0.7, 1e-38]], np.float32),
        "joint_positions_HJ": np.array([[-0.0, np.nextafter(1.0, 2.0)]]),
        "terminate_H": np.array([True]),
        "plan": "grasp x=0.3 m",
    }
    return ActionChunk(**{**values, **changes})


@given(st_np.arrays(DTYPES, st_np.array_shapes(max_dims=2, max_side=4)))
def test_arrays_of_every_kind_keep_every_bit(array):
    read = loads(dumps(array))
    assert read.dtype == array.dtype and read.shape == array.shape
    same_nan = np.isnan(read) & np.isnan(array) if array.dtype.kind == "f" else False
    assert np.all((read == array) | same_nan) and np.all(
        np.signbit(read[~same_nan]) == np.signbit(array[~same_nan]) if array.dtype.kind == "f" else True
    )


@given(st.floats(allow_nan=False) | st.integers() | st.text() | st.none() | st.booleans())
def test_scalars_keep_their_value_and_type(value):
    read = loads(dumps(value))
    assert read == value and type(read) is type(value)


def test_values_of_the_domain_come_back_equal():
    value = {"chunk": chunk(), "watch": Watch(hold=StatusCode.IMAGE_LOST), "counts": Counter(a=2), "pair": (1, [2.5])}
    assert first_difference(value, loads(dumps(value))) is None


def test_what_is_none_of_the_domain_is_refused():
    with pytest.raises(TypeError, match="ActionChunk"):
        dumps({"thread": object()})


@pytest.mark.parametrize("text", ["{", '{"type": "Nothing", "fields": {}}', '{"enum": "StatusCode", "name": "FLYING"}'])
def test_text_of_another_release_is_refused_in_words(text):
    with pytest.raises(InputError, match="another release"):
        loads(text)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"actions_HD": np.array([[0.1, np.nextafter(1 / 3, 1)]])}, r"actions_HD\[0, 1\]"),
        ({"joint_positions_HJ": np.array([[0.0, np.nextafter(1.0, 2.0)]])}, r"joint_positions_HJ\[0, 0\]"),
        ({"confidence_HD": np.array([[0.7, 1e-38]])}, "float32"),
        ({"plan": "lift"}, "plan is 'grasp x=0.3 m'"),
        ({"tokens_HD": np.array([[300]], np.int32)}, r"tokens_HD is int32 \[1, 2\]"),
    ],
)
def test_the_smallest_difference_is_named(changes, words):
    import re

    difference = first_difference(chunk(), chunk(**changes))
    assert difference is not None and re.search(words, difference)


def test_lines_are_json_that_others_can_read():
    assert json.loads(dumps(Watch()))["type"] == "Watch"
