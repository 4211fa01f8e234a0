# SPDX-License-Identifier: Apache-2.0
"""The filter's benchmark: real motions are recorded, replayed with stops, and pressed into the table."""

from __future__ import annotations

import argparse

import numpy as np
import pytest
from rich.console import Console

from vla_ros.bench import filter as bench


@pytest.fixture(scope="module")
def motions():
    pytest.importorskip("mujoco")
    return bench.record_motions(1)


def test_the_experts_motions_really_move(motions):
    waypoints = np.vstack([chunk.joint_positions_HJ for _, chunk in motions[0].chunks])
    assert np.ptp(waypoints, axis=0).max() > 0.2 and motions[0].seconds > 3.0
    assert motions[0].chunks[0][0] == 0


def test_every_period_is_timed_and_pressing_meets_refusals(motions, monkeypatch):
    pytest.importorskip("rclpy")
    monkeypatch.setattr(bench, "record_motions", lambda *_: motions)
    report = bench.bench_filter(argparse.Namespace(), Console(quiet=True))
    periods = round(motions[0].seconds / 0.02)
    assert [row["n"] for row in report["results"]] == [periods] * 6
    assert {row["metric"] for row in report["results"]} == {"filter_time", "filter_cpu_time", "control_step_time"}
    by_name = {(row["name"], row["metric"]): row for row in report["results"]}
    for name in {row["name"] for row in report["results"]}:
        assert 0.0 < by_name[name, "filter_cpu_time"]["p50"] <= by_name[name, "control_step_time"]["p99"]
    free, pressed = report["notes"]
    assert "0 times" in free and "for a collision" in pressed and not pressed.endswith("0 for a collision")
