# SPDX-License-Identifier: Apache-2.0
"""Instructions are made harmless and never change twice."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_ros.core.errors import ConfigError
from vla_ros.core.text import build_prompt, normalize_instruction, printable


@pytest.mark.parametrize(
    "raw, expected",
    [
        ("  push \t the\r\n red  cube ", "push the red cube"),
        ("pu\x00sh\x07", "push"),
        ("push \u202e\u2066left\u2069\ufeff\u200b", "push left"),
        ("cafe\u0301", "café"),
        ("a\u00a0b\u3000c", "a b c"),
        ("\u202e\x00 \n", ""),
        ("\ud800push", "push"),
    ],
)
def test_examples(raw, expected):
    assert normalize_instruction(raw) == expected


@given(st.text())
def test_it_is_idempotent_clean_and_composed(text):
    once = normalize_instruction(text)
    assert normalize_instruction(once) == once
    assert unicodedata.is_normalized("NFC", once)
    assert all(unicodedata.category(ch)[0] != "C" for ch in once)
    assert "  " not in once and once == once.strip()
    once.encode("utf-8")


def test_braces_in_an_instruction_are_text():
    assert build_prompt("Robot: {instruction} Action:", "{0} {instruction}") == "Robot: {0} {instruction} Action:"


@pytest.mark.parametrize("template", ["Robot:", "{instruction}{instruction}", ""])
def test_a_template_without_one_place_is_refused(template):
    with pytest.raises(ConfigError):
        build_prompt(template, "go")


@given(st.text())
def test_what_is_logged_is_one_printable_line(text):
    shown = printable(text)
    assert shown.isprintable()
    assert (shown == text) == text.isprintable()


def test_marks_and_line_ends_are_shown_as_escapes():
    assert printable("head\u202e\n[ERROR] \x00 caf\u00e9") == "head\\u202e\\n[ERROR] \\x00 caf\u00e9"
