# SPDX-License-Identifier: Apache-2.0
"""The command line: which subjects run, what is refused, what is written, and the exit code."""

from __future__ import annotations

import json

import pytest
from rich.console import Console

from vla_ros.bench import command, markdown
from vla_ros.bench.rounds import entry
from vla_ros.core.errors import ConfigError


@pytest.mark.parametrize("subject", [*command.SUBJECTS, "all"])
def test_every_subject_is_a_choice(subject):
    assert command.parse([subject]).what == subject


def test_every_subject_has_its_function():
    pytest.importorskip("onnx")
    pytest.importorskip("torch")
    for subject in command.SUBJECTS:
        assert callable(command.function_of(subject))


def test_defaults_are_those_of_the_help():
    options = command.parse([])
    assert options.what == "all" and options.rate == (50, 100, 200) and options.cycles == 10_000
    assert options.conditions == ("idle", "load", "flood") and options.scheduler == ("fifo", "normal")


def test_lists_are_read():
    options = command.parse(["control", "--rate", "100", "--conditions", "load,flood", "--scheduler", "normal", "--axes", "image,model"])
    assert options.rate == (100,) and options.conditions == ("load", "flood")
    assert options.scheduler == ("normal",) and options.axes == ("image", "model")


WRONG = ["fly", "--rounds=0", "--cycles=0", "--rate=0", "--rate=fast", "--conditions=storm", "--scheduler=rr", "--axes=colour", "--provider=abacus", "--pictures=0"]


@pytest.mark.parametrize("word", WRONG)
def test_wrong_use_ends_with_2(word, capsys):
    with pytest.raises(SystemExit) as stop:
        command.parse([word])
    assert stop.value.code == 2 and capsys.readouterr().err


@pytest.fixture
def subject(monkeypatch):
    """Registers one subject that gives these results."""

    def register(results):
        found = {"results": results, "notes": ["quiet"], "rmw": "none"}
        monkeypatch.setattr(command, "function_of", lambda subject: lambda options, console: dict(found))

    return register


def test_figures_are_written_and_drawn(subject, tmp_path, capsys):
    subject([entry("a", "latency", "ms", [1.0, 2.0])])
    paths = [tmp_path / "out.json", tmp_path / "out.svg"]
    assert command.main(["control", "--json", str(paths[0]), "--plot", str(paths[1])]) == 0
    report = json.loads(paths[0].read_text())
    assert set(report) == {"results", "notes", "dates", "settings", "machine", "control_rmw"}
    assert report["settings"]["cycles"] == 10_000 and report["machine"]["kernel"] and len(report["dates"]) == 1
    assert report["notes"] == [{"subject": "control", "text": "quiet"}] and report["results"][0]["subject"] == "control"
    assert paths[1].read_text().startswith("<svg") and "latency" in capsys.readouterr().out


def test_a_record_is_made_in_parts(subject, tmp_path, capsys):
    path, page = tmp_path / "out.json", tmp_path / "page.md"
    page.write_text("\n".join(line for name in ("control", "filter") for line in markdown.marks(name)))
    for what, names, value in (("control", "ab", 1.0), ("control", "bc", 2.0), ("filter", "b", 3.0)):
        subject([entry(name, "latency", "ms", [value]) for name in names])
        assert command.main([what, "--json", str(path), "--append", "--fill", str(page)]) == 0
    rows = [(row["subject"], row["name"], row["p50"]) for row in json.loads(path.read_text())["results"]]
    assert rows == [("control", "a", 1.0), ("control", "b", 2.0), ("control", "c", 2.0), ("filter", "b", 3.0)]
    control, tables = page.read_text().split(markdown.marks("control")[1])
    assert "| a | 1 |" in control and "| b | 2 |" in control and control.count("- quiet") == 1
    assert "| b | 3 |" in tables and "| a |" not in tables


def test_a_record_of_another_machine_is_kept_from(subject, tmp_path):
    path = tmp_path / "out.json"
    subject([entry("a", "latency", "ms", [1.0])])
    command.main(["control", "--json", str(path)])
    report = json.loads(path.read_text())
    for text, words in (
        (json.dumps({**report, "machine": {**report["machine"], "kernel": "1.0"}}), "another kernel"),
        (json.dumps([1]), "no report"),
        ("{", "cannot go on"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=words):
            command.main(["control", "--json", str(path), "--append"])
        assert path.read_text() == text
    with pytest.raises(SystemExit):
        command.parse(["control", "--append"])


def test_all_leaves_out_what_is_not_installed(monkeypatch, capsys):
    def missing(options, console):
        raise ModuleNotFoundError("No module named 'rclpy'", name="rclpy")

    def measured(options, console):
        return {"results": [entry("a", "latency", "ms", [1.0])]}

    monkeypatch.setattr(command, "function_of", lambda subject: missing if subject == "control" else measured)
    assert command.main(["all"]) == 0
    assert "control left out: rclpy is not installed" in capsys.readouterr().out
    with pytest.raises(ModuleNotFoundError):
        command.main(["control"])


@pytest.mark.parametrize("words, code", [(["control"], 0), (["control", "--check"], 1)])
def test_check_fails_over_a_limit(subject, words, code, capsys):
    subject([entry("a", "latency", "ms", [1.0, 2.0], limit={"p50": 1.5, "max": 1.5})])
    assert command.main(words) == code
    subject([entry("a", "latency", "ms", [1.0, 2.0], limit={"p50": 2.0, "max": 2.0})])
    assert command.main([*words]) == 0


def test_the_table_holds_ratio_and_limit():
    console = Console(width=160, record=True, quiet=False, file=open("/dev/null", "w"))
    rows = [entry("ours", "latency", "ms", [1.0], ratio=2.5, baseline="theirs", limit={"p99": 3.0})]
    command.show({"results": rows, "notes": [{"subject": "control", "text": "that is all"}]}, console)
    text = console.export_text()
    assert "2.50" in text and "p99 3" in text and "note: that is all" in text
