# SPDX-License-Identifier: Apache-2.0
"""Parameters exist once: the dataclass, what ROS declares and the file for people agree."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
import yaml

from vla_ros.core.errors import ConfigError
from vla_ros.core.paths import share_dir
from vla_ros.ros.parameters import (
    ALWAYS,
    NEVER,
    Parameterized,
    PolicyNodeParameters,
    changed,
    from_ros,
    parameter,
    parameter_specs,
    to_ros,
)
from vla_ros.ros.sim_parameters import SimParameters

_FILE = share_dir() / "config" / "vla_policy.yaml"


def flat(mapping, prefix=""):
    for key, value in mapping.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


@pytest.mark.parametrize("cls", [PolicyNodeParameters, SimParameters])
def test_every_parameter_has_a_description_and_numbers_have_a_range(cls):
    for spec in parameter_specs(cls):
        assert len(spec.description) > 10, spec.name
        if isinstance(spec.default, (int, float)) and not isinstance(spec.default, bool):
            assert spec.low is not None and spec.low <= spec.default <= spec.high, spec.name


def test_the_file_repeats_every_default_with_its_description_unit_and_range():
    text = _FILE.read_text(encoding="utf-8")
    (parameters,) = (node["ros__parameters"] for node in yaml.safe_load(text)["/**"].values())
    in_file = dict(flat(parameters))
    specs = {spec.name: spec for spec in parameter_specs()}
    # An empty list has no type in a parameter file: those stand there as comments.
    assert in_file == {name: spec.default for name, spec in specs.items() if not isinstance(spec.default, tuple)}
    for spec in specs.values():
        assert spec.full_description in text, spec.name
        comment = next(line for line in text.splitlines() if spec.full_description in line)
        if spec.low is not None:
            assert f"{spec.low:g} to {spec.high:g}" in comment, spec.name
        for choice in spec.choices:
            assert choice in comment, spec.name


def test_ros_names_and_values_make_a_round_trip():
    parameters = PolicyNodeParameters(cpu_affinity=(0, 1), camera_topics=("a", "b"), control_rate_hz=100.0)
    assert from_ros(to_ros(parameters)) == parameters
    assert to_ros(parameters)["command.interface"] == "JointTrajectory"


@pytest.mark.parametrize(
    "name, value, words",
    [
        ("control_rate_hz", 0.5, r"\[1.0, 1000.0\] Hz"),
        ("control_rate_hz", float("nan"), "must be a float"),
        ("control_rate_hz", "fast", "must be a float"),
        ("inference_threads", 1.5, "must be a int"),
        ("inference_threads", True, "must be a int"),
        ("allow_cpu", 1, "must be a bool"),
        ("command_interface", "Wrench", "one of JointTrajectory"),
        ("cpu_affinity", ("0",), "list of integers"),
        ("camera_topics", (1,), "list of strings"),
    ],
)
def test_bad_values_are_named_with_what_is_valid(name, value, words):
    with pytest.raises(ConfigError, match=words):
        PolicyNodeParameters(**{name: value})


def test_all_problems_are_listed_at_once():
    with pytest.raises(ConfigError, match=r"control_rate_hz.*inference\.threads"):
        PolicyNodeParameters(control_rate_hz=-1.0, inference_threads=0)


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match="no parameter typo"):
        from_ros({"typo": 1})


@dataclass(frozen=True, kw_only=True)
class _Some(Parameterized):
    fixed: int = parameter(1, "never changes while running", low=0, high=9, change=NEVER)
    between: int = parameter(1, "changes while unconfigured", low=0, high=9)
    free: int = parameter(1, "changes at any time", low=0, high=9, change=ALWAYS)


def test_changes_are_taken_together_or_not_at_all():
    some = _Some()
    assert changed(some, {"free": 2}, configured=True) == _Some(free=2)
    assert changed(some, {"free": 2, "between": 3}, configured=False) == _Some(free=2, between=3)
    for changes, words in (
        ({"free": 2, "between": 3}, "clean it up"),
        ({"free": 2, "fixed": 3}, "before the start"),
        ({"free": 99}, r"\[0, 9\]"),
    ):
        with pytest.raises(ConfigError, match=words):
            changed(some, changes, configured=True)


def test_the_period_is_not_cut_to_milliseconds():
    assert PolicyNodeParameters(control_rate_hz=30.0).period_ns == 33_333_333


@pytest.mark.ros
def test_ros_shows_description_unit_and_range(context):
    from rclpy.parameter import Parameter

    from vla_ros.ros.policy_node import PolicyNode

    node = PolicyNode([Parameter("control_rate_hz", value=100)])  # a whole number where a float is meant, as on a command line
    try:
        descriptor = node.describe_parameter("max_joint_age_s")
        assert re.search(r"\[s\]$", descriptor.description) and descriptor.floating_point_range[0].to_value == 10.0
        assert "JointTrajectory" in node.describe_parameter("command.interface").additional_constraints
        assert node.parameters.control_rate_hz == 100.0
        result = node.set_parameters_atomically([Parameter("max_image_age_s", value=1.0), Parameter("max_joint_age_s", value=99.0)])
        assert not result.successful and node.parameters.max_image_age_s == 0.5
        assert node.get_parameter("max_image_age_s").value == 0.5
    finally:
        node.close()
        node.destroy_node()
