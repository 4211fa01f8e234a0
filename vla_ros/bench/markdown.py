# SPDX-License-Identifier: Apache-2.0
"""Writes measured tables into a document, between the marks of their subject: figures in the documentation are never typed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vla_ros.core.errors import ConfigError

FIGURES = ("p50", "p99", "p999", "max")


def marks(subject: str) -> tuple[str, str]:
    """The lines between which a subject's tables stand."""
    return f"<!-- vla bench {subject}: begin -->", f"<!-- vla bench {subject}: end -->"


def fill(path: str | Path, subject: str, report: Mapping[str, Any]) -> None:
    """Replaces what stands between a subject's marks.

    Raises:
        ConfigError: the file cannot be read or written, or has no such marks.
    """
    target = Path(path)
    try:
        target.write_text(filled(target.read_text(encoding="utf-8"), subject, report), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot fill {target}: {error.strerror}") from error


def filled(text: str, subject: str, report: Mapping[str, Any]) -> str:
    """The document with the subject's tables.

    Raises:
        ConfigError: it has no such marks.
    """
    begin, end = marks(subject)
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(text):
        raise ConfigError(f"there is no place for {subject}: put the lines {begin} and {end} where its tables should stand")
    block = "\n".join([begin, "", *tables(report), end])
    return pattern.sub(lambda _: block, text)


def tables(report: Mapping[str, Any]) -> Iterator[str]:
    """Machine and command, one table for each metric, then the notes."""
    machine = report["machine"]
    yield f"{machine['processor']}, {machine['cores']} cores, kernel {machine['kernel']}{_middleware(report)}, vla_ros {machine['vla_ros']}, {' and '.join(report['dates'])}."
    yield ""
    results: Sequence[Mapping[str, Any]] = report["results"]
    for metric in dict.fromkeys(row["metric"] for row in results):
        rows = [row for row in results if row["metric"] == metric]
        unit = f" [{rows[0]['unit']}]" if rows[0]["unit"] else ""
        yield f"| {metric}{unit} | p50 | p99 | p99.9 | max | n | ratio | limit |"
        yield "|---|--:|--:|--:|--:|--:|--:|---|"
        for row in rows:
            yield "| " + " | ".join([row["name"], *(_short(row[key]) for key in FIGURES), str(row["n"]), _ratio(row), _limit(row)]) + " |"
        yield ""
    for note in report["notes"]:
        yield f"- {note['text']}"
    if report["notes"]:
        yield ""


def _middleware(report: Mapping[str, Any]) -> str:
    name = next((value for key, value in report.items() if key.endswith("_rmw") and value), "")
    return f", {name}" if name else ""


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _ratio(row: Mapping[str, Any]) -> str:
    return f"{row['ratio']:.2f}" if "ratio" in row else ""


def _limit(row: Mapping[str, Any]) -> str:
    parts = [f"{key} {bound:g} {'kept' if row[key] <= bound else 'MISSED'}" for key, bound in row.get("limit", {}).items()]
    return ", ".join(parts)
