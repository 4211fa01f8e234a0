# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree

import pytest

from vla_ros.core.errors import ConfigError
from vla_ros.train.plot import HEIGHT, LEFT, RIGHT, TOP, WIDTH, Panel, Series, si_text, write_svg

SVG = "{http://www.w3.org/2000/svg}"


def panel(*points: tuple[float, float], **changes) -> Panel:
    return Panel(title="a < b", x_label="N & M", y_label="P", series=[Series(points=points, name="runs", **changes)])


def test_points_lie_by_their_logarithms(tmp_path):
    path = tmp_path / "new" / "plot.svg"
    write_svg(path, [panel((1.0, 1.0), (10.0, 10.0), (100.0, 1.0))])
    circles = ElementTree.parse(path).getroot().findall(f".//{SVG}circle")
    x, y = ([float(circle.get(name)) for circle in circles] for name in ("cx", "cy"))
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.2)  # equal factors are equal distances
    assert y[0] == y[2] > y[1]  # larger is higher up
    assert all(LEFT < value < WIDTH - RIGHT for value in x) and all(TOP < value < HEIGHT for value in y)


def test_text_is_escaped_and_panels_stand_side_by_side(tmp_path):
    write_svg(tmp_path / "plot.svg", [panel((1.0, 2.0), (3.0, 4.0), line=True)] * 3)
    root = ElementTree.parse(tmp_path / "plot.svg").getroot()
    assert float(root.get("width")) == 3 * WIDTH
    texts = [text.text for text in root.findall(f".//{SVG}text")]
    assert texts.count("a < b") == texts.count("N & M") == texts.count("runs") == 3
    assert len(root.findall(f".//{SVG}polyline")) == 3


@pytest.mark.parametrize("values", [(1.0, 1.0), (0.98, 1.01), (2.0, 3.0), (1e5, 1e13), (1e-4, 5e-4)])
def test_every_axis_has_ticks_inside(values, tmp_path):
    write_svg(tmp_path / "plot.svg", [panel((values[0], 1.0), (values[1], 1.0))])
    lines = ElementTree.parse(tmp_path / "plot.svg").getroot().findall(f".//{SVG}line")
    on_x = [float(line.get("x1")) for line in lines if line.get("x1") == line.get("x2")]
    assert 1 <= len(on_x) <= 12
    assert all(LEFT <= x <= WIDTH - RIGHT for x in on_x)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_values_without_a_logarithm_are_refused(bad, tmp_path):
    with pytest.raises(ConfigError, match="positive finite"):
        write_svg(tmp_path / "plot.svg", [panel((1.0, bad))])


def test_an_empty_panel_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no points"):
        write_svg(tmp_path / "plot.svg", [panel()])


@pytest.mark.parametrize(("value", "text"), [(1000, "1k"), (1.5e6, "1.5M"), (2e12, "2T"), (12.5, "12.5"), (0.02, "0.02"), (999.9999999999, "1k"), (5e9, "5G")])
def test_numbers_are_short(value, text):
    assert si_text(value) == text
