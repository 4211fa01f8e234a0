# SPDX-License-Identifier: Apache-2.0
"""A short soak. The long one: ``make soak``, an hour of random faults."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sys
from pathlib import Path

import pytest

from vla_ros.core import tabletop
from vla_ros.core.paths import robot_config_path
from vla_ros.robot import RobotDescription

_path = Path(__file__).parents[2] / "tools" / "soak.py"
if not _path.is_file():
    pytest.skip("the tools are not installed with the package", allow_module_level=True)
pytestmark = pytest.mark.ros


@pytest.fixture(scope="module")
def soak():
    pytest.importorskip("rclpy")
    spec = importlib.util.spec_from_file_location("soak_tool", _path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["soak_tool"] = module
    spec.loader.exec_module(module)
    return module


def report(**changes):
    """Of a soak in which all went well."""
    commands = {"messages": 9, "violations": 0, "by_kind": {}, "examples": [], "commanders": 1, "ended_at_rest": True}
    good = {"failure": None, "exit_code": 0, "tracebacks": 0, "raw_characters_in_log": [], "flights": 3, "growth": {}, "commands": commands}
    return {**good, **changes, "commands": {**commands, **changes.get("commands", {})}}


@pytest.mark.slow
def test_random_faults_are_survived_and_no_command_is_bad(soak, context, tiny_bundle, tmp_path):
    robot = RobotDescription.load(robot_config_path("tabletop_arm"))
    with contextlib.closing(soak.Soak(tiny_bundle, robot, tabletop.CAMERAS, seed=0, folder=tmp_path)) as running:
        found = running.run(10.0)
    assert not soak.failures(found), json.dumps({"failures": soak.failures(found), **found}, indent=1)
    assert sum(found["faults"].values()) == len(running.recoveries_s) - 1 >= 2
    assert len(running.samples["node"]) == len(running.samples["flight_recorder"]) == len(running.recoveries_s) - 1


def test_growth_compares_the_first_and_the_last_third_after_the_warm_up(soak):
    def samples(memory_mib):
        return [{"time_s": 10.0 * i, "memory_mib": value, "descriptors": 30, "threads": 18} for i, value in enumerate(memory_mib)]

    steady, leaking = soak.growth(samples([50] * 9 + [100] * 30)), soak.growth(samples([50] * 9 + list(range(100, 130))))
    assert steady == {"memory_mib": [100, 100], "descriptors": [30, 30], "threads": [18, 18]}
    assert leaking["memory_mib"] == [104.5, 124.5]
    assert soak.growth(samples([100] * 12)) == {}
    assert not soak.failures(report(growth={"node": steady}))
    assert soak.failures(report(growth={"node": leaking})) == ["memory_mib of the node grew from 104.5 to 124.5"]
    assert soak.failures(report(growth={"node": {"threads": [18, 20]}}))


@pytest.mark.parametrize(
    "changes",
    [{"failure": "not within 60 s"}, {"exit_code": -11}, {"tracebacks": 1}, {"raw_characters_in_log": ["U+202E"]}, {"flights": 21}, {"commands": {"messages": 0}}, {"commands": {"violations": 1, "by_kind": {"step": 1}, "examples": ["step"]}}, {"commands": {"ended_at_rest": False}}, {"commands": {"commanders": 2}}],
)
def test_each_failure_is_named(soak, changes):
    assert len(soak.failures(report(**changes))) == 1


def test_every_fault_of_a_row_names_one_of_the_table(soak):
    numbers = {int(name.split()[0]) for name in soak.FAULTS if name[0].isdigit()}
    assert numbers <= set(range(1, 64)) and len(numbers) > 15
