# SPDX-License-Identifier: Apache-2.0
"""The launch files: their arguments are the contract. ``launch`` is not on PyPI; where it is installed they are also loaded."""

from __future__ import annotations

import ast
import re

import pytest

from vla_ros.core.paths import share_dir

_LAUNCH = share_dir() / "launch"
_POLICY = {"model", "params_file", "namespace", "use_sim_time", "autostart", "log_level", "control_rate_hz", "execution_provider"}
_ARGUMENTS = {"policy.launch.py": _POLICY, "mujoco.launch.py": {"seed", "task", "realtime_factor", "use_sim_time"}}


def declared(name):
    """Argument name to description, read from the source."""
    tree = ast.parse((_LAUNCH / name).read_text(encoding="utf-8"))
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "DeclareLaunchArgument"]
    return {call.args[0].value: {k.arg: k.value for k in call.keywords} for call in calls}


@pytest.mark.parametrize("name", _ARGUMENTS)
def test_arguments_are_those_of_the_contract_and_documented(name):
    arguments = declared(name)
    assert set(arguments) == _ARGUMENTS[name]
    for keywords in arguments.values():
        assert len(keywords["description"].value) > 10 and "default_value" in keywords


@pytest.mark.parametrize("name", ["model", "use_sim_time", "control_rate_hz", "execution_provider"])
def test_an_argument_that_is_not_given_leaves_the_parameter_file_alone(name):
    assert declared("policy.launch.py")[name]["default_value"].value == ""


@pytest.mark.parametrize("name", _ARGUMENTS)
def test_files_compile(name):
    compile((_LAUNCH / name).read_text(encoding="utf-8"), name, "exec")


def test_options_of_vla_run_have_the_names_of_the_launch_arguments(capsys):
    pytest.importorskip("rclpy")
    from vla_ros.ros.run import main

    with pytest.raises(SystemExit):
        main(["--help"])
    help_text = capsys.readouterr().out
    for argument in _POLICY:
        assert "--" + argument.replace("_", "-") in help_text, argument


def documented_instructions():
    """What README, guides and launch files tell the reader to say."""
    files = [_LAUNCH.parent / "README.md", *(_LAUNCH.parent / "docs").glob("*.md"), *_LAUNCH.glob("*.py")]
    return {text for file in files if file.is_file() for text in re.findall(r"topic pub .*?\{data: '(.+?)'\}", file.read_text(encoding="utf-8"))}


def test_what_the_guides_say_can_be_done_in_the_scene_that_is_launched():
    tasks = pytest.importorskip("vla_ros.sim.tasks", reason="needs mujoco")
    from vla_ros.sim.env import TabletopEnv

    env = TabletopEnv()
    env.reset(int(declared("mujoco.launch.py")["seed"]["default_value"].value))
    found = documented_instructions()
    assert found and all(tasks.parse_task(text) in env.feasible_tasks() for text in found), (found, env.world_state().objects)


@pytest.mark.parametrize("name", _ARGUMENTS)
def test_descriptions_load_where_launch_is_installed(name):
    pytest.importorskip("launch_ros")
    from launch import LaunchContext
    from launch.launch_description_sources import PythonLaunchDescriptionSource

    description = PythonLaunchDescriptionSource(str(_LAUNCH / name)).get_launch_description(LaunchContext())
    assert {a.name for a in description.get_launch_arguments()} >= _POLICY
