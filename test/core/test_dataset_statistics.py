# SPDX-License-Identifier: Apache-2.0
"""OpenVLA's statistics file is read and written without a loss, and refused with its place where it is broken."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vla_ros.core.dataset_statistics import (
    DatasetStatistics,
    ValueStatistics,
    choose_statistics,
    quantile_mask,
    read_dataset_statistics,
    write_dataset_statistics,
)
from vla_ros.core.errors import ConfigError
from vla_ros.core.tabletop import ACTION_SPEC

VALUES = {"mean": [0.1, 0.5], "std": [0.2, 0.5], "max": [1.0, 1.0], "min": [-1.0, 0.0], "q01": [-0.9, 0.0], "q99": [0.8, 1.0]}
FILE = {
    "bridge_orig": {"action": {**VALUES, "mask": [True, False]}, "proprio": VALUES, "num_transitions": 2135463, "num_trajectories": 60064},
    "ours": {"action": VALUES, "num_transitions": 10, "num_trajectories": 1},
}


def write(tmp_path, data):
    path = tmp_path / "dataset_statistics.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return path


def test_a_file_is_written_as_it_was_read(tmp_path):
    statistics = read_dataset_statistics(write(tmp_path, FILE))
    again = tmp_path / "again.json"
    write_dataset_statistics(again, statistics)
    assert json.loads(again.read_text(encoding="utf-8")) == FILE
    assert read_dataset_statistics(again) == statistics


def test_without_a_mask_all_dimensions_are_scaled(tmp_path):
    statistics = read_dataset_statistics(write(tmp_path, FILE))
    assert statistics["ours"].action.scaled_D.tolist() == [True, True]
    assert statistics["bridge_orig"].action.scaled_D.tolist() == [True, False]


@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 50), st.integers(1, 4)), elements=st.floats(-1e6, 1e6)))
def test_statistics_of_samples_survive_the_file_to_the_last_bit(values_ND):
    stats = ValueStatistics.of(values_ND)
    assert ValueStatistics.from_dict(json.loads(json.dumps(stats.to_dict())), "test") == stats
    assert (np.array(stats.min) <= np.array(stats.q01)).all() and (np.array(stats.q99) <= np.array(stats.max)).all()


def test_quantiles_are_those_of_the_samples():
    stats = ValueStatistics.of(np.arange(101.0)[:, None] * [1.0, -2.0])
    assert stats.q01 == (1.0, -198.0) and stats.q99 == (99.0, -2.0) and stats.mean == (50.0, -100.0)


def test_the_flag_that_terminates_is_left_alone():
    assert quantile_mask(ACTION_SPEC) == (False, True, True, True, True, True)


def test_one_data_set_needs_no_name_several_do(tmp_path):
    statistics = read_dataset_statistics(write(tmp_path, FILE))
    assert choose_statistics(statistics, "ours") is statistics["ours"]
    assert choose_statistics({"ours": statistics["ours"]}) is statistics["ours"]
    for name in (None, "theirs"):
        with pytest.raises(ConfigError, match=r"\['bridge_orig', 'ours'\]"):
            choose_statistics(statistics, name)


def changed(**action):
    return {"ours": {**FILE["ours"], "action": {**VALUES, **action}}}


@pytest.mark.parametrize(
    "data, message",
    [
        ("{", "JSON"),
        ([1], "expected a mapping"),
        ({"ours": {"action": VALUES}}, "'num_transitions' is missing"),
        ({"ours": {"num_transitions": 1, "num_trajectories": 1}}, "'action' is missing"),
        (changed(masks=[True, False]), "unknown keys \\['masks'\\]"),
        (changed(mask=[1, 0]), "true and false"),
        (changed(mask=[True]), "lengths"),
        (changed(q01=[0.0]), "lengths"),
        (changed(q01=["a", 0.0]), "list of numbers"),
        (changed(q01=[float("nan"), 0.0]), "finite"),
        (changed(q01=[0.9, 0.0]), "q01 <= q99"),
        (changed(min=[2.0, 0.0]), "min <= max"),
    ],
)
def test_a_broken_file_is_refused_with_its_place(tmp_path, data, message):
    path = write(tmp_path, data)
    with pytest.raises(ConfigError, match=message) as caught:
        read_dataset_statistics(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="dataset_statistics.json"):
        read_dataset_statistics(tmp_path / "nothing.json")


@pytest.mark.parametrize("values", [np.zeros((0, 2)), np.zeros(3), np.array([[0.0, np.nan]])])
def test_samples_without_statistics_are_refused(values):
    with pytest.raises(ConfigError):
        ValueStatistics.of(values)


def test_counts_are_kept():
    entry = DatasetStatistics.from_dict(FILE["bridge_orig"], "test")
    assert (entry.num_transitions, entry.num_trajectories) == (2135463, 60064)
