# SPDX-License-Identifier: Apache-2.0
"""Light and colour of pictures, changed by one lookup table per picture and channel (cheap on uint8)."""

from __future__ import annotations

import numpy as np

from vla_ros.train.config import DataConfig

_LEVEL_A = np.arange(256, dtype=np.float32)


def jitter_pictures(pictures: dict[str, np.ndarray], rng: np.random.Generator, config: DataConfig) -> None:
    """Changes brightness, contrast and tint of uint8 pictures [B, H, W, 3] in place; a frame's cameras change alike."""
    frames = len(next(iter(pictures.values())))
    table_BC = _tables(rng, frames, config)
    for picture_BHWC in pictures.values():
        for frame in range(frames):
            for channel in range(3):
                plane_HW = picture_BHWC[frame, :, :, channel]
                plane_HW[...] = table_BC[frame, channel][plane_HW]


def _tables(rng: np.random.Generator, frames: int, config: DataConfig) -> np.ndarray:
    """Lookup tables, uint8 [frames, 3, 256]."""
    contrast_B = 1.0 + config.contrast * rng.uniform(-1.0, 1.0, (frames, 1, 1))
    brightness_B = 255.0 * config.brightness * rng.uniform(-1.0, 1.0, (frames, 1, 1))
    tint_BC = 1.0 + config.tint * rng.uniform(-1.0, 1.0, (frames, 3, 1))
    level_BCA = ((_LEVEL_A - 127.5) * contrast_B + 127.5 + brightness_B) * tint_BC
    return np.clip(np.rint(level_BCA), 0, 255).astype(np.uint8)
