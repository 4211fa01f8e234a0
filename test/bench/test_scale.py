# SPDX-License-Identifier: Apache-2.0
"""Points of each axis, and one small network measured through the export's own path."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")

from vla_ros.bench import command, scale  # noqa: E402
from vla_ros.model.policy import Policy  # noqa: E402

SMALL = replace(scale.BASE, width=32, depth=3, vision_depth=2, heads=4, stem_channels=(4, 8))


@pytest.mark.parametrize("axis", list(scale.AXES))
def test_points_differ_and_grow(axis):
    points = list(scale.AXES[axis]())
    assert [point.x for point in points] == sorted({point.x for point in points}) and len(points) >= 4
    assert len({str(point.config) for point in points}) == len(points) and len({point.axis for point in points}) == 1


def test_the_axes_are_those_of_the_command():
    assert tuple(scale.AXES) == command.AXES


def test_one_network_is_measured_beside_int8_and_its_floor(monkeypatch):
    point = scale.Point(axis="steps of a chunk", x=5, config=SMALL)
    monkeypatch.setattr(scale, "AXES", {"chunk": lambda: iter([point])})
    results = scale.bench_scale(command.parse(["scale", "--axes", "chunk", "--rounds", "2"]), Console(quiet=True))["results"]
    assert [row["series"] for row in results] == [scale.FLOAT, scale.QUANTISED, scale.FLOOR]
    assert {row["parameters"] for row in results} == {sum(tensor.numel() for tensor in Policy(SMALL).parameters())}
    plain, quantised, floor = results
    assert plain["ratio"] == pytest.approx(floor["p50"] / plain["p50"], rel=0.01) and plain["baseline"] == floor["name"] and "ratio" not in floor
    assert np.isfinite([row["p50"] for row in results]).all() and quantised["n"] == 2
