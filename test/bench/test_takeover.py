# SPDX-License-Identifier: Apache-2.0
"""Takeover beside takeover: real episodes, few and short of figures."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from vla_ros import evaluate
from vla_ros.bench import command
from vla_ros.smoothness import Smoothness

pytest.importorskip("mujoco")


def test_jerk_after_a_takeover_is_told_from_jerk_inside():
    smooth, chunk, period_s = Smoothness(np.array([100.0]), 0.02), object(), 0.02
    for step in range(10):
        jerk = 50.0 if step < 3 else 10.0  # rough just after the takeover
        smooth.add(smooth._last_J + jerk * period_s, chunk)
    assert smooth.rms(boundary=True) == pytest.approx(0.5) and smooth.rms(boundary=False) == pytest.approx(0.1)


def test_nothing_followed_has_no_jerk():
    smooth = Smoothness(np.array([100.0]), 0.02)
    smooth.add(np.array([1.0]), None)
    assert smooth.rms(boundary=True) == smooth.rms(boundary=False) == 0.0


def test_each_way_and_delay_has_its_figures(still_bundle, monkeypatch):
    monkeypatch.setattr(evaluate, "EPISODE_LIMIT_S", 1.0)
    options = command.parse(["takeover", "--model", str(still_bundle), "--episodes", "1", "--delays", "100"])
    report = command.measure("takeover", options, Console(file=io.StringIO()))
    ways = {row["takeover"] for row in report["takeover_success"]}
    assert ways == {"prefix", "ensemble", "replace"} and len(report["notes"]) == 3
    assert {row["name"] for row in report["results"]} == {
        f"{way}, 100 ms: {part}" for way in ways for part in ("inside chunks", "at seams")
    }
    assert all(0.0 <= row["max"] <= 1.0 for row in report["results"])  # no command leaves the jerk limit


@pytest.mark.parametrize("text", ["a", "-1", "0,20000"])
def test_impossible_delays_are_wrong_use(text, capsys):
    with pytest.raises(SystemExit) as stop:
        command.parse(["takeover", "--delays", text])
    assert stop.value.code == 2
