# SPDX-License-Identifier: Apache-2.0
"""All demonstrations of several folders, with whole episodes held out. Axes: N frames of a shard, S proprioception entries."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vla_ros.core.errors import ConfigError
from vla_ros.train.shards import DataError, DatasetMeta, Shard, find_shards, open_shard, read_meta

_log = logging.getLogger(__name__)


class Dataset:
    """All shards of several folders, with whole episodes held out for validation.

    An episode is held out by a hash of its number, so that shards that appear later change nothing about earlier ones.

    Args:
        folders: dataset folders with equal `meta.yaml` contracts.
        weights: how often each folder is drawn from, relative; None = by number of frames.
        val_fraction: share of episodes held out.

    Raises:
        DataError: a folder without meta.yaml or shards, or a shard that is damaged.
    """

    def __init__(self, folders: Sequence[Path], weights: Sequence[float] | None = None, val_fraction: float = 0.03) -> None:
        if weights is not None and (len(weights) != len(folders) or min(weights) <= 0):
            raise ConfigError(f"{len(folders)} datasets need as many positive weights, got {list(weights)}")
        self.folders = [Path(folder) for folder in folders]
        self.weights = weights
        self.val_fraction = val_fraction
        metas = [read_meta(folder) for folder in self.folders]
        for folder, meta in zip(self.folders, metas):
            meta.check_same(metas[0], str(folder))
        self.metas = metas
        self.shards: list[Shard] = []
        self._source: list[int] = []
        self._rows: dict[bool, list[np.ndarray]] = {False: [], True: []}
        self._refused: set[Path] = set()
        self._scan(strict=True)
        if not self.shards:
            raise DataError(f"no finished shard_* in {', '.join(map(str, self.folders))}: run `vla collect` first")

    @property
    def meta(self) -> DatasetMeta:
        """The first folder's; all agree."""
        return self.metas[0]

    @property
    def labels(self) -> int:
        """Smallest K of the folders."""
        return min(meta.labels for meta in self.metas)

    def provenance(self) -> dict[str, Any]:
        """Where the demonstrations come from: of one folder what its meta.yaml says, of several a list with the frames of each."""
        if len(self.metas) == 1:
            return self.meta.provenance
        sources = np.array(self._source)
        sizes = np.array([len(rows) for rows in self._rows[False]])
        return {"sources": [{"frames": int(sizes[sources == source].sum()), **meta.provenance} for source, meta in enumerate(self.metas)]}

    def rescan(self) -> int:
        """Adds shards that were finished since; returns how many. A damaged one is logged once and left out."""
        return self._scan(strict=False)

    def instructions(self) -> Iterator[str]:
        """Every instruction of every shard, repetitions included."""
        for shard in self.shards:
            yield from shard.instructions

    def num_frames(self, held_out: bool = False) -> int:
        """Frames to train on, or to validate on."""
        return sum(len(rows) for rows in self._rows[held_out])

    def draw(self, rng: np.random.Generator, count: int, held_out: bool = False) -> list[tuple[Shard, np.ndarray]]:
        """`count` random frames as (shard, rows), with replacement."""
        sizes = np.array([len(rows) for rows in self._rows[held_out]], dtype=np.float64)
        if not sizes.sum():
            what = "held out for validation: collect more episodes or raise data.val_fraction" if held_out else "to train on: collect more"
            raise ConfigError(f"no frames {what}")
        chosen = np.sort(rng.choice(len(sizes), size=count, p=self._probabilities(sizes)))
        drawn = []
        for shard in np.unique(chosen):
            rows = self._rows[held_out][shard]
            drawn.append((self.shards[shard], np.sort(rows[rng.integers(len(rows), size=int((chosen == shard).sum()))])))
        return drawn

    def proprio_stats(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the frames to train on, float32 [S] each."""
        parts = [shard.arrays["proprio"][rows] for shard, rows in zip(self.shards, self._rows[False])]
        proprio_NS = np.concatenate(parts).astype(np.float64)
        # A joint that never moves must not blow up the noise of its encoder: 1e-2 rad or m is a small deviation.
        return proprio_NS.mean(0).astype(np.float32), np.maximum(proprio_NS.std(0), 1e-2).astype(np.float32)

    def _probabilities(self, sizes: np.ndarray) -> np.ndarray:
        if self.weights is None:
            return sizes / sizes.sum()
        source = np.array(self._source)
        share = np.array([self.weights[s] / max(sizes[source == s].sum(), 1.0) for s in source]) * sizes
        return share / share.sum()

    def _scan(self, strict: bool) -> int:
        known = {shard.path for shard in self.shards} | self._refused
        added = 0
        for source, folder in enumerate(self.folders):
            for path in find_shards(folder, self.metas[source].body):
                if path in known:
                    continue
                try:
                    self._add(open_shard(path, self.metas[source]), source)
                    added += 1
                except DataError as error:
                    if strict:
                        raise
                    self._refused.add(path)
                    _log.warning("left out: %s", error)
        return added

    def _add(self, shard: Shard, source: int) -> None:
        held_out_N = is_held_out(shard.arrays["episode"], self.val_fraction)
        self.shards.append(shard)
        self._source.append(source)
        self._rows[True].append(np.flatnonzero(held_out_N))
        self._rows[False].append(np.flatnonzero(~held_out_N))


def is_held_out(episode_N: np.ndarray, fraction: float) -> np.ndarray:
    """Whether each episode is for validation: a multiplicative hash (Knuth) of its number, spread over 0..1."""
    return (np.asarray(episode_N, dtype=np.uint32) * np.uint32(2654435761)) / 2.0**32 < fraction
