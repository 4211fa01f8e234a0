# SPDX-License-Identifier: Apache-2.0
"""The only preparation of camera pictures, for training and for serving.

A picture is cropped about its centre to the wanted aspect ratio and resized by area: every output pixel is
the mean over the input area that it covers, rounded half up. All sums are integers that float64 holds
exactly, so that the result does not depend on the machine, the library or the order of summation.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from vla_ros.core.errors import InputError

MAX_SIDE = 8192  # 255 * MAX_SIDE**2 < 2**53: sums stay exact in float64


def prepare_image(rgb: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes a picture to the policy's size. Deterministic; never writes to its input.

    Args:
        rgb: uint8 [H, W, 3], any size up to ``MAX_SIDE``.
        height: rows wanted.
        width: columns wanted.

    Returns:
        uint8 [height, width, 3], C-contiguous. It may be ``rgb`` itself if that already fits.

    Raises:
        InputError: ``image_shape`` if ``rgb`` is no uint8 [H, W, 3] picture inside the cap.
    """
    rgb = np.asarray(rgb)
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise InputError(f"image must be uint8 [H, W, 3], got {rgb.dtype} {list(rgb.shape)}", code="image_shape")
    if not (0 < rgb.shape[0] <= MAX_SIDE and 0 < rgb.shape[1] <= MAX_SIDE):
        raise InputError(f"image sides must be in [1, {MAX_SIDE}], got {list(rgb.shape[:2])}", code="image_shape")
    rgb = center_crop(rgb, height, width)
    if rgb.shape[:2] == (height, width):
        return np.ascontiguousarray(rgb)
    if rgb.shape[0] % height == 0 and rgb.shape[1] % width == 0:
        return _mean_of_blocks(rgb, rgb.shape[0] // height, rgb.shape[1] // width)
    return _mean_of_areas(rgb, height, width)


def center_crop(rgb: np.ndarray, height: int, width: int) -> np.ndarray:
    """The largest centred view of ``rgb`` [H, W, 3] with the aspect ratio height : width, to a whole pixel."""
    rows, columns = rgb.shape[:2]
    keep_rows = max(1, min(rows, columns * height // width))
    keep_columns = max(1, min(columns, rows * width // height))
    top, left = (rows - keep_rows) // 2, (columns - keep_columns) // 2
    return rgb[top : top + keep_rows, left : left + keep_columns]


def _mean_of_blocks(rgb: np.ndarray, step_rows: int, step_columns: int) -> np.ndarray:
    """Area mean for whole-number ratios: a sum of strided views, rounded half up."""
    count = step_rows * step_columns
    total = np.full((rgb.shape[0] // step_rows, rgb.shape[1] // step_columns, 3), count // 2, dtype=np.uint32 if count > 128 else np.uint16)
    for row in range(step_rows):
        for column in range(step_columns):
            total += rgb[row::step_rows, column::step_columns]
    total //= count
    return total.astype(np.uint8)


def _mean_of_areas(rgb: np.ndarray, height: int, width: int) -> np.ndarray:
    """Area mean for any ratio, by two matrices of whole-number weights."""
    rows, columns = rgb.shape[:2]
    over_rows = _coverage(height, rows) @ rgb.reshape(rows, -1).astype(np.float64)
    over_columns = np.matmul(_coverage(width, columns), over_rows.reshape(height, columns, 3))
    area = rows * columns
    return ((2.0 * over_columns + area) // (2.0 * area)).astype(np.uint8)


@lru_cache(maxsize=32)
def _coverage(size_out: int, size_in: int) -> np.ndarray:
    """Overlap of output pixel i with input pixel j, in units of 1/size_out; each row sums to size_in."""
    edges_out = np.arange(size_out + 1) * size_in
    edges_in = np.arange(size_in + 1) * size_out
    high = np.minimum(edges_out[1:, None], edges_in[None, 1:])
    low = np.maximum(edges_out[:-1, None], edges_in[None, :-1])
    weights = np.maximum(high - low, 0).astype(np.float64)
    weights.setflags(write=False)
    return weights
