# SPDX-License-Identifier: Apache-2.0
"""Image preparation against a plain, slow definition of the area mean."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_ros.core.errors import InputError
from vla_ros.core.image import center_crop, prepare_image


def area_mean(rgb: np.ndarray, height: int, width: int) -> np.ndarray:
    """Exact rational mean over each output pixel's area, rounded half up."""
    rows, columns, _ = rgb.shape
    out = np.zeros((height, width, 3), np.uint8)
    for i in range(height):
        for j in range(width):
            total = [Fraction(0)] * 3
            for r in range(rows):
                wr = min(Fraction(r + 1), Fraction((i + 1) * rows, height)) - max(Fraction(r), Fraction(i * rows, height))
                for c in range(columns):
                    wc = min(Fraction(c + 1), Fraction((j + 1) * columns, width)) - max(Fraction(c), Fraction(j * columns, width))
                    if wr > 0 and wc > 0:
                        total = [t + wr * wc * int(v) for t, v in zip(total, rgb[r, c])]
            area = Fraction(rows, height) * Fraction(columns, width)
            out[i, j] = [int(t / area + Fraction(1, 2)) for t in total]
    return out


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 9), columns=st.integers(1, 9), height=st.integers(1, 5), width=st.integers(1, 5), seed=st.integers(0, 999))
def test_it_is_the_exact_area_mean_of_the_centre(rows, columns, height, width, seed):
    rgb = np.random.default_rng(seed).integers(0, 256, (rows, columns, 3), dtype=np.uint8)
    np.testing.assert_array_equal(prepare_image(rgb, height, width), area_mean(center_crop(rgb, height, width), height, width))


@pytest.mark.parametrize("size, wanted", [((256, 256), 128), ((128, 128), 64), ((384, 384), 128), ((480, 640), 128), ((100, 90), 64)])
def test_a_plain_picture_stays_plain(size, wanted):
    for value in (0, 1, 127, 254, 255):
        assert (prepare_image(np.full((*size, 3), value, np.uint8), wanted, wanted) == value).all()


def test_halving_rounds_half_up():
    rgb = np.zeros((2, 2, 3), np.uint8)
    rgb[0, 0], rgb[0, 1] = 1, [1, 0, 0]
    assert prepare_image(rgb, 1, 1).tolist() == [[[1, 0, 0]]]  # 2/4 up, 1/4 down


def test_the_same_bits_whatever_the_layout():
    rgb = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    expected = prepare_image(rgb, 128, 128)
    np.testing.assert_array_equal(prepare_image(np.asfortranarray(rgb), 128, 128), expected)
    padded = np.zeros((256, 300, 3), np.uint8)
    padded[:, :256] = rgb
    np.testing.assert_array_equal(prepare_image(padded[:, :256], 128, 128), expected)
    assert expected.flags.c_contiguous and expected.dtype == np.uint8


def test_it_never_writes_to_its_input():
    rgb = np.random.default_rng(0).integers(0, 256, (33, 47, 3), dtype=np.uint8)
    rgb.setflags(write=False)
    prepare_image(rgb, 16, 16)


def test_the_crop_is_centred():
    rgb = np.zeros((4, 8, 3), np.uint8)
    rgb[:, 2:6] = 255
    assert (prepare_image(rgb, 2, 2) == 255).all()


@pytest.mark.parametrize(
    "shape, dtype", [((4, 4), np.uint8), ((4, 4, 4), np.uint8), ((4, 4, 3), np.float32), ((0, 4, 3), np.uint8), ((1, 9000, 3), np.uint8)]
)
def test_what_is_no_picture_is_refused(shape, dtype):
    with pytest.raises(InputError) as error:
        prepare_image(np.zeros(shape, dtype), 2, 2)
    assert error.value.code == "image_shape"
