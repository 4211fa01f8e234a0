# SPDX-License-Identifier: Apache-2.0
"""A worker that dies again and again is started less and less often."""

from __future__ import annotations

from vla_ros.ros.restarts import MAX_SILENT_LIVES, RestartPolicy


def test_the_first_death_is_mended_at_once_and_later_ones_more_and_more_slowly():
    policy = RestartPolicy()
    delays = [policy.delay_s(2.0, True) for _ in range(12)]
    assert delays[:5] == [0.0, 0.5, 1.0, 2.0, 4.0]
    assert delays == sorted(delays) and delays[-1] == 30.0


def test_a_long_life_makes_up_for_short_ones():
    policy = RestartPolicy()
    for _ in range(6):
        policy.delay_s(2.0, True)
    assert policy.delay_s(3600.0, True) == 0.0


def test_lives_without_an_answer_end_in_giving_up():
    policy = RestartPolicy()
    delays = [policy.delay_s(1.0, False) for _ in range(MAX_SILENT_LIVES + 1)]
    assert None not in delays[:-1] and delays[-1] is None


def test_one_answer_between_them_does_not_bring_full_speed_back():
    policy = RestartPolicy()
    for _ in range(4):
        assert policy.delay_s(1.0, False) is not None
    assert policy.delay_s(1.0, True) == 4.0
