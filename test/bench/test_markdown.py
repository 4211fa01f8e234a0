# SPDX-License-Identifier: Apache-2.0
"""Tables stand between their marks, and nothing else of a document changes."""

from __future__ import annotations

from pathlib import Path

import pytest

import vla_ros
from vla_ros.bench import command, markdown
from vla_ros.bench.rounds import entry
from vla_ros.core.errors import ConfigError

REPORT = {
    "results": [entry("ours", "latency", "ms", [1.0, 2.0], limit={"p50": 3.0, "max": 1.5}), entry("a", "share", "", [123.456], ratio=1.5)],
    "notes": [{"subject": "control", "text": "one note"}],
    "dates": ["2026-01-02"],
    "machine": {"processor": "CPU", "cores": 2, "kernel": "6.1", "vla_ros": "1.0"},
    "control_rmw": "rmw_test",
}
TEXT = "before\n{}\nold figures\n{}\nafter\n".format(*markdown.marks("control"))


def test_old_figures_give_way_to_new_ones():
    text = markdown.filled(TEXT, "control", REPORT)
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old figures" not in text
    assert "CPU, 2 cores, kernel 6.1, rmw_test, vla_ros 1.0, 2026-01-02." in text and "- one note" in text
    assert "| ours | 2 | 2 | 2 | 2 | 2 |  | p50 3 kept, max 1.5 MISSED |" in text
    assert "| a | 123 | 123 | 123 | 123 | 1 | 1.50 |  |" in text
    assert markdown.filled(text, "control", REPORT) == text


def test_a_document_without_a_place_is_refused(tmp_path):
    path = tmp_path / "page.md"
    path.write_text(TEXT)
    with pytest.raises(ConfigError, match="vla bench scale: begin"):
        markdown.fill(path, "scale", REPORT)
    with pytest.raises(ConfigError, match="none.md"):
        markdown.fill(tmp_path / "none.md", "control", REPORT)
    assert path.read_text() == TEXT
    markdown.fill(path, "control", REPORT)
    assert "one note" in path.read_text()


def test_the_shipped_page_has_a_place_for_every_subject():
    page = Path(vla_ros.__file__).resolve().parents[1] / "docs" / "realtime.md"
    if not page.is_file():
        pytest.skip("an installed package, not a clone")
    text = page.read_text(encoding="utf-8")
    for subject in command.SUBJECTS:
        assert markdown.filled(text, subject, REPORT).count("one note") == 1
