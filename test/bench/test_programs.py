# SPDX-License-Identifier: Apache-2.0
"""Child processes answer, refuse, die or stay silent: each is told apart, with the end of the log."""

from __future__ import annotations

import os
import sys
import textwrap

import pytest

from vla_ros.bench.programs import Program
from vla_ros.core.errors import VlaError

CODE = """
    import os, sys, time
    from vla_ros.ros.answers import reply
    reply(pid=os.getpid())
    for line in sys.stdin:
        word = line.strip()
        if word == "die":
            print("out of luck", file=sys.stderr)
            sys.exit(7)
        if word == "sleep":
            time.sleep(60)
        print("a library says something")
        reply(**({"error": "no such order"} if word == "refuse" else {"word": word, "value": os.environ.get("VLA_BENCH_TEST")}))
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    (tmp_path / "answers_for_test.py").write_text(textwrap.dedent(CODE))
    root = os.path.dirname(os.path.dirname(sys.modules["vla_ros"].__file__))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), root, os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("VLA_BENCH_TEST", "inherited")
    made = []

    def make(**environment):
        made.append(Program("answers_for_test", [], tmp_path / "log", environment))
        made[-1].answer(60.0)
        return made[-1]

    yield make
    for one in made:
        one.stop()


def test_it_answers_line_by_line_and_ends_with_its_input(program):
    with program() as child:
        assert child.ask("hello")["word"] == "hello" and child.ask("again") == {"word": "again", "value": "inherited"}
        pid = child.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_environment_is_added_to_and_taken_from(program):
    assert program(VLA_BENCH_TEST="changed").ask("x")["value"] == "changed"
    assert program(VLA_BENCH_TEST=None).ask("x")["value"] is None


def test_a_refusal_and_a_death_are_errors_with_the_log(program):
    child = program()
    with pytest.raises(VlaError, match="no such order"):
        child.ask("refuse")
    assert child.ask("still there")["word"] == "still there"
    with pytest.raises(VlaError, match=r"(?s)ended with code 7.*out of luck"):
        child.ask("die")


def test_silence_is_an_error(program):
    with pytest.raises(VlaError, match="did not answer"):
        program().ask("sleep", timeout_s=0.2)
