# SPDX-License-Identifier: Apache-2.0
"""From shards to batches: drawing, augmentation and targets.

A batch depends only on the seed, its number and the shards known: a run that was interrupted goes on with the same
batches. Axes: B frames, K labels of a frame, N = B*K, T text tokens, H steps, D dimensions, Q = H*D, V cells, C classes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from vla_ros.core.action_tokens import ActionTokenizer
from vla_ros.core.errors import ConfigError, InstructionTooLong
from vla_ros.core.tabletop import CAMERAS, PROMPT_TEMPLATE, TEXT_TOKENS
from vla_ros.model.config import grid_of
from vla_ros.train.augment import insert_foreign_words, jitter_pictures
from vla_ros.train.config import DataConfig
from vla_ros.train.shards import DataError, DatasetMeta, Shard, find_shards, open_shard, read_meta
from vla_ros.train.tokenizer import PAD_ID, encode_prompts

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One step's tensors. `actions_NHD` in physical units; `committed_NH` marks given steps; `point_N2` is the plan's
    place in parts of its bounds; `seen_BVC` and `offset_BV2` describe the objects in each cell of the first camera,
    `occupied_BV` says where there is one."""

    images: dict[str, Tensor]
    text_NT: Tensor
    proprio_BS: Tensor
    withheld_B: Tensor
    prefix_NQ: Tensor
    actions_NHD: Tensor
    committed_NH: Tensor
    phase_N: Tensor
    point_N2: Tensor
    seen_BVC: Tensor
    offset_BV2: Tensor
    occupied_BV: Tensor


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
            for path in find_shards(folder):
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


class BatchMaker:
    """Draws and prepares batches. One thread at a time."""

    def __init__(self, dataset: Dataset, tokenizer: Tokenizer, config: DataConfig, seed: int) -> None:
        self.dataset = dataset
        self.config = config
        self.seed = seed
        self._tokenizer = tokenizer
        self._texts: dict[Path, np.ndarray] = {}
        self._codec = ActionTokenizer(dataset.meta.action, tokenizer.get_vocab_size())
        known = np.unique(np.concatenate([self._text_ids(shard).ravel() for shard in dataset.shards]))
        self._foreign_X = np.setdiff1d(np.arange(tokenizer.get_vocab_size()), known)

    def training_batch(self, number: int) -> Batch:
        """Batch `number` of the run, augmented; the same for the same seed, number and shards."""
        rng = np.random.default_rng([self.seed, number])
        drawn = self.dataset.draw(rng, self.config.frames_per_batch)
        labels = min(self.config.labels_per_frame, self.dataset.labels)
        return self._make(drawn, labels, rng, augment=True)

    def validation_batches(self, frames: int) -> Iterator[Batch]:
        """Always the same held-out frames with all their labels, not augmented."""
        rng = np.random.default_rng([self.seed, 1 << 32])
        size = self.config.frames_per_batch
        for start in range(0, frames, size):
            drawn = self.dataset.draw(rng, min(size, frames - start), held_out=True)
            yield self._make(drawn, self.dataset.labels, rng, augment=False)

    def _make(self, drawn: list[tuple[Shard, np.ndarray]], labels: int, rng: np.random.Generator, augment: bool) -> Batch:
        frames = sum(len(rows) for _, rows in drawn)
        picked = [_pick_labels(rng, len(rows), shard.arrays["actions"].shape[1], labels) for shard, rows in drawn]
        text_NT, actions_NHD, committed_N, plan_N3 = self._labels(drawn, picked)
        pictures = {camera.name: np.concatenate([shard.arrays[camera.name][rows] for shard, rows in drawn]) for camera in CAMERAS}
        committed_NH = np.arange(actions_NHD.shape[1]) < committed_N[:, None]
        withheld_B = np.zeros(frames, dtype=bool)
        if augment:
            jitter_pictures(pictures, rng, self.config)
            text_NT = insert_foreign_words(text_NT, self._foreign_X, rng, self.config.foreign_words, PAD_ID)
            withheld_B = rng.random(frames) < self.config.proprio_dropout
        prefix_NQ = self._prefix(actions_NHD, committed_NH)
        meta = self.dataset.meta
        low, high = np.array(meta.point_low), np.array(meta.point_high)
        seen = object_targets(
            np.concatenate([shard.arrays["object_uv"][rows] for shard, rows in drawn]),
            np.concatenate([shard.arrays["object_class"][rows] for shard, rows in drawn]),
            grid_of(CAMERAS[0]),
            (len(meta.colours), len(meta.kinds)),
        )
        arrays = {
            "text_NT": text_NT[:, : int((text_NT != PAD_ID).sum(1).max())],
            "proprio_BS": np.concatenate([shard.arrays["proprio"][rows] for shard, rows in drawn]),
            "withheld_B": withheld_B,
            "prefix_NQ": prefix_NQ,
            "actions_NHD": actions_NHD,
            "committed_NH": committed_NH,
            "phase_N": plan_N3[:, 0].astype(np.int64),
            "point_N2": np.clip((plan_N3[:, 1:] - low) / (high - low), 0.0, 1.0).astype(np.float32),
            **seen,
        }
        tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
        return Batch(images={name: torch.from_numpy(picture) for name, picture in pictures.items()}, **tensors)

    def _labels(self, drawn: list[tuple[Shard, np.ndarray]], picked: list[np.ndarray]) -> tuple[np.ndarray, ...]:
        """Text ids [N, T], actions [N, H, D], numbers of committed steps [N] and plans [N, 3]."""
        texts, actions, committed, plans = [], [], [], []
        for (shard, rows), pick in zip(drawn, picked):
            at = (rows[:, None], pick)
            texts.append(self._text_ids(shard)[shard.arrays["text_index"][at].ravel()])
            actions.append(shard.arrays["actions"][at].reshape(-1, *self.dataset.meta.action.shape))
            committed.append(shard.arrays["committed"][at].ravel())
            plans.append(shard.arrays["plan"][at].reshape(-1, 3))
        return tuple(np.concatenate(part) for part in (texts, actions, committed, plans))

    def _text_ids(self, shard: Shard) -> np.ndarray:
        if shard.path not in self._texts:
            try:
                self._texts[shard.path] = encode_prompts(self._tokenizer, PROMPT_TEMPLATE, shard.instructions, TEXT_TOKENS)
            except InstructionTooLong as error:
                raise DataError(f"{shard.path / 'instructions.json'}: {error}") from error
        return self._texts[shard.path]

    def _prefix(self, actions_NHD: np.ndarray, committed_NH: np.ndarray) -> np.ndarray:
        """Vocabulary ids of committed steps, -1 elsewhere, int64 [N, Q]."""
        prefix_NHD = np.full(actions_NHD.shape, -1, dtype=np.int64)
        if committed_NH.any():
            prefix_NHD[committed_NH] = self._codec.bins_to_ids(self._codec.actions_to_bins(actions_NHD[committed_NH], clip=True))
        return prefix_NHD.reshape(len(actions_NHD), -1)


