# SPDX-License-Identifier: Apache-2.0
"""The commands that README and guides tell a reader to give."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest

import vla_ros
from vla_ros import cli

ROOT = Path(vla_ros.__file__).resolve().parents[1]
if not (ROOT / "docs").is_dir():
    pytest.skip("an installed package has no docs", allow_module_level=True)

GUIDES = ["README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))]
PROGRAMS = ("vla", "ros2", "make", "pip", "python", "pytest", "torchrun", "gz", "rosdep", "colcon", "sudo")
#: What stands for a value of the reader's.
PLACEHOLDERS = {"COMMAND": "inspect", "N": "1", "S": "0.5", "PID": "1", "...": "", "FILE": "file", "DIR": "dir", "FOLDER": "folder"}


class Parsed(BaseException):
    """The command line was accepted."""


def commands() -> list[tuple[str, str, bool]]:
    """Guide, line, and whether it is only mentioned: blocks, indented or fenced, and inline code that begins with a program."""
    found = []
    for guide in GUIDES:
        text = (ROOT / guide).read_text(encoding="utf-8")
        lines = [line for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
        rest = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        lines += [line for line in re.findall(r"^    (\S.*)$", rest, re.MULTILINE) if program_of(line) in PROGRAMS]
        found += [(guide, line.strip(), " ... " in line) for line in lines if line.strip() and not line.startswith("#")]
        found += [(guide, line, True) for line in re.findall(r"`([^`\n]+)`", rest) if " " in line and program_of(line) in PROGRAMS]
    return sorted(set(found))


def program_of(line: str) -> str:
    return line.split()[0].rpartition("/")[2]


def words_of(line: str) -> list[str]:
    """The words of the first command in ``line``, variables and placeholders filled in."""
    words = shlex.split(line.partition(" && ")[0] if not line.startswith("cd ") else line.rpartition(" && ")[2], comments=True)
    while words[0] == "sudo" or "=" in words[0]:
        words = words[1:]
    words[0] = words[0].rpartition("/")[2]
    return [filled for word in words if (filled := PLACEHOLDERS.get(word, word))]


def parse(monkeypatch, main, arguments: list[str], mentioned: bool = False) -> None:
    """Has ``main`` read its command line, and no more; fails where the parser refuses it, for what is missing only if not ``mentioned``."""
    genuine, genuine_error = argparse.ArgumentParser.parse_args, argparse.ArgumentParser.error

    def parse_args(self, *arguments, **named):
        genuine(self, *arguments, **named)
        raise Parsed

    def error(self, message):
        if mentioned and re.search("arguments are required|expected one argument|expected at least one", message):
            raise Parsed
        genuine_error(self, message)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    monkeypatch.setattr(argparse.ArgumentParser, "error", error)
    monkeypatch.setattr(cli, "missing_module_hint", lambda missing: pytest.skip(f"{missing.name} is not installed"))
    try:
        status = main(arguments)
    except Parsed:
        return
    except ModuleNotFoundError as missing:
        pytest.skip(f"{missing.name} is not installed")
    except SystemExit as stop:
        status = stop.code
    if not {"--help", "-h"} & set(arguments):
        pytest.fail(f"{' '.join(arguments)} is refused (status {status})")
