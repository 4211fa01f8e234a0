# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_ros import cli
from vla_ros.core.errors import ConfigError
from vla_ros.figures import Z_95
from vla_ros.forgetting import compare, paired_interval, read


def report(path, successes, **changes):
    families = ("reach", "push")
    outcomes = [
        {"spec": {"seed": i, "family": families[i % 2], "split": "seen", "other_task": False, "variation": "none"}, "family": families[i % 2], "success": bool(s)}
        for i, s in enumerate(successes)
    ]
    settings = {"delay_ms": 120.0, "takeover": "prefix", "limit_s": 25.0, "simulator": "mujoco", "mode": "in_process", "bundle_sha256": path.stem}
    path.write_text(json.dumps({**settings, "outcomes": outcomes, **changes}), encoding="utf-8")
    return path


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 200))
def test_the_interval_is_that_of_the_mean_of_paired_differences(lost, won, same):
    """Wald's from the differences themselves, with half a trial of each kind added (Agresti and Min 2005)."""
    differences = np.repeat([1.0, -1.0, 0.0], [2 * lost + 1, 2 * won + 1, 2 * same + 2])  # each counted twice, so that a half is one
    n = lost + won + same + 2
    mean, deviation = differences.mean(), differences.std()
    low, high = paired_interval(lost, won, lost + won + same)
    assert (low, high) == pytest.approx((mean - Z_95 * deviation / np.sqrt(n), mean + Z_95 * deviation / np.sqrt(n)), abs=1e-9)


def test_each_episode_is_compared_with_itself(tmp_path):
    before, after = report(tmp_path / "a.json", [1, 1, 1, 1, 0, 0, 1, 1, 1, 1]), report(tmp_path / "b.json", [1, 0, 1, 0, 1, 0, 1, 1, 1, 1])
    found = compare(read(before), read(after))
    assert (found["before"]["success_rate"], found["after"]["success_rate"], found["lost"]) == (0.8, 0.7, 0.1)
    assert found["by_task"]["push"]["lost"] == 0.4 and found["by_task"]["reach"]["lost"] == -0.2
    assert found["bundles"] == ["a", "b"]


def test_the_command_fails_where_too_much_is_lost(tmp_path, capsys):
    before, after = report(tmp_path / "a.json", [1] * 10), report(tmp_path / "b.json", [1] * 9 + [0])
    words = ["forgetting", "--old", str(before), str(after), "--json", str(tmp_path / "f.json")]
    assert cli.main(words) == 1
    assert cli.main([*words, "--allowed", "0.1", "--new", str(after), str(before)]) == 0
    assert json.loads((tmp_path / "f.json").read_text())["new"]["lost"] == -0.1
    assert "old, all" in capsys.readouterr().out


@pytest.mark.parametrize(("changes", "message"), [({"delay_ms": 60.0}, "was played with delay_ms 120.0"), ({"outcomes": []}, "no report of vla evaluate")])
def test_what_cannot_be_compared_is_refused(tmp_path, changes, message):
    before, after = report(tmp_path / "a.json", [1, 1]), report(tmp_path / "b.json", [1, 1], **changes)
    with pytest.raises(ConfigError, match=message):
        compare(read(before), read(after))


def test_other_scenes_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="played other scenes"):
        compare(read(report(tmp_path / "a.json", [1, 1])), read(report(tmp_path / "b.json", [1, 1, 1])))
