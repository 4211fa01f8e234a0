# SPDX-License-Identifier: Apache-2.0
"""Panels with logarithmic axes as an SVG file. numpy and the standard library only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from vla_ros.core.errors import ConfigError

WIDTH, HEIGHT = 300, 260  # of a panel, in pixels
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 30, 46
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe and Ito: told apart by colour-blind eyes


@dataclass(frozen=True, kw_only=True)
class Series:
    """Points (x, y) of one colour; `line` joins them, else each is a dot. `name` is for the legend."""

    points: Sequence[tuple[float, float]]
    name: str = ""
    colour: str = COLOURS[0]
    line: bool = False


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One diagram with two logarithmic axes; every value must be positive."""

    title: str
    x_label: str
    y_label: str
    series: list[Series] = field(default_factory=list)


def write_svg(path: Path, panels: Sequence[Panel]) -> None:
    """Panels side by side; raises ConfigError for a panel without points, values that are not positive, or a path that cannot be written."""
    drawn = [f'<g transform="translate({index * WIDTH} 0)">{_draw(panel)}</g>' for index, panel in enumerate(panels)]
    size = f'width="{WIDTH * len(panels)}" height="{HEIGHT}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11"><rect {size} fill="white"/>'
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([head, *drawn, "</svg>\n"]), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error


class _Axis:
    """Maps values to pixels by their logarithm, with 8 % of room at both ends."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        low, high = math.log10(min(values)), math.log10(max(values))
        room = max(0.08 * (high - low), 0.02)
        self.low, self.high, self.start, self.end = low - room, high + room, start, end

    def pixel(self, value: float) -> float:
        part = (math.log10(value) - self.low) / (self.high - self.low)
        return self.start + part * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Powers of ten; with 2 and 5 between them, or finer, where fewer than two powers are in view."""
        decades = range(math.floor(self.low), math.ceil(self.high) + 1)
        for digits in ((1,), (1, 2, 5), tuple(range(1, 10)), tuple(1 + tenth / 10 for tenth in range(90))):
            found = [digit * 10.0**decade for decade in decades for digit in digits if self.low <= math.log10(digit * 10.0**decade) <= self.high]
            if len(found) >= 2:
                return found[:: max(1, len(found) // 5)]
        return [10.0 ** ((self.low + self.high) / 2)]


def _draw(panel: Panel) -> str:
    points = [point for series in panel.series for point in series.points]
    if not points:
        raise ConfigError(f"the panel '{panel.title}' has no points")
    if not all(math.isfinite(value) and value > 0 for point in points for value in point):
        raise ConfigError(f"the panel '{panel.title}' has logarithmic axes: give positive finite values")
    x_axis = _Axis([x for x, _ in points], LEFT, WIDTH - RIGHT)
    y_axis = _Axis([y for _, y in points], HEIGHT - BOTTOM, TOP)
    parts = [f'<rect x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" height="{HEIGHT - TOP - BOTTOM}" fill="none" stroke="#999"/>']
    parts += [_tick(x_axis.pixel(value), HEIGHT - BOTTOM, value, along_x=True) for value in x_axis.ticks()]
    parts += [_tick(LEFT, y_axis.pixel(value), value, along_x=False) for value in y_axis.ticks()]
    for series in panel.series:
        parts.append(_series(series, x_axis, y_axis))
    parts += _legend(panel)
    middle_x, middle_y = (LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<text x="{middle_x}" y="16" text-anchor="middle" font-weight="bold">{escape(panel.title)}</text>')
    parts.append(f'<text x="{middle_x}" y="{HEIGHT - 10}" text-anchor="middle">{escape(panel.x_label)}</text>')
    parts.append(f'<text x="14" y="{middle_y}" text-anchor="middle" transform="rotate(-90 14 {middle_y})">{escape(panel.y_label)}</text>')
    return "\n".join(parts)


def _series(series: Series, x_axis: _Axis, y_axis: _Axis) -> str:
    placed = [(x_axis.pixel(x), y_axis.pixel(y)) for x, y in series.points]
    if series.line:
        return f'<polyline fill="none" stroke="{series.colour}" stroke-width="1.5" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in placed)}"/>'
    return "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{series.colour}" fill-opacity="0.8"/>' for x, y in placed)


def _legend(panel: Panel) -> list[str]:
    named = [series for series in panel.series if series.name]
    rows = []
    for index, series in enumerate(named):
        y = TOP + 14 + 13 * index
        rows.append(f'<rect x="{LEFT + 8}" y="{y - 8}" width="8" height="8" fill="{series.colour}"/><text x="{LEFT + 21}" y="{y}">{escape(series.name)}</text>')
    return rows


def _tick(x: float, y: float, value: float, along_x: bool) -> str:
    text = escape(si_text(value))
    if along_x:
        return f'<line x1="{x:.1f}" y1="{y}" x2="{x:.1f}" y2="{y + 4}" stroke="#999"/><text x="{x:.1f}" y="{y + 16}" text-anchor="middle">{text}</text>'
    return f'<line x1="{x - 4}" y1="{y:.1f}" x2="{x}" y2="{y:.1f}" stroke="#999"/><text x="{x - 7}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'


def si_text(value: float) -> str:
    """A positive number in three digits with an SI prefix, such as `1.5M`; below 1 as a plain or an exponent number."""
    for limit, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit * (1 - 1e-9):
            return f"{value / limit:.3g}{prefix}"
    return f"{value:.3g}"
