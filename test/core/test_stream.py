# SPDX-License-Identifier: Apache-2.0
"""A stream of commands ends at rest and pauses before it begins elsewhere."""

from __future__ import annotations

from vla_ros.core.stream import PAUSE_TICKS, CommandStream


def sent(stream, ticks, **facts):
    """Which of the next periods send their command."""
    found = []
    for _ in range(ticks):
        stream.pauses()
        found.append(stream.sends(**{"is_silenced": False, "is_inactive": False, "is_at_rest": True, **facts}))
    return found


def test_nothing_is_sent_before_the_first_activation():
    assert sent(CommandStream(), 3, is_inactive=True) == [False] * 3


def test_after_deactivation_the_first_command_at_rest_is_the_last():
    stream = CommandStream()
    sent(stream, 5)
    assert sent(stream, 2, is_inactive=True, is_at_rest=False) == [True, True]
    assert sent(stream, 3, is_inactive=True) == [True, False, False]


def test_a_stream_that_begins_elsewhere_pauses_at_once_and_goes_on():
    stream = CommandStream()
    sent(stream, 5)
    stream.begin(elsewhere=True)
    assert sent(stream, PAUSE_TICKS + 2) == [False] * (PAUSE_TICKS - 1) + [True] * 3


def test_silence_before_counts_and_a_stream_that_goes_on_where_it_was_needs_no_pause():
    stream = CommandStream()
    sent(stream, 5)
    sent(stream, PAUSE_TICKS, is_silenced=True)
    stream.begin(elsewhere=True)
    assert all(sent(stream, 3))
    stream.begin(elsewhere=False)
    assert all(sent(stream, 3))
