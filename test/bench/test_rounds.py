# SPDX-License-Identifier: Apache-2.0
"""Stable keys, fair turns, honest ratios. Nothing asserts how fast this machine is."""

from __future__ import annotations

import time

import numpy as np
import pytest

from vla_ros.bench import rounds

KEYS = {"name", "metric", "unit", "p50", "p99", "p999", "max", "n"}


def test_every_variant_is_called_once_a_round_and_in_changing_order():
    calls: list[str] = []
    variants = [(name, lambda name=name: calls.append(name)) for name in "abc"]
    seconds = rounds.interleave(variants, 20)
    turns = [tuple(calls[i : i + 3]) for i in range(0, len(calls), 3)]
    assert all(sorted(turn) == ["a", "b", "c"] for turn in turns) and len(set(turns)) > 1
    assert len(turns) == 20 + rounds.WARM_UP_ROUNDS
    assert {len(values) for values in seconds.values()} == {20}


def test_a_long_turn_tells_the_first_call_from_the_last():
    calls: list[float] = []

    def slow_at_first() -> None:
        pause_s = 0.03 if not calls or time.perf_counter() - calls[-1] > 0.02 else 0.001
        time.sleep(pause_s)
        calls.append(time.perf_counter())

    timings = rounds.time_rounds([("a", slow_at_first)], 4, rest_s=0.05, turn_s=0.05)
    assert min(timings.first["a"]) >= 0.03 > 0.02 > np.median(timings.wall["a"])
    assert len(timings.first["a"]) == len(timings.wall["a"]) == 4 and len(calls) > 2 * (4 + rounds.WARM_UP_ROUNDS)


def test_the_processor_time_of_a_call_holds_what_goes_on_after_it():
    def compute() -> None:
        until = time.process_time() + 0.02
        while time.process_time() < until:
            pass

    timings = rounds.time_rounds([("computes", compute), ("sleeps", lambda: time.sleep(0.02))], 3, rest_s=0.001)
    assert min(timings.cpu["computes"]) >= 0.02 > max(timings.cpu["sleeps"])
    assert min(timings.wall["sleeps"]) >= 0.02


def test_an_entry_has_the_percentiles_that_numpy_finds():
    values = np.random.default_rng(0).lognormal(size=5000)
    row = rounds.entry("a", "latency", "ms", values, limit={"p99": 3.0})
    assert set(row) == KEYS | {"limit"} and row["n"] == 5000
    for key, q in (("p50", 50), ("p99", 99), ("p999", 99.9), ("max", 100)):
        assert row[key] == pytest.approx(float(np.percentile(values, q, method="higher")), abs=1e-4)


def test_a_ratio_of_two_means_twice_as_fast():
    base, ours = rounds.as_results({"base": [0.2] * 3, "ours": [0.1] * 3}, metric="latency", unit="ms", baseline="base")
    assert set(base) == KEYS and set(ours) == KEYS | {"baseline", "ratio"}
    assert ours["ratio"] == 2.0 and ours["baseline"] == "base" and base["p50"] == 200.0


def test_without_its_baseline_an_entry_has_no_ratio():
    (ours,) = rounds.as_results({"ours": [0.1]}, metric="latency", unit="ms", baseline="base")
    assert set(ours) == KEYS
