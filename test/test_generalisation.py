# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pytest

from vla_ros import cli
from vla_ros.core.errors import ConfigError
from vla_ros.evaluate import FAMILIES
from vla_ros.figures import success_summary
from vla_ros.generalisation import BEGIN, CONDITIONS, END, fill, svg, table

pytest.importorskip("mujoco")


def row(successes: int, trials: int) -> dict:
    outcomes = [index < successes for index in range(trials)]
    summary = success_summary(outcomes)
    return {"idea": "an idea", "episodes": trials, "by_task": {family: success_summary(outcomes[i::5]) for i, family in enumerate(FAMILIES)}, **summary}


def test_the_table_has_rate_interval_and_difference():
    lines = table({"seen": row(19, 20), "light": row(16, 20)}).splitlines()
    assert len(lines) == 4 and len({line.count("|") for line in lines}) == 1
    assert "| 95.0% | 76.4% to 99.1% | – |" in lines[2]  # R: binom::binom.wilson(19, 20)
    assert "| 80.0% | 58.4% to 91.9% | -15.0 |" in lines[3]


def test_the_figure_has_a_dot_and_an_interval_for_each_condition():
    rows = {condition.name: row(10 + index, 20) for index, condition in enumerate(CONDITIONS)}
    root = ET.fromstring(svg(rows))
    space = "{http://www.w3.org/2000/svg}"
    dots = [float(dot.get("cx")) for dot in root.iter(f"{space}circle")]
    bars = [line for line in root.iter(f"{space}line") if line.get("stroke-width") == "2"]
    assert len(dots) == len(bars) == len(CONDITIONS) and dots == sorted(dots)
    assert all(float(bar.get("x1")) < dot < float(bar.get("x2")) for bar, dot in zip(bars, dots))


def test_a_document_without_marks_is_refused(tmp_path):
    (tmp_path / "doc.md").write_text("nothing", encoding="utf-8")
    with pytest.raises(ConfigError, match="needs the lines <!-- generalisation: begin -->"):
        fill(tmp_path / "doc.md", {"seen": row(1, 1)}, "vla generalisation x")


@pytest.mark.slow
def test_the_command_plays_each_condition_once_and_writes_table_and_figure(tmp_path, capsys):
    (tmp_path / "doc.md").write_text(f"above\n{BEGIN}\nold\n{END}\nbelow\n", encoding="utf-8")
    words = ["generalisation", "expert", "--episodes", "1", "--seed", "3", "--workers", "1", "--json", str(tmp_path / "g.json")]
    assert cli.main([*words, "--only", "positions"]) == 0
    played = json.loads((tmp_path / "g.json").read_text())
    played["conditions"]["positions"]["marked"] = True
    (tmp_path / "g.json").write_text(json.dumps(played))
    assert cli.main([*words, "--only", "seen", "positions", "--docs", str(tmp_path / "doc.md"), "--plot", str(tmp_path / "g.svg")]) == 0
    conditions = json.loads((tmp_path / "g.json").read_text())["conditions"]
    assert set(conditions) == {"seen", "positions"} and conditions["positions"]["marked"]
    assert conditions["positions"]["variation"] == "positions" and conditions["positions"]["success_rate"] == 1.0
    text = (tmp_path / "doc.md").read_text(encoding="utf-8")
    assert text.startswith("above\n") and text.endswith("below\n") and "old" not in text
    assert "vla generalisation expert --episodes 1" in text and "| positions |" in text and (tmp_path / "g.svg").is_file()
    assert cli.main([*words[:3], "2", *words[4:]]) == 2
    assert "is of another bundle, seed or number of episodes" in capsys.readouterr().err
