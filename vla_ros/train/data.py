# SPDX-License-Identifier: Apache-2.0
"""From shards to batches: drawing, augmentation and targets.

A batch depends only on the seed, its number and the shards known: a run that was interrupted goes on with the same
batches. Axes: B frames, K labels of a frame, N = B*K, T text tokens, H steps, D dimensions, Q = H*D, V cells, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from vla_ros.core.action_tokens import ActionTokenizer
from vla_ros.core.errors import ConfigError, InstructionTooLong
from vla_ros.core.tabletop import PROMPT_TEMPLATE, TEXT_TOKENS
from vla_ros.model.config import PolicyConfig, grid_of
from vla_ros.train.augment import insert_foreign_words, jitter_pictures
from vla_ros.train.config import DataConfig
from vla_ros.train.dataset import Dataset, is_held_out
from vla_ros.train.history import past_rows
from vla_ros.train.questions import QuestionBatch, QuestionMaker
from vla_ros.train.shards import DataError, Shard
from vla_ros.train.tokenizer import PAD_ID, encode_prompts

__all__ = ["Batch", "BatchMaker", "Dataset", "is_held_out", "object_targets"]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One step's tensors. `actions_NHD` in physical units; `given_NQ` are their
    vocabulary ids, of which `prefix_NQ` shows the committed ones; `committed_NH` marks committed steps; `point_N2` is the plan's
    place in parts of its bounds; `seen_BVC` and `offset_BV2` describe the objects in each cell of the first camera,
    `occupied_BV` says where there is one. `touch_BP` are
    contact forces in N, if the data have them; `questions` are about pictures of their own."""

    images: dict[str, Tensor]
    text_NT: Tensor
    proprio_BS: Tensor
    withheld_B: Tensor
    prefix_NQ: Tensor
    given_NQ: Tensor
    actions_NHD: Tensor
    committed_NH: Tensor
    phase_N: Tensor
    point_N2: Tensor
    seen_BVC: Tensor
    offset_BV2: Tensor
    occupied_BV: Tensor
    touch_BP: Tensor | None = None
    questions: QuestionBatch | None = None


class BatchMaker:
    """Draws and prepares batches. One thread at a time.

    Args:
        model: the policy's shape, whose bounds of actions may be its own (`vla_ros.train.action_bins`) and which may see past frames.
        questions: asked beside the demonstrations in training batches.
    """

    def __init__(
        self,
        dataset: Dataset,
        tokenizer: Tokenizer,
        config: DataConfig,
        seed: int,
        model: PolicyConfig | None = None,
        questions: QuestionMaker | None = None,
    ) -> None:
        self.dataset = dataset
        self.meta = dataset.meta if model is None else replace(dataset.meta, action=model.action)
        self.frames = 1 if model is None else model.frames
        self.fingers = 0 if model is None else model.touch_dim
        self.questions = questions
        if self.fingers and not any("touch" in shard.arrays for shard in dataset.shards):
            raise ConfigError("model.touch_dim is set, but no shard has touch.npy: collect again with this release, or set it to 0")
        self.config = config
        self.seed = seed
        self._tokenizer = tokenizer
        self._texts: dict[Path, np.ndarray] = {}
        self._codec = ActionTokenizer(self.meta.action, tokenizer.get_vocab_size())
        known = np.unique(np.concatenate([self._text_ids(shard).ravel() for shard in dataset.shards]))
        self._foreign_X = np.setdiff1d(np.arange(tokenizer.get_vocab_size()), known)

    def training_batch(self, number: int) -> Batch:
        """Batch `number` of the run, augmented; the same for the same seed, number and shards."""
        rng = np.random.default_rng([self.seed, number])
        drawn = self.dataset.draw(rng, self.config.frames_per_batch)
        labels = min(self.config.labels_per_frame, self.dataset.labels)
        batch = self._make(drawn, labels, rng, augment=True)
        return batch if self.questions is None else replace(batch, questions=self.questions.training_batch(number))

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
        pictures = {camera.name: np.concatenate([self._pictures(shard, rows, camera.name) for shard, rows in drawn]) for camera in self.dataset.meta.body.cameras}
        committed_NH = np.arange(actions_NHD.shape[1]) < committed_N[:, None]
        withheld_B = np.zeros(frames, dtype=bool)
        if augment:
            jitter_pictures(pictures, rng, self.config)
            text_NT = insert_foreign_words(text_NT, self._foreign_X, rng, self.config.foreign_words, PAD_ID)
            withheld_B = rng.random(frames) < self.config.proprio_dropout
        given_NQ = self._ids(actions_NHD)
        meta = self.dataset.meta
        low, high = np.array(meta.point_low), np.array(meta.point_high)
        seen = object_targets(
            np.concatenate([shard.arrays["object_uv"][rows] for shard, rows in drawn]),
            np.concatenate([shard.arrays["object_class"][rows] for shard, rows in drawn]),
            grid_of(meta.body.cameras[0]),
            (len(meta.colours), len(meta.kinds)),
        )
        arrays = {
            "text_NT": text_NT[:, : int((text_NT != PAD_ID).sum(1).max())],
            "proprio_BS": np.concatenate([shard.arrays["proprio"][rows] for shard, rows in drawn]),
            "withheld_B": withheld_B,
            "prefix_NQ": np.where(committed_NH.repeat(actions_NHD.shape[2], axis=1), given_NQ, -1),
            "given_NQ": given_NQ,
            "actions_NHD": actions_NHD,
            "committed_NH": committed_NH,
            "phase_N": plan_N3[:, 0].astype(np.int64),
            "point_N2": np.clip((plan_N3[:, 1:] - low) / (high - low), 0.0, 1.0).astype(np.float32),
            **seen,
        }
        if self.fingers:
            dropout = self.config.touch_dropout if augment else 0.0
            arrays["touch_BP"] = self._touch(drawn, rng.random(frames) < dropout)
        tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
        return Batch(images={name: torch.from_numpy(picture) for name, picture in pictures.items()}, **tensors)

    def _pictures(self, shard: Shard, rows: np.ndarray, camera: str) -> np.ndarray:
        """uint8 [B, H, W, 3], or [B, R, H, W, 3] with the newest frame first where the policy sees several."""
        if self.frames == 1:
            return shard.arrays[camera][rows]
        return shard.arrays[camera][past_rows(shard.arrays["episode"], shard.arrays["frame"], rows, self.frames)]

    def _touch(self, drawn: list[tuple[Shard, np.ndarray]], unknown_B: np.ndarray) -> np.ndarray:
        """Contact forces in N, float32 [B, P]; NaN where they were not recorded or `unknown_B`."""
        parts = []
        for shard, rows in drawn:
            forces = shard.arrays["touch"][rows] if "touch" in shard.arrays else np.full((len(rows), self.fingers), np.nan, dtype=np.float32)
            if forces.shape[1] != self.fingers:
                raise DataError(f"{shard.path / 'touch.npy'} has forces of {forces.shape[1]} fingers, model.touch_dim is {self.fingers}: set it to that")
            parts.append(forces)
        return np.where(unknown_B[:, None], np.float32(np.nan), np.concatenate(parts))

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

    def _ids(self, actions_NHD: np.ndarray) -> np.ndarray:
        """Vocabulary ids of actions, int64 [N, Q]."""
        return self._codec.bins_to_ids(self._codec.actions_to_bins(actions_NHD, clip=True)).astype(np.int64).reshape(len(actions_NHD), -1)


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
