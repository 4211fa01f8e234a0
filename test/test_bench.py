# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: stable keys, fair turns, honest ratios. Nothing asserts how fast this machine is."""

from __future__ import annotations

import json

import pytest
from rich.console import Console

from vla_ros import bench

KEYS = {"name", "metric", "unit", "p50", "p99", "p999", "max", "n"}


def test_every_variant_is_called_once_a_round_and_in_changing_order():
    calls: list[str] = []
    variants = [(name, lambda name=name: calls.append(name)) for name in "abc"]
    seconds = bench.interleave(variants, 20, Console(quiet=True), "test")
    rounds = [tuple(calls[i : i + 3]) for i in range(0, len(calls), 3)]
    assert all(sorted(turn) == ["a", "b", "c"] for turn in rounds) and len(set(rounds)) > 1
    assert len(rounds) == 20 + bench.WARM_UP_ROUNDS
    assert {len(values) for values in seconds.values()} == {20}


def test_a_ratio_of_two_means_twice_as_fast():
    results = bench.as_results({"base": [0.2] * 3, "ours": [0.1] * 3}, metric="latency", unit="ms", baseline="base")
    base, ours = results
    assert set(base) == KEYS and set(ours) == KEYS | {"baseline", "ratio"}
    assert ours["ratio"] == 2.0 and ours["baseline"] == "base" and base["p50"] == 200.0


def test_period_errors_are_distances_from_the_period():
    period = bench.PERIOD_NS
    assert bench.period_errors([0, period, 2 * period + 1000, 3 * period]) == pytest.approx([0, 1e-6, 1e-6])


def test_the_command_writes_the_promised_keys(still_bundle, tmp_path):
    pytest.importorskip("onnxruntime")
    path = tmp_path / "bench.json"
    assert bench.main(["--model", str(still_bundle), "--rounds", "5", "--json", str(path)]) == 0
    report = json.loads(path.read_text())
    assert all(set(entry) >= KEYS for entry in report["results"])
    metrics = {entry["metric"] for entry in report["results"]}
    assert metrics == {"inference_latency", "control_step_time", "period_error"}
    assert any("ratio" in entry for entry in report["results"])
