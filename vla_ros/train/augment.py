# SPDX-License-Identifier: Apache-2.0
"""Augmentation: light and colour of pictures by one lookup table per picture and channel (cheap on uint8); foreign words."""

from __future__ import annotations

import numpy as np

from vla_ros.train.config import DataConfig

_LEVEL_A = np.arange(256, dtype=np.float32)


def jitter_pictures(pictures: dict[str, np.ndarray], rng: np.random.Generator, config: DataConfig) -> None:
    """Changes brightness, contrast and tint of uint8 pictures [B, ..., H, W, 3] in place; a frame's cameras, and its past, change alike."""
    frames = len(next(iter(pictures.values())))
    table_BC = _tables(rng, frames, config)
    for picture_BHWC in pictures.values():
        for frame in range(frames):
            for channel in range(3):
                plane_HW = picture_BHWC[frame, ..., channel]
                plane_HW[...] = table_BC[frame, channel][plane_HW]


def _tables(rng: np.random.Generator, frames: int, config: DataConfig) -> np.ndarray:
    """Lookup tables, uint8 [frames, 3, 256]."""
    contrast_B = 1.0 + config.contrast * rng.uniform(-1.0, 1.0, (frames, 1, 1))
    brightness_B = 255.0 * config.brightness * rng.uniform(-1.0, 1.0, (frames, 1, 1))
    tint_BC = 1.0 + config.tint * rng.uniform(-1.0, 1.0, (frames, 3, 1))
    level_BCA = ((_LEVEL_A - 127.5) * contrast_B + 127.5 + brightness_B) * tint_BC
    return np.clip(np.rint(level_BCA), 0, 255).astype(np.uint8)


def insert_foreign_words(text_NT: np.ndarray, foreign_X: np.ndarray, rng: np.random.Generator, probability: float, pad: int) -> np.ndarray:
    """A copy of prompts in which some have a run of one to three ids of `foreign_X` at a random place.

    `foreign_X` are text ids that no recorded instruction uses (byte pieces of words never met), so that the policy learns
    to read past words that it does not know. A prompt without room for them stays as it is; its first and last token do too.
    """
    text_NT = text_NT.copy()
    for row in np.flatnonzero(rng.random(len(text_NT)) < probability):
        used, count = int((text_NT[row] != pad).sum()), int(rng.integers(1, 4))
        if used < 2 or used + count > text_NT.shape[1] or not len(foreign_X):
            continue
        place = int(rng.integers(1, used))
        text_NT[row, place + count : used + count] = text_NT[row, place:used].copy()
        text_NT[row, place : place + count] = rng.choice(foreign_X, size=count)
    return text_NT
