# SPDX-License-Identifier: Apache-2.0
"""Stamps of FAULTS rows 25 to 27."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from vla_ros.core.errors import InputError
from vla_ros.ros.stamps import checked_stamp, stamp_to_ns

_NOW = 1_000_000_000_000
_LIMITS = {"max_age_ns": 100, "max_future_ns": 10}


def test_seconds_and_nanoseconds_become_one_integer():
    assert stamp_to_ns(SimpleNamespace(sec=1_700_000_000, nanosec=123_456_789)) == 1_700_000_000_123_456_789


@pytest.mark.parametrize("stamp", [_NOW, _NOW - 100, _NOW + 10])
def test_stamps_inside_the_limits_are_used(stamp):
    assert checked_stamp(stamp, _NOW, **_LIMITS) == stamp


@pytest.mark.parametrize("stamp, code", [(_NOW - 101, "stamp_old"), (_NOW + 11, "stamp_future"), (1, "stamp_old")])
def test_stamps_outside_are_refused(stamp, code):
    with pytest.raises(InputError) as caught:
        checked_stamp(stamp, _NOW, **_LIMITS)
    assert caught.value.code == code


def test_a_zero_stamp_becomes_the_time_of_receipt():
    assert checked_stamp(0, _NOW, **_LIMITS) == _NOW


def test_a_zero_stamp_that_waited_too_long_is_old():
    assert checked_stamp(0, _NOW, waited_ns=60, **_LIMITS) == _NOW - 60
    with pytest.raises(InputError) as caught:
        checked_stamp(0, _NOW, waited_ns=101, **_LIMITS)
    assert caught.value.code == "stamp_old"
