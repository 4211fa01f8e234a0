# SPDX-License-Identifier: Apache-2.0
"""Commands in the guides exist with the options that they are given; those that need neither a robot nor minutes are run."""

from __future__ import annotations

import ast
import functools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import vla_ros
from vla_ros.cli import COMMANDS
from vla_ros.core.safety import Level, StatusCode

ROOT = Path(vla_ros.__file__).resolve().parents[1]
GUIDES = ("getting_started", "concepts", "own_robot", "console", "troubleshooting")
pytestmark = pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="an installed package has no docs")
TOPICS = {"/instruction", "/diagnostics", "/vla_policy/status"}
SERVICES = {"/vla_policy/stop", "/vla_policy/resume"}
RUN = ("vla --help", "vla inspect models/tabletop")


def commands() -> list[tuple[str, str]]:
    found = []
    for guide in GUIDES:
        text = (ROOT / "docs" / f"{guide}.md").read_text(encoding="utf-8") if (ROOT / "docs").is_dir() else ""
        for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL):
            found += [(guide, line.strip()) for line in block.splitlines() if line.strip() and not line.startswith("#")]
    return found


def words_of(line: str) -> list[str]:
    words = shlex.split(line, comments=True)
    return ["vla", *words[1:]] if words[0].endswith("/vla") else words


@functools.cache
def help_of(command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "vla_ros.cli", command, "--help"], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def check_vla(words: list[str]) -> None:
    if len(words) == 1 or words[1].startswith("-"):
        return
    assert words[1] in COMMANDS, f"there is no command {words[1]}"
    for option in [word for word in words[2:] if word.startswith("--")]:
        assert re.search(rf"{option}\b", help_of(words[1])), f"vla {words[1]} has no {option}"
    for path in [word for word in words[2:] if "/" in word and not word.startswith("/")]:
        assert (ROOT / path).exists(), path


def launch_arguments(name: str) -> set[str]:
    tree = ast.parse((ROOT / "launch" / name).read_text(encoding="utf-8"))
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "DeclareLaunchArgument"]
    return {call.args[0].value for call in calls}


def check_ros2(words: list[str]) -> None:
    verb = words[1]
    if verb == "launch":
        assert words[2] == "vla_ros"
        given = {word.partition(":=")[0] for word in words[4:]}
        assert given <= launch_arguments(words[3]), words
    elif verb == "topic":
        (topic,) = [word for word in words if word.startswith("/")]
        assert topic in TOPICS
    elif verb == "service":
        (service,) = [word for word in words if word.startswith("/")]
        assert service in SERVICES and words[-1] == "std_srvs/srv/Trigger"
    elif verb == "run":
        assert words[2:4] == ["vla_ros", "vla_policy"]
        check_vla(["vla", "run", *words[4 : words.index("--ros-args")]])
    else:
        pytest.fail(f"no check for ros2 {verb}")


@pytest.mark.parametrize(("guide", "line"), commands())
def test_every_command_exists_as_written(guide, line):
    words = words_of(line)
    if words[0] == "vla":
        check_vla(words)
    elif words[0] == "ros2":
        check_ros2(words)
    elif words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    else:
        assert words[0] in ("rosdep", "pip", "colcon"), f"{guide}: no check for {line}"


@pytest.mark.parametrize("line", RUN)
def test_commands_that_need_nothing_are_run(line):
    assert line in {" ".join(words_of(written)) for _, written in commands()}
    done = subprocess.run(
        [sys.executable, "-m", "vla_ros.cli", *shlex.split(line)[1:]], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr


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
    text = (ROOT / "docs" / f"{guide}.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (ROOT / "docs" / target).exists(), target
    for path in re.findall(r"`((?:config|launch|models|docs)/[\w./]+)`", text):
        assert (ROOT / path).exists(), path
