# SPDX-License-Identifier: Apache-2.0
"""Every command in README and guides is parsed by the program that it is for. Troubleshooting's tables are complete.

What runs them: test_documented_commands.py.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import sys

import pytest
from guides import GUIDES, ROOT, commands, parse, words_of

from vla_ros import cli
from vla_ros.core.safety import Level, StatusCode

TOPICS = {"/instruction", "/diagnostics", "/vla_policy/status", "/command"}
SERVICES = {"/vla_policy/stop", "/vla_policy/resume"}
TRANSITIONS = {"configure", "activate", "deactivate", "cleanup", "shutdown"}
WORKSPACE_GUIDES = ("README.md", "docs/getting_started.md")


def launch_arguments(name: str) -> set[str]:
    tree = ast.parse((ROOT / "launch" / name).read_text(encoding="utf-8"))
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "DeclareLaunchArgument"]
    included = re.findall(r'"(\w+\.launch\.py)"\)', (ROOT / "launch" / name).read_text(encoding="utf-8"))
    return {call.args[0].value for call in calls}.union(*(launch_arguments(other) for other in included))


def check_ros2(words: list[str], mentioned: bool, monkeypatch) -> None:
    verb, topics = words[1], [word for word in words[2:] if word.startswith("/")]
    if mentioned and (len(words) == 2 or words[1:] == ["run", "vla_ros", "vla"]):
        assert verb in ("bag", "launch", "topic", "service", "lifecycle", "param", "run", "security")
    elif verb == "launch":
        assert words[2] == "vla_ros" and {word.partition(":=")[0] for word in words[4:]} <= launch_arguments(words[3]), words
    elif verb == "topic":
        assert set(topics) <= TOPICS, topics
    elif verb == "service":
        assert set(topics) <= SERVICES and words[-1] == "std_srvs/srv/Trigger"
    elif verb == "lifecycle":
        assert words[2] == "set" and words[4] in TRANSITIONS
    elif verb == "run":
        assert words[2] == "vla_ros" and words[3] in ("vla", "vla_policy", "vla_sim")
        arguments = words[4:] if words[3] == "vla" else [{"vla_policy": "run", "vla_sim": "sim"}[words[3]], *words[4:]]
        parse(monkeypatch, cli.main, arguments, mentioned)
    elif verb == "param":
        assert words[2] in ("list", "get", "set", "describe", "dump", "load")
    elif verb == "bag":
        assert words[2] in ("record", "play", "info", "convert")
    elif verb == "pkg":
        assert words[2:] == ["prefix", "vla_ros"]
    else:
        assert verb == "security", f"no check for ros2 {verb}"


def check_python(words: list[str], monkeypatch) -> None:
    if words[1] == "-m":
        module = importlib.import_module(words[2])
        parse(monkeypatch, module.main, words[3:])
        return
    assert (ROOT / words[1]).is_file(), words[1]
    text = (ROOT / words[1]).read_text(encoding="utf-8")
    assert all(f'"{word}"' in text for word in words[2:] if word.startswith("--")), words


def check_pip(words: list[str]) -> None:
    extras = set(re.findall(r'^    "(\w+)": \[', (ROOT / "setup.py").read_text(encoding="utf-8"), re.MULTILINE)) | {"all"}
    for word in words[2:]:
        asked = re.fullmatch(r"(?:\.|vla_ros)\[([\w,]+)\]", word)
        assert asked is None or set(asked.group(1).split(",")) <= extras, word


def torchrun_main(arguments: list[str]) -> object:
    from vla_ros.train.command import main

    return main(arguments)


@pytest.mark.parametrize(("guide", "line", "mentioned"), commands())
def test_every_command_is_accepted_as_written(guide, line, mentioned, monkeypatch):
    words = words_of(line)
    program = words[0]
    if program == "vla":
        parse(monkeypatch, cli.main, words[1:], mentioned)
    elif program == "ros2":
        check_ros2(words, mentioned, monkeypatch)
    elif program == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    elif program == "python":
        check_python(words, monkeypatch)
    elif program == "torchrun":
        parse(monkeypatch, torchrun_main, words[words.index("-m") + 2 :])
    elif program == "pytest":
        assert all((ROOT / path).exists() for path in words[1:] if not path.startswith("-")), words
    elif program == "pip":
        check_pip(words)
    elif program.endswith(".sh"):
        assert (ROOT / "tools" / program).is_file()
    else:
        assert program in ("rosdep", "colcon", "gz", "apt-get", "sysctl", "export", "git", "mkdir"), f"{guide}: no check for {line}"


@pytest.mark.parametrize("line", [line for _, line, mentioned in commands() if words_of(line)[0] == "ros2" and not mentioned])
def test_ros2_commands_are_accepted_by_the_real_tools(line, monkeypatch):
    """Where ros2cli is installed, its own parser reads them; an extension that is not installed is left out."""
    ros2 = pytest.importorskip("ros2cli.cli", reason="ros2cli is not installed (ROS package)")
    words = words_of(line)
    if importlib.util.find_spec(f"ros2{words[1]}") is None:
        pytest.skip(f"ros2{words[1]} is not installed")
    monkeypatch.setattr(sys, "argv", words)  # sub-commands look there as well
    parse(monkeypatch, lambda arguments: ros2.main(argv=arguments), words[1:])


def test_what_each_command_does_is_run_by_a_test():
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "test").rglob("test_*.py") if path.name != "test_docs.py")
    for name, command in cli.COMMANDS.items():
        package, _, module = command.module.rpartition(".")
        assert re.search(rf'{package} import (\w+, )*{module}\b|{command.module}\b|"{name}"', tests), f"no test has anything of vla {name}"


def test_both_guides_build_a_workspace_in_the_same_way():
    blocks = [re.search(r"```bash\n(mkdir -p ~/ws.*?)```", (ROOT / guide).read_text(encoding="utf-8"), re.DOTALL) for guide in WORKSPACE_GUIDES]
    first, second = (block[1] for block in blocks)
    assert first == second
    for needed in ("PIP_BREAK_SYSTEM_PACKAGES=1", "source install/setup.bash", "ros2 launch vla_ros mujoco.launch.py"):
        assert needed in first


def test_a_command_that_does_not_exist_is_refused(monkeypatch):
    for wrong in (["fly"], ["record", "--faster"], ["doctor", "--only", "moon"], ["import", "openvla"]):
        with monkeypatch.context() as patch, pytest.raises(pytest.fail.Exception):
            parse(patch, cli.main, wrong)


def table_codes() -> dict[str, str]:
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^\| ([A-Z_]+) \| (.*?) \| .+ \|$", text, re.MULTILINE))


def test_troubleshooting_has_every_status_code_with_its_sentence():
    codes, text = table_codes(), (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    for code in StatusCode:
        if code.level is Level.OK:
            assert re.search(rf"\b{code.name}\b", text), code
        else:
            assert codes.get(code.name) == code.sentence, code
    assert set(codes) <= {code.name for code in StatusCode}


def test_troubleshooting_has_every_reason_for_which_a_message_is_dropped():
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    for module in ("images", "compressed_images", "joint_states", "stamps", "polled", "robot_inputs"):
        source = (ROOT / "vla_ros" / "ros" / f"{module}.py").read_text(encoding="utf-8")
        for code in re.findall(r'code="(\w+)"', source):
            assert re.search(rf"\b{code}\b", text), f"{code} of {module}.py"


@pytest.mark.parametrize("guide", GUIDES)
def test_links_lead_somewhere(guide):
    text = (ROOT / guide).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert ((ROOT / guide).parent / target).exists(), target
    for path in re.findall(r"`((?:config|launch|models|docs)/[\w./]+)`", text):
        assert (ROOT / path).exists() or path.endswith("/"), path
