# SPDX-License-Identifier: Apache-2.0
"""``vla import`` and its interface file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from vla_ros import cli, inspect_bundle
from vla_ros.core.errors import ConfigError
from vla_ros.importers import command
from vla_ros.importers.interface import Interface
from vla_ros.runtime.bundle import load_bundle

GUIDE = (Path(__file__).parents[2] / "docs" / "own_model.md").read_text(encoding="utf-8")


def test_act_becomes_a_bundle_that_inspect_shows(tmp_path, capsys):
    from act_reference import make_checkpoint, make_model
    from test_act import interface_data

    folder = make_checkpoint(tmp_path / "checkpoint", make_model())
    (tmp_path / "robot.yaml").write_text(yaml.safe_dump(interface_data()))
    report = tmp_path / "report.json"
    arguments = [
        "import",
        "lerobot-act",
        str(folder),
        "--out",
        str(tmp_path / "bundle"),
        "--interface",
        str(tmp_path / "robot.yaml"),
        "--json",
        str(report),
    ]
    assert cli.main(arguments) == 0
    facts = json.loads(report.read_text())
    assert facts["sha256"] == load_bundle(tmp_path / "bundle").sha256 and facts["output"] == "continuous" and len(facts["action"]) == 7
    assert inspect_bundle.main([str(tmp_path / "bundle")]) == 0
    shown = capsys.readouterr().out
    assert "it reads no text" in shown and "continuous actions" in shown


def test_a_users_mistake_is_one_line_and_exit_code_2(tmp_path, capsys):
    assert cli.main(["import", "openvla", str(tmp_path / "nothing"), "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert "config.json cannot be read" in told and "Traceback" not in told
    assert cli.main(["import", "gr00t", str(tmp_path), "--out", "x"]) == 2
    assert cli.main(["import", "lerobot-act", str(tmp_path), "--out", "x"]) == 2  # without --interface


def test_help_names_every_option(capsys):
    for name in ("openvla", "lerobot-act"):
        with pytest.raises(SystemExit) as stop:
            command.parse([name, "--help"])
        assert stop.value.code == 0
        for option in re.findall(r"--[a-z-]+", capsys.readouterr().out):
            assert option in GUIDE or option == "--help", f"docs/own_model.md does not tell of {option}"


def test_the_guides_interfaces_can_be_read():
    examples = re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)
    assert len(examples) >= 2
    for text in examples:
        interface = Interface.from_dict(yaml.safe_load(text))
        assert interface.dims and interface.cameras


@pytest.mark.parametrize(
    "text, words",
    [
        ("robot: x\n", "'dt_s' is missing"),
        ("[1, 2]", "expected a mapping"),
        ("a: [", "no valid YAML"),
        (
            "robot: x\ndt_s: 0.1\ncameras: [{name: front, height: 8, width: 8}]\ndims: [{name: x, kind: fly, unit: m, relative: true}]\n",
            "'kind' must be one of",
        ),
    ],
)
def test_an_interface_that_cannot_be_read_is_refused(tmp_path, text, words):
    path = tmp_path / "robot.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        Interface.load(path)
    with pytest.raises(ConfigError, match="own_model.md"):
        Interface.load(tmp_path / "absent.yaml")
