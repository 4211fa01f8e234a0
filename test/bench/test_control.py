# SPDX-License-Identifier: Apache-2.0
"""Figures of control periods from rows that were made by hand, and from the real node."""

from __future__ import annotations

import json

import numpy as np
import pytest

from vla_ros.bench import command, control, end_to_end
from vla_ros.core.errors import VlaError

ROW = [("woke_ns", "<i8"), ("lateness_ns", "<i8"), ("step_ns", "<i8"), ("missed", "<i8"), ("age_ns", "<i8"), ("first_ns", "<i8"), ("inference_ns", "<i8")]
MS = 1_000_000
METRICS = {"wake_up_error", "period_error", "execution_time", "missed_periods", "observation_to_action_age"}


def rows(lateness_us=(0, 100, 200), period_ms=10, missed=0, age_ms=0, first_ms=0):
    """Periods of 10 ms, three if nothing else is said."""
    made = np.zeros(len(lateness_us), ROW)
    made["lateness_ns"] = np.array(lateness_us) * 1000
    made["woke_ns"] = np.arange(len(made)) * period_ms * MS + made["lateness_ns"]
    made["step_ns"], made["missed"], made["inference_ns"] = MS // 2, missed, 20 * MS
    made["age_ns"], made["first_ns"] = np.array(age_ms) * MS, np.array(first_ms) * MS
    return made


def test_period_errors_are_distances_from_the_period():
    assert control.period_errors_s(rows(), 100) == pytest.approx([1e-4, 1e-4])
    assert control.period_errors_s(rows(lateness_us=(0, -50)), 100) == pytest.approx([5e-5])
    assert control.period_errors_s(rows()[:1], 100) == [0.0]


def test_missed_periods_are_those_of_the_record():
    assert control.missed_periods(rows(missed=(5, 5, 8))) == 3


def test_every_figure_of_a_condition_is_an_entry():
    parts = {"idle": [rows()], "load": [rows(age_ms=(0, 30, 40)), rows(lateness_us=(10, 20, 30), missed=(2, 2, 3), age_ms=(50, 60, 70))]}
    results = control.entries_of(parts, "100 Hz, SCHED_FIFO", 100, "fifo")
    load = {row["metric"]: row for row in results if row.get("condition") == "load"}
    assert set(load) == METRICS and {row["metric"] for row in results if row.get("condition") == "idle"} == METRICS - {"observation_to_action_age"}
    assert load["wake_up_error"]["n"] == 6 and load["wake_up_error"]["max"] == 200.0
    assert load["execution_time"]["p50"] == 500.0
    assert load["missed_periods"]["max"] == 1 and load["wake_up_error"]["missed_periods"] == 1
    assert load["observation_to_action_age"]["n"] == 5  # zero means: no action in that period
    assert load["wake_up_error"]["limit"] == control.LIMITS_FIFO
    assert load["period_error"]["n"] == 4  # not across the parts


def test_the_flood_is_compared_with_the_load():
    parts = {"load": [rows(lateness_us=(100, 100))], "flood": [rows(lateness_us=(120, 120))]}
    (ratio,) = [row for row in control.entries_of(parts, "100 Hz", 100, "fifo") if row["metric"] == "flood_over_load_p99"]
    assert ratio["p50"] == pytest.approx(1.2) and command.over_limit(ratio)
    assert not [row for row in control.entries_of({"load": parts["load"]}, "100 Hz", 100, "fifo") if row["metric"] == "flood_over_load_p99"]


def test_the_limit_of_the_way_from_the_camera_holds_one_inference():
    camera, inference = end_to_end.entries_of(rows(first_ms=(0, 50, 0)), "100 Hz")
    assert inference["p50"] == 20.0 and camera["n"] == 1 and camera["p50"] == 50.0
    assert camera["limit"]["p50"] == pytest.approx(1000 / 30 + 20 + 5, abs=0.01)
    with pytest.raises(VlaError, match="cycles"):
        end_to_end.entries_of(rows(), "100 Hz")


def test_the_control_step_steps():
    pytest.importorskip("ruckig")
    step = control.control_step()
    assert np.isfinite([step().positions_J for _ in range(20)]).all()


@pytest.mark.ros
@pytest.mark.slow
def test_the_real_node_is_recorded_in_every_condition(still_bundle, tmp_path):
    pytest.importorskip("rclpy")
    path = tmp_path / "bench.json"
    words = ["--model", str(still_bundle), "--cycles", "40", "--segments", "2", "--rate", "50", "--scheduler", "normal", "--json", str(path)]
    assert command.main(["control", *words]) == 0
    report = json.loads(path.read_text())
    recorded = {(row["condition"], row["metric"]): row["n"] for row in report["results"] if row["metric"] == "wake_up_error"}
    assert recorded == {(condition, "wake_up_error"): 40 for condition in command.CONDITIONS}
    assert report["control_rmw"].startswith("rmw_")
    ages = [row for row in report["results"] if row["metric"] == "observation_to_action_age" and row["condition"] == "load"]
    assert ages and ages[0]["p50"] > 0.0


@pytest.mark.ros
@pytest.mark.slow
def test_the_real_node_is_measured_from_the_camera_on(still_bundle, tmp_path):
    pytest.importorskip("rclpy")
    path = tmp_path / "bench.json"
    words = ["--model", str(still_bundle), "--cycles", "100", "--segments", "1", "--rate", "50", "--scheduler", "normal", "--json", str(path)]
    assert command.main(["end-to-end", *words]) == 0
    metrics = {row["metric"]: row for row in json.loads(path.read_text())["results"]}
    assert set(metrics) == {"camera_stamp_to_action", "inference_in_the_worker"}
    assert metrics["camera_stamp_to_action"]["p50"] > metrics["inference_in_the_worker"]["p50"]
