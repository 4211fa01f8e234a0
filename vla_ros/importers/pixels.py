# SPDX-License-Identifier: Apache-2.0
"""Camera picture to what a network was trained on, inside the graph: resized as Pillow does, cropped as TensorFlow does, normalised.

Both resizings are linear in each direction, so that each is two products with fixed matrices, and the graph needs no resize operator of any
provider. Pillow: https://github.com/python-pillow/Pillow/blob/main/src/libImaging/Resample.c (bicubic with a = -0.5, widened where it shrinks,
8 bits between the passes). TensorFlow: tf.image.crop_and_resize (bilinear between the corners' centres).
Axes: H, W of the camera, S side of the network's picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

_CUBIC = -0.5
_CUBIC_REACH = 2.0


def pillow_matrix(size_in: int, size_out: int) -> np.ndarray:
    """Weights float64 [size_out, size_in] of Pillow's bicubic resize; each row sums to one."""
    scale = size_in / size_out
    stretch = max(scale, 1.0)
    centres = (np.arange(size_out) + 0.5) * scale
    distance = (np.arange(size_in) + 0.5 - centres[:, None]) / stretch
    first = np.maximum((centres - _CUBIC_REACH * stretch + 0.5).astype(int), 0)
    last = np.minimum((centres + _CUBIC_REACH * stretch + 0.5).astype(int), size_in)
    inside = (np.arange(size_in) >= first[:, None]) & (np.arange(size_in) < last[:, None])
    weights = np.where(inside, _cubic(np.abs(distance)), 0.0)
    return weights / weights.sum(axis=1, keepdims=True)


def crop_matrix(size_in: int, size_out: int, share: float) -> np.ndarray:
    """Weights float64 [size_out, size_in] of a centred crop to ``share`` of the length, resized bilinearly."""
    low, high = 0.5 - 0.5 * share, 0.5 + 0.5 * share
    places = np.linspace(low, high, size_out) * (size_in - 1)
    before = np.minimum(places.astype(int), size_in - 2)
    weights = np.zeros((size_out, size_in))
    rows = np.arange(size_out)
    weights[rows, before], weights[rows, before + 1] = 1.0 - (places - before), places - before
    return weights


def _cubic(distance: np.ndarray) -> np.ndarray:
    near = ((_CUBIC + 2.0) * distance - (_CUBIC + 3.0)) * distance**2 + 1.0
    far = (((distance - 5.0) * distance + 8.0) * distance - 4.0) * _CUBIC
    return np.where(distance < 1.0, near, np.where(distance < 2.0, far, 0.0))


class Resize(nn.Module):
    """uint8 values [1, H, W, 3] as float to whole values [1, 3, S, S] of 0 to 255.

    Args:
        height, width: of the camera's picture.
        side: S.
        crop_area: share of the area that is kept, about the centre; 1: all.
    """

    def __init__(self, height: int, width: int, side: int, crop_area: float = 1.0) -> None:
        super().__init__()
        self.is_cropped = crop_area < 1.0
        self.is_same = not self.is_cropped and (height, width) == (side, side)
        share = crop_area**0.5
        sizes = ((height, "rows"), (width, "columns"))
        self.matrices = {
            name: torch.from_numpy(crop_matrix(size, side, share) if self.is_cropped else pillow_matrix(size, side)).float()
            for size, name in sizes
        }
        for name, matrix in self.matrices.items():
            setattr(self, name, nn.Parameter(torch.empty_like(matrix, device="meta")))

    def forward(self, image_1HW3: Tensor) -> Tensor:
        """As the class says."""
        x_13HW = image_1HW3.permute(0, 3, 1, 2)
        if self.is_same:
            return x_13HW
        if self.is_cropped:
            x_13SS = torch.matmul(self.rows, torch.matmul(x_13HW, self.columns.t()))
            return torch.floor(torch.clamp(x_13SS, 0.0, 255.0) * (255.5 / 255.0)).clamp(max=255.0)  # tf.image.convert_image_dtype
        x_13HS = _eight_bits(torch.matmul(x_13HW, self.columns.t()))
        return _eight_bits(torch.matmul(self.rows, x_13HS))


def _eight_bits(x: Tensor) -> Tensor:
    return torch.clamp(torch.floor(x + 0.5), 0.0, 255.0)


class Normalize(nn.Module):
    """(x / 255 - mean) / std per colour."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.mean, self.std = tuple(mean), tuple(std)

    def forward(self, x_13HW: Tensor) -> Tensor:
        """[1, 3, H, W] of 0 to 255 to the same shape."""
        colours = [(x_13HW[:, c : c + 1] * (1.0 / 255.0) - mean) * (1.0 / std) for c, (mean, std) in enumerate(zip(self.mean, self.std))]
        return torch.cat(colours, dim=1)
