# SPDX-License-Identifier: Apache-2.0
"""The floor's arithmetic against figures that were worked out by hand, and that its calls do what is counted."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

from vla_ros.bench import floor  # noqa: E402
from vla_ros.onnx_cost import Cost  # noqa: E402


def test_computing_takes_its_share_of_the_measured_product():
    cost = Cost(operations=4 * 2 * 10**3, integer_operations=0, weight_bytes=100)
    seconds = {floor.FP32: [0.010, 0.020], floor.READ: [0.001, 0.001]}
    assert floor.floor_seconds(cost, seconds, size=10) == pytest.approx([0.040, 0.080])


def test_reading_is_the_floor_where_it_takes_longer():
    cost = Cost(operations=2 * 10**3, integer_operations=0, weight_bytes=100)
    assert floor.floor_seconds(cost, {floor.FP32: [0.001], floor.READ: [0.005]}, size=10) == [0.005]


def test_integers_are_counted_at_their_own_peak():
    cost = Cost(operations=3 * 2 * 10**3, integer_operations=2 * 2 * 10**3, weight_bytes=100)
    seconds = {floor.FP32: [0.010], floor.INT8: [0.002], floor.READ: [0.0]}
    assert floor.floor_seconds(cost, seconds, size=10) == pytest.approx([0.010 + 2 * 0.002])
    figures = floor.peaks(cost, {**seconds, floor.READ: [1e-9]}, size=10)
    assert figures["peak_float32_gflop_s"] == pytest.approx(2e-9 * 10**3 / 0.010, abs=1e-3)
    assert figures["bandwidth_gb_s"] == pytest.approx(100.0)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_the_product_is_the_one_that_is_counted(precision):
    (answer,) = floor.product_call(precision, threads=1, size=16)()
    rng = np.random.default_rng(0)
    if precision == "float32":
        first, second = (rng.standard_normal((16, 16)).astype(np.float32) for _ in range(2))
        np.testing.assert_allclose(answer, first @ second, rtol=1e-4, atol=1e-5)
    else:
        first, second = rng.integers(0, 256, (16, 16), dtype=np.uint8), rng.integers(-64, 64, (16, 16), dtype=np.int8)
        np.testing.assert_array_equal(answer, first.astype(np.int64) @ second.astype(np.int64))


def test_reading_touches_every_byte_once():
    assert floor.read_call(8000)() == 1000.0  # two arrays of a thousand ones