def object_targets(uv_BM2: np.ndarray, class_BM2: np.ndarray, grid: tuple[int, int], counts: tuple[int, int]) -> dict[str, np.ndarray]:
    """What each cell of the first camera holds.

    Args:
        uv_BM2: object centres, 0..1 to the right and down.
        class_BM2: colour and kind index, -1 where there is no object.
        grid: rows and columns of cells.
        counts: number of colours and of kinds.

    Returns:
        `seen_BVC` float32 multi-hot colours then kinds, `offset_BV2` float32 place inside the cell, `occupied_BV` bool.
    """
    rows, columns = grid
    inside_BM = (class_BM2 >= 0).all(-1) & (uv_BM2 >= 0.0).all(-1) & (uv_BM2 < 1.0).all(-1)
    frame_X, item_X = np.nonzero(inside_BM)
    scaled_X2 = uv_BM2[frame_X, item_X] * np.array([columns, rows], dtype=np.float32)
    cell_X2 = np.floor(scaled_X2).astype(np.int64)
    cell_X = cell_X2[:, 1] * columns + cell_X2[:, 0]
    class_X2 = class_BM2[frame_X, item_X].astype(np.int64)
    seen_BVC = np.zeros((len(uv_BM2), rows * columns, sum(counts)), dtype=np.float32)
    offset_BV2 = np.zeros((len(uv_BM2), rows * columns, 2), dtype=np.float32)
    occupied_BV = np.zeros(seen_BVC.shape[:2], dtype=bool)
    seen_BVC[frame_X, cell_X, class_X2[:, 0]] = 1.0
    seen_BVC[frame_X, cell_X, counts[0] + class_X2[:, 1]] = 1.0
    offset_BV2[frame_X, cell_X] = scaled_X2 - cell_X2
    occupied_BV[frame_X, cell_X] = True
    return {"seen_BVC": seen_BVC, "offset_BV2": offset_BV2, "occupied_BV": occupied_BV}


def _pick_labels(rng: np.random.Generator, frames: int, recorded: int, wanted: int) -> np.ndarray:
    """Different label indices of each frame, [frames, wanted]."""
    if wanted == recorded:
        return np.broadcast_to(np.arange(recorded), (frames, recorded))
    return np.argsort(rng.random((frames, recorded)), axis=1)[:, :wanted]
