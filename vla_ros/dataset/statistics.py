# SPDX-License-Identifier: Apache-2.0
"""Statistics of features as LeRobotDataset v3 has them: min, max, mean, std, count, q01, q10, q50, q90, q99.

Quantiles are those of all samples with linear interpolation, as numpy has them; LeRobot itself writes averages of episodes' quantiles.
Axes: N samples, D dimensions, C channels, T frames.
"""

from __future__ import annotations

from typing import Any

import numpy as np

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
_LEVELS = 256  # of a uint8 pixel


def vector_statistics(values_ND: np.ndarray) -> dict[str, Any]:
    """Statistics over the first axis; entries have the shape of one sample, scalars the shape [1].

    Args:
        values_ND: [N] or [N, ...], N >= 1, finite.
    """
    values = np.asarray(values_ND, dtype=np.float64)
    values = values[:, None] if values.ndim == 1 else values
    found = {"min": values.min(0), "max": values.max(0), "mean": values.mean(0), "std": values.std(0)}
    found |= dict(zip(QUANTILES, np.quantile(values, list(QUANTILES.values()), axis=0)))
    return {name: array.tolist() for name, array in found.items()} | {"count": [len(values)]}


class PixelStatistics:
    """Statistics of pictures from counts of their 256 levels: exact, whatever the number of pictures."""

    def __init__(self) -> None:
        self.counts_CL = np.zeros((3, _LEVELS), dtype=np.int64)
        self.pictures = 0

    def add(self, pictures_THWC: np.ndarray) -> None:
        """Counts uint8 [T, H, W, 3]."""
        for channel in range(3):
            self.counts_CL[channel] += np.bincount(pictures_THWC[..., channel].ravel(), minlength=_LEVELS)
        self.pictures += len(pictures_THWC)

    def merge(self, other: PixelStatistics) -> None:
        """Adds what another counted."""
        self.counts_CL += other.counts_CL
        self.pictures += other.pictures

    def result(self) -> dict[str, Any]:
        """Entries of shape [3, 1, 1], values in 0...1; ``count`` is the number of pictures."""
        levels_L = np.arange(_LEVELS) / (_LEVELS - 1)
        share_CL = self.counts_CL / self.counts_CL.sum(1, keepdims=True)
        mean_C = share_CL @ levels_L
        found = {
            "min": levels_L[(self.counts_CL > 0).argmax(1)],
            "max": levels_L[_LEVELS - 1 - (self.counts_CL[:, ::-1] > 0).argmax(1)],
            "mean": mean_C,
            "std": np.sqrt((share_CL * (levels_L - mean_C[:, None]) ** 2).sum(1)),
            **{name: self._quantile(part) / (_LEVELS - 1) for name, part in QUANTILES.items()},
        }
        return {name: array.reshape(3, 1, 1).tolist() for name, array in found.items()} | {"count": [self.pictures]}

    def _quantile(self, part: float) -> np.ndarray:
        """Level [3] at ``part`` of all pixels, between the two nearest in order."""
        cumulative_CL = self.counts_CL.cumsum(1)
        position_C = part * (cumulative_CL[:, -1] - 1)
        below_C = np.floor(position_C)
        low, high = (
            np.array([np.searchsorted(row, rank, side="right") for row, rank in zip(cumulative_CL, ranks)], dtype=np.float64)
            for ranks in (below_C, np.minimum(below_C + 1, cumulative_CL[:, -1] - 1))
        )
        return low + (high - low) * (position_C - below_C)


def sampled_frames(count: int) -> np.ndarray:
    """Which of ``count`` frames of an episode the pixel statistics look at: all up to 100, then about count^0.75 of them, as LeRobot does."""
    wanted = min(count, max(100, min(int(count**0.75), 10_000)))
    return np.unique(np.linspace(0, count - 1, wanted).round().astype(np.int64))
