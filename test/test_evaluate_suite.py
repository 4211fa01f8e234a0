# SPDX-License-Identifier: Apache-2.0
"""``vla evaluate --suite``: seeds, figures by task and by group, and the document; the experts through both ways of control."""

from __future__ import annotations

import json

import pytest

from vla_ros import evaluate, evaluate_suite
from vla_ros.closed_loop import EpisodeResult, EpisodeSpec
from vla_ros.core.errors import ConfigError
from vla_ros.sim.metaworld.tasks import TASKS


def _result(task: str, success: bool, seed: int = 0) -> EpisodeResult:
    return EpisodeResult(
        spec=EpisodeSpec(seed=seed, family=task), family=task, instruction="", success=success, reason="success" if success else "time limit",
        steps=100, seconds=1.25, inferences=10, inference_ms=5.0, rejected=0,
    )  # fmt: skip


@pytest.fixture
def report():
    options = evaluate_suite.parse(["expert"])
    results = [_result("reach-v3", True), _result("reach-v3", True), _result("push-v3", True), _result("push-v3", False), _result("stick-pull-v3", False)]
    return evaluate_suite.summarize(results, bundle=None, options=options)


def test_every_task_gets_its_episodes_with_seeds_below_those_of_training():
    specs = evaluate_suite.plan_suite(TASKS, 10, evaluate.MAX_SEED, "seen")
    assert len(specs) == 500 and {spec.family for spec in specs} == set(TASKS)
    assert max(spec.seed for spec in specs) < 10_000_000


def test_rates_are_by_task_by_group_and_the_mean_of_groups_as_published(report):
    assert report["success_rate"] == 0.6 and report["episodes"] == 5
    assert {group: row["success_rate"] for group, row in report["by_group"].items()} == {"easy": 1.0, "hard": 0.5, "very_hard": 0.0}
    assert report["mean_of_groups"] == 0.5 and report["by_task"]["push-v3"]["n"] == 2


def test_it_has_the_keys_of_vla_evaluate(report):
    for key in ("success_rate", "ci95", "episodes", "by_task", "by_group", "split", "mean_steps", "bundle_sha256"):
        assert key in report


def test_the_tables_go_between_the_marks_of_their_bundle(report, tmp_path):
    document = tmp_path / "metaworld.md"
    begin, end = evaluate_suite.marks("expert")
    document.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    evaluate_suite.fill(document, report)
    text = document.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "| **expert** | 100.0 |" in text and "| push-v3 | hard | 50 |" in text and "SmolVLA" in text
    document.write_text("no marks")
    with pytest.raises(ConfigError, match="no place for expert"):
        evaluate_suite.fill(document, report)


@pytest.mark.parametrize("published", evaluate_suite.PUBLISHED.values(), ids=evaluate_suite.PUBLISHED)
def test_published_means_are_those_of_their_groups(published):
    assert sum(published[:4]) / 4 == pytest.approx(published[4], abs=0.051)


@pytest.mark.parametrize("arguments", [["--episodes", "0"], ["--delay-ms", "5"], ["--seed", "10000"], ["--workers", "0"]])
def test_wrong_use_is_refused(arguments):
    with pytest.raises(SystemExit):
        evaluate.main(["expert", "--suite", "mt50", *arguments])


def test_a_bundle_for_another_robot_is_refused():
    with pytest.raises(ConfigError, match="metaworld_hand"):
        evaluate.main(["tabletop", "--suite", "mt50"])


@pytest.mark.parametrize("control", evaluate_suite.CONTROLS)
def test_an_expert_does_its_task_through_either_control(control, tmp_path):
    pytest.importorskip("metaworld")
    file = tmp_path / "report.json"
    arguments = ["expert", "--suite", "handle-press-v3", "--episodes", "1", "--workers", "1", "--control", control, "--json", str(file)]
    assert evaluate.main([*arguments, "--require", "1.0"]) == 0
    report = json.loads(file.read_text())
    assert report["mode"] == control and report["by_group"]["easy"]["n"] == 1 and report["mean_steps"] < 200
