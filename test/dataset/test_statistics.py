# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vla_ros.dataset.statistics import QUANTILES, PixelStatistics, sampled_frames, vector_statistics


@settings(max_examples=30, deadline=None)
@given(arrays(np.uint8, st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.just(3))))
def test_counted_pixels_have_the_statistics_of_the_pixels(pictures):
    """Against numpy on all pixels at once, also when they come in two parts."""
    counted, rest = PixelStatistics(), PixelStatistics()
    counted.add(pictures[:1])
    rest.add(pictures[1:])
    counted.merge(rest)
    found, pixels_NC = counted.result(), pictures.reshape(-1, 3) / 255.0
    for name, wanted in {"min": pixels_NC.min(0), "max": pixels_NC.max(0), "mean": pixels_NC.mean(0), "std": pixels_NC.std(0)}.items():
        np.testing.assert_allclose(np.array(found[name]).ravel(), wanted, atol=1e-7)
    for name, part in QUANTILES.items():
        np.testing.assert_allclose(np.array(found[name]).ravel(), np.quantile(pixels_NC, part, axis=0), atol=1e-7)
    assert found["count"] == [len(pictures)]


def test_vectors_keep_the_shape_of_a_sample():
    values = np.arange(24.0).reshape(4, 2, 3)
    found = vector_statistics(values)
    assert np.array_equal(found["mean"], values.mean(0)) and found["count"] == [4]
    assert vector_statistics(np.arange(3.0))["max"] == [2.0]


@pytest.mark.parametrize(("count", "wanted"), [(1, 1), (50, 50), (100, 100), (10_000, 1000)])
def test_long_episodes_are_sampled_evenly(count, wanted):
    frames = sampled_frames(count)
    assert len(frames) == wanted and frames[0] == 0 and frames[-1] == count - 1
