# SPDX-License-Identifier: Apache-2.0
"""Figures as SVG text, without a plotting library: one row an entry, its median, p99, p99.9 and maximum on a logarithmic axis."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from vla_ros.core.errors import ConfigError

WIDTH, LEFT, RIGHT, ROW, HEAD = 900, 330, 30, 22, 46
SERIES_HEIGHT = 240
MARKS = (("p50", "#1b6ca8", 5.0), ("p99", "#e08e0b", 4.0), ("p999", "#c0392b", 3.5), ("max", "#7f8c8d", 3.0))
COLOURS = ("#1b6ca8", "#e08e0b", "#2e8b57", "#8e44ad")
LABELS = {"p50": "median", "p99": "p99", "p999": "p99.9", "max": "maximum"}


def write_svg(path: str | Path, results: Sequence[Mapping[str, Any]]) -> Path:
    """Draws all entries, one panel a metric; entries that have an ``x`` become a curve.

    Raises:
        ConfigError: the file cannot be written.
    """
    target = Path(path).expanduser()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(svg(results), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {target}: {error.strerror}") from error
    return target


def svg(results: Sequence[Mapping[str, Any]]) -> str:
    """The drawing as text."""
    panels, top = [], 10.0
    for key in dict.fromkeys((row["metric"], row.get("axis")) for row in results):
        rows = [row for row in results if (row["metric"], row.get("axis")) == key]
        draw, height = (_curves, HEAD + SERIES_HEIGHT) if key[1] else (_rows, HEAD + ROW * len(rows) + 24)
        panels += draw(rows, top)
        top += height + 20
    style = "text{font:12px sans-serif;fill:#222}.title{font-weight:bold;font-size:14px}.grid{stroke:#ddd}.axis{font-size:10px;fill:#555}"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top:.0f}" viewBox="0 0 {WIDTH} {top:.0f}">'
    return "\n".join([head, f"<style>{style}</style>", '<rect width="100%" height="100%" fill="#fff"/>', *panels, "</svg>"]) + "\n"


def _rows(rows: Sequence[Mapping[str, Any]], top: float) -> Iterator[str]:
    """One line an entry, marks on a common logarithmic axis."""
    positive = [row[key] for row in rows for key, _, _ in MARKS if row[key] > 0]
    low, high = decades(positive)
    bottom = top + HEAD + ROW * len(rows)
    yield from _title(rows[0], top)
    for exponent in range(low, high + 1):
        x = _along(10.0**exponent, low, high)
        yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top + HEAD - 8:.1f}" y2="{bottom:.1f}"/>'
        yield f'<text class="axis" x="{x:.1f}" y="{bottom + 14:.1f}" text-anchor="middle">{10.0**exponent:g}</text>'
    for index, row in enumerate(rows):
        y = top + HEAD + ROW * (index + 0.5)
        yield f'<text x="{LEFT - 10}" y="{y + 4:.1f}" text-anchor="end">{escape(row["name"])}</text>'
        ends = [_along(max(row[key], 10.0**low), low, high) for key in ("p50", "max")]
        yield f'<line x1="{ends[0]:.1f}" x2="{ends[1]:.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="#bbb"/>'
        for key, colour, radius in reversed(MARKS):
            x = _along(max(row[key], 10.0**low), low, high)
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{colour}"><title>{LABELS[key]} {row[key]:g}</title></circle>'


def _title(row: Mapping[str, Any], top: float) -> Iterator[str]:
    unit = f" [{row['unit']}]" if row["unit"] else ""
    yield f'<text class="title" x="10" y="{top + 14:.1f}">{escape(row["metric"] + unit)}</text>'
    for index, (key, colour, radius) in enumerate(MARKS):
        x = LEFT + 90 * index
        yield f'<circle cx="{x}" cy="{top + 24:.1f}" r="{radius}" fill="{colour}"/><text x="{x + 8}" y="{top + 28:.1f}">{LABELS[key]}</text>'


def _curves(rows: Sequence[Mapping[str, Any]], top: float) -> Iterator[str]:
    """Medians over ``x``, one curve a ``series``, both axes from zero."""
    series = list(dict.fromkeys(row["series"] for row in rows))
    most_x, most_y = max(row["x"] for row in rows), max(row["p50"] for row in rows)
    bottom = top + HEAD + SERIES_HEIGHT - 40
    unit = f" [{rows[0]['unit']}]" if rows[0]["unit"] else ""
    yield f'<text class="title" x="10" y="{top + 14:.1f}">{escape(rows[0]["metric"] + unit)} over {escape(rows[0]["axis"])}</text>'

    def place(row: Mapping[str, Any]) -> tuple[float, float]:
        share = row["x"] / most_x if most_x else 0.0
        return 80 + share * (WIDTH - 140), bottom - row["p50"] / (most_y or 1.0) * (SERIES_HEIGHT - 60)

    yield f'<line class="grid" x1="80" x2="{WIDTH - 60}" y1="{bottom:.1f}" y2="{bottom:.1f}"/>'
    for index, name in enumerate(series):
        colour = COLOURS[index % len(COLOURS)]
        own = sorted((row for row in rows if row["series"] == name), key=lambda row: row["x"])
        points = [place(row) for row in own]
        yield f'<polyline fill="none" stroke="{colour}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>'
        yield f'<text x="{LEFT + 140 * index}" y="{top + 30:.1f}" style="fill:{colour}">■ {escape(name)}</text>'
        for row, (x, y) in zip(own, points, strict=True):
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"><title>{escape(row["name"])}: {row["p50"]:g}</title></circle>'
            yield f'<text class="axis" x="{x:.1f}" y="{y - 7:.1f}" text-anchor="middle">{row["p50"]:.3g}</text>'
            yield f'<text class="axis" x="{x:.1f}" y="{bottom + 14:.1f}" text-anchor="middle">{row["x"]:g}</text>'


def decades(values: Sequence[float]) -> tuple[int, int]:
    """The powers of ten that enclose all values; one decade at least."""
    if not values:
        return 0, 1
    low = math.floor(math.log10(min(values)))
    return low, max(math.ceil(math.log10(max(values))), low + 1)


def _along(value: float, low: int, high: int) -> float:
    return LEFT + (math.log10(value) - low) / (high - low) * (WIDTH - LEFT - RIGHT)
