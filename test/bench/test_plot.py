# SPDX-License-Identifier: Apache-2.0
"""The drawing is well formed, has a mark for every figure in its place, and survives any name."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from vla_ros.bench import plot
from vla_ros.bench.rounds import entry
from vla_ros.core.errors import ConfigError

SVG = "{http://www.w3.org/2000/svg}"
ROWS = [entry("a <b> & c", "latency", "ms", [1.0, 2.0, 40.0]), entry("missed", "missed_periods", "", [0.0])]
CURVE = [entry(f"side {x}: {s}", "scale", "ms", [x * k], axis="side", x=x, series=s) for x in (64, 128) for s, k in (("float32", 2.0), ("int8", 1.0))]


def test_every_figure_has_its_mark():
    root = ElementTree.fromstring(plot.svg(ROWS))
    titles = [title.text for title in root.iter(f"{SVG}title")]
    assert "median 2" in titles and "maximum 40" in titles and "maximum 0" in titles
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert "a <b> & c" in texts and "latency [ms]" in texts


def test_longer_is_further_right():
    root = ElementTree.fromstring(plot.svg(ROWS))
    place = {circle.find(f"{SVG}title").text: float(circle.get("cx")) for circle in root.iter(f"{SVG}circle") if circle.find(f"{SVG}title") is not None}
    assert plot.LEFT <= place["median 2"] < place["maximum 40"] <= plot.WIDTH - plot.RIGHT


def test_a_curve_for_each_series():
    root = ElementTree.fromstring(plot.svg(CURVE))
    assert len(list(root.iter(f"{SVG}polyline"))) == 2
    points = [tuple(map(float, pair.split(","))) for pair in next(root.iter(f"{SVG}polyline")).get("points").split()]
    assert points[0][0] < points[1][0] and points[0][1] > points[1][1]  # larger is higher: y grows downwards


@pytest.mark.parametrize("values, expected", [([], (0, 1)), ([1.0], (0, 1)), ([0.02, 300.0], (-2, 3)), ([10.0, 10.0], (1, 2))])
def test_decades_enclose_the_values(values, expected):
    assert plot.decades(values) == expected


def test_a_path_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write"):
        plot.write_svg(tmp_path / "file" / "plot.svg", ROWS)
    assert plot.write_svg(tmp_path / "new" / "plot.svg", ROWS).read_text().startswith("<svg")
