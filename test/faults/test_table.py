# SPDX-License-Identifier: Apache-2.0
"""Every fault of the table has a test, and ``tools/faults.py`` finds it."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

_path = Path(__file__).parents[2] / "tools" / "faults.py"
if not _path.is_file():
    pytest.skip("the tools are not installed with the package", allow_module_level=True)
_spec = importlib.util.spec_from_file_location("faults_tool", _path)
faults = importlib.util.module_from_spec(_spec)
sys.modules["faults_tool"] = faults
_spec.loader.exec_module(faults)


def test_every_row_has_a_test_of_its_own():
    nodes = faults.tests_in_files()
    covered = {number for node in nodes for number in faults.rows_of(node)}
    assert sorted(faults.rows()) == list(range(1, 64))
    assert not faults.rows().keys() - covered
    for pointed in faults.POINTERS.values():
        assert not set(pointed) - set(nodes), "a test was renamed"


def test_names_say_the_rows():
    assert faults.rows_of("test/a.py::test_row_9_a_jump[x]") == {9}
    assert faults.rows_of("test/a.py::test_rows_57_and_58_changes") == {57, 58}
    assert faults.rows_of("test/a.py::test_rows_are_read") == set()


def test_a_failed_or_missing_test_fails_its_row():
    table = faults.rows()
    table[1].outcomes["t"] += ["passed", "failed"]
    table[2].outcomes["t"] += ["passed"]
    table[63].outcomes["t"] += ["skipped"]
    assert [table[n].result for n in (1, 2, 3, 63)] == ["failed", "passed", "no test", "skipped"]
    text = faults.document(table)
    assert "| 9 | jump larger than v_max·dt | dropped once, LATCH when it repeats |  | no test |" in text
    assert "1 failed, 60 no test, 1 passed, 1 skipped." in text


def test_the_safety_page_names_tests_that_exist():
    text = (faults.ROOT / "docs" / "safety.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test/\w+/\w+\.py::\w+)`", text))
    assert len(named) > 15
    assert not named - set(faults.tests_in_files())
    assert all((faults.ROOT / path).is_file() for path in re.findall(r"`(test/\w+/\w+\.py)`", text))
