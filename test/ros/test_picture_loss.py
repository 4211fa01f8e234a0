# SPDX-License-Identifier: Apache-2.0
"""A camera that loses pictures is told from one whose reader looks away, and from one that changes its rate."""

from __future__ import annotations

import random

import pytest

from vla_ros.ros.picture_loss import PictureLoss

MS = 1_000_000


def watch(loss, arrive, *, pictures=200, period_ms=33.3, look_ms=2.0, start_ms=1000.0, jitter_ms=0.0):
    """Looks all the time while pictures come, those for which ``arrive(n)`` says so. Returns how many were found lost."""
    random_number = random.Random(0)
    lost, now_ms = 0, start_ms
    for n in range(1, pictures + 1):
        due_ms = start_ms + n * period_ms
        while now_ms < due_ms:
            now_ms += look_ms
            loss.looked(round(now_ms * MS))
        if arrive(n):
            lost += loss.arrived(round((due_ms + random_number.uniform(-jitter_ms, jitter_ms)) * MS))
    return lost


def test_a_steady_camera_loses_nothing():
    loss = PictureLoss()
    assert watch(loss, lambda n: True, jitter_ms=6.0) == 0
    assert not loss.is_losing and loss.share == 0.0 and loss.period_ns == pytest.approx(33.3 * MS, rel=0.25)


@pytest.mark.parametrize("kept", [0.9, 0.6, 0.4])
def test_lost_pictures_are_counted_and_said(kept):
    loss, random_number = PictureLoss(), random.Random(1)
    arrives = [random_number.random() < kept for _ in range(400)]
    lost = watch(loss, lambda n: arrives[n - 1], pictures=400, jitter_ms=4.0)
    assert loss.is_losing and loss.share == pytest.approx(1 - kept, abs=0.15)
    assert lost == pytest.approx(arrives.count(False), rel=0.2)


def test_a_camera_that_recovers_is_not_said_to_lose_any_more():
    loss = PictureLoss()
    watch(loss, lambda n: n % 3 != 0)
    assert loss.is_losing
    watch(loss, lambda n: True, start_ms=9000.0)
    assert not loss.is_losing


def test_a_reader_that_looks_away_misses_pictures_without_a_loss():
    loss = PictureLoss()
    watch(loss, lambda n: True)
    assert watch(loss, lambda n: n % 4 == 0, look_ms=130.0, start_ms=9000.0) == 0  # as during slow inferences
    assert not loss.is_losing


def test_one_lost_picture_in_a_hundred_is_counted_and_not_said():
    loss = PictureLoss()
    assert watch(loss, lambda n: n != 100) == 1
    assert not loss.is_losing


def test_a_camera_that_turns_slower_is_understood_after_some_pictures():
    loss = PictureLoss()
    watch(loss, lambda n: True)
    watch(loss, lambda n: True, period_ms=66.6, start_ms=9000.0)
    assert not loss.is_losing and loss.period_ns == pytest.approx(66.6 * MS, rel=0.1)


def test_stamps_that_tell_nothing_are_passed_over():
    loss = PictureLoss()
    for stamp in (0, 0, 5, 5, 3, 0, 7):
        loss.looked(stamp)
        assert loss.arrived(stamp) == 0
    assert not loss.is_losing and loss.period_ns == 0
