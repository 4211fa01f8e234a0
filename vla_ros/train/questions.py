# SPDX-License-Identifier: Apache-2.0
"""Questions for co-training: `vla collect --questions` on disk, checked, and drawn as batches beside those of demonstrations.

Axes: N pictures of a shard, B pictures of a batch, K questions of each, M = B*K, T text tokens, L answer tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from tokenizers import Tokenizer
from torch import Tensor

from vla_ros.core.answers import QUESTION_TEMPLATE
from vla_ros.core.errors import ConfigError
from vla_ros.core.schema import Fields
from vla_ros.core.tabletop import CAMERAS, TEXT_TOKENS
from vla_ros.model.policy import Policy
from vla_ros.train.augment import jitter_pictures
from vla_ros.train.config import DataConfig
from vla_ros.train.dataset import is_held_out
from vla_ros.train.parallel import Processes, map_tensors
from vla_ros.train.shards import DataError, load_array
from vla_ros.train.tokenizer import PAD_ID, encode_prompts

FORMAT_VERSION = 2
INDICES = ("question", "answer", "kind")
TOOL = 4  # where it appears, its height, its half opening


@dataclass(frozen=True, kw_only=True)
class QuestionShard:
    """Memory-mapped arrays of one shard (`vla_ros.sim.question_data`), and the texts that `question` and `answer` index."""

    path: Path
    arrays: dict[str, np.ndarray]
    questions: list[str]
    answers: list[str]


@dataclass(frozen=True, kw_only=True)
class QuestionBatch:
    """One step's questions. `answer_ML` holds ids padded with the end; `counts_ML` marks the answer and its first end; `kind_M` indexes the kinds.

    `place_BR2` and `tool_B4` are where everything is, as in the shards.
    """

    images: dict[str, Tensor]
    text_MT: Tensor
    answer_ML: Tensor
    counts_ML: Tensor
    kind_M: Tensor
    place_BR2: Tensor
    tool_B4: Tensor


class QuestionDataset:
    """All shards of several folders, with whole scenes held out.

    Raises:
        DataError: a folder that is no question dataset, without shards, or a shard that is damaged; names file and row.
    """

    def __init__(self, folders: Sequence[Path], val_fraction: float) -> None:
        self.folders = [Path(folder) for folder in folders]
        metas = [_read_meta(folder) for folder in self.folders]
        self.kinds, self.objects, _ = metas[0]
        if any(meta[:2] != metas[0][:2] for meta in metas):
            raise DataError(f"question datasets have different kinds of questions, or objects: {[[list(part) for part in meta[:2]] for meta in metas]}")
        self._first_seeds = [seed for _, _, seed in metas]
        self.shards = [_open(path, len(self.kinds), len(self.objects)) for folder in self.folders for path in sorted(folder.glob("shard_*")) if not path.suffix]
        if not self.shards:
            raise DataError(f"no finished shard_* in {', '.join(map(str, self.folders))}: run `vla collect --questions` first")
        held_out = [is_held_out(shard.arrays["episode"], val_fraction) for shard in self.shards]
        self._rows = {wanted: [np.flatnonzero(held_N == wanted) for held_N in held_out] for wanted in (False, True)}

    def facts(self) -> dict[str, Any]:
        """What a checkpoint says of the questions that it learned from."""
        return {"pictures": self.num_pictures(), "first_seeds": self._first_seeds, "kinds": list(self.kinds)}

    def num_pictures(self, held_out: bool = False) -> int:
        """Pictures to train on, or to validate on."""
        return sum(len(rows) for rows in self._rows[held_out])

    def texts(self) -> Iterator[str]:
        """Every question and every answer, repetitions included."""
        for shard in self.shards:
            yield from shard.questions
            yield from shard.answers

    def draw(self, rng: np.random.Generator, count: int, held_out: bool) -> list[tuple[QuestionShard, np.ndarray]]:
        """`count` random pictures as (shard, rows), with replacement."""
        sizes = np.array([len(rows) for rows in self._rows[held_out]], dtype=np.float64)
        if not sizes.sum():
            raise ConfigError("no pictures with questions " + ("held out: collect more or raise data.val_fraction" if held_out else "to train on: collect more"))
        chosen = rng.choice(len(sizes), size=count, p=sizes / sizes.sum())
        counts = np.bincount(chosen, minlength=len(sizes))
        return [(self.shards[i], np.sort(self._rows[held_out][i][rng.integers(len(self._rows[held_out][i]), size=n)])) for i, n in enumerate(counts) if n]


class QuestionMaker:
    """Draws and prepares batches; a batch depends on the seed and its number alone. One thread at a time.

    Args:
        answer_tokens: longest answer, the end included.
        frames: pictures of each camera that the policy sees; a question's picture stands for all of them.

    Raises:
        ConfigError: an answer that needs more tokens, or a question too long for a prompt.
    """

    def __init__(self, dataset: QuestionDataset, tokenizer: Tokenizer, config: DataConfig, seed: int, answer_tokens: int, frames: int = 1) -> None:
        self.dataset, self.config, self.seed = dataset, config, seed
        self._tokens, self._frames = answer_tokens, frames
        self._prompts = {s.path: encode_prompts(tokenizer, QUESTION_TEMPLATE, s.questions, TEXT_TOKENS) for s in dataset.shards}
        self._answers = {s.path: encode_answers(tokenizer, s.answers, answer_tokens) for s in dataset.shards}

    def training_batch(self, number: int) -> QuestionBatch:
        """Batch `number` of the run, augmented."""
        rng = np.random.default_rng([self.seed, number, 1])
        return self._make(self.dataset.draw(rng, self.config.question_frames, False), rng, self.config.questions_per_frame, augment=True)

    def validation_batches(self, pictures: int) -> Iterator[QuestionBatch]:
        """Always the same held-out pictures, with as many questions of each as the poorest dataset has."""
        rng = np.random.default_rng([self.seed, 1 << 32, 1])
        size = self.config.question_frames
        for start in range(0, pictures, size):
            yield self._make(self.dataset.draw(rng, min(size, pictures - start), True), rng, None, augment=False)

    def _make(self, drawn: list[tuple[QuestionShard, np.ndarray]], rng: np.random.Generator, wanted: int | None, augment: bool) -> QuestionBatch:
        fewest = min(shard.arrays["question"].shape[1] for shard, _ in drawn)
        wanted = min(wanted or fewest, fewest)
        parts: dict[str, list[np.ndarray]] = {"text": [], "answer": [], "kind": []}
        for shard, rows in drawn:
            pick = np.argsort(rng.random((len(rows), shard.arrays["question"].shape[1])), axis=1)[:, :wanted]
            at = (rows[:, None], pick)
            parts["text"].append(self._prompts[shard.path][shard.arrays["question"][at].ravel()])
            parts["answer"].append(self._answers[shard.path][shard.arrays["answer"][at].ravel()])
            parts["kind"].append(shard.arrays["kind"][at].ravel())
        text_MT, answer_ML, kind_M = (np.concatenate(part) for part in parts.values())
        pictures = {CAMERAS[0].name: np.concatenate([shard.arrays[CAMERAS[0].name][rows] for shard, rows in drawn])}
        if augment:
            jitter_pictures(pictures, rng, self.config)
        used_ML = np.cumsum(answer_ML == PAD_ID, axis=1) <= 1  # up to the first end
        text_MT = text_MT[:, : int((text_MT != PAD_ID).sum(1).max())]
        return QuestionBatch(
            images=pictures_of(torch.from_numpy(pictures[CAMERAS[0].name]), self._frames),
            text_MT=torch.from_numpy(np.ascontiguousarray(text_MT)),
            answer_ML=torch.from_numpy(answer_ML),
            counts_ML=torch.from_numpy(used_ML),
            kind_M=torch.from_numpy(kind_M.astype(np.int64)),
            place_BR2=torch.from_numpy(np.concatenate([shard.arrays["place"][rows] for shard, rows in drawn])),
            tool_B4=torch.from_numpy(np.concatenate([shard.arrays["tool"][rows] for shard, rows in drawn])),
        )


def pictures_of(picture_BHWC: Tensor, frames: int) -> dict[str, Tensor]:
    """A policy's pictures where there is one of the first camera only: it stands for past ones too, the other cameras are absent."""
    return {CAMERAS[0].name: picture_BHWC if frames == 1 else picture_BHWC[:, None].expand(-1, frames, -1, -1, -1)}


def encode_answers(tokenizer: Tokenizer, answers: Sequence[str], length: int) -> np.ndarray:
    """Ids of each answer as it goes on after the prompt, int64 [N, length], filled up with the end `PAD_ID`; nothing is cut.

    Raises:
        ConfigError: naming an answer that is too long.
    """
    ids_NL = np.full((len(answers), length), PAD_ID, dtype=np.int64)
    for row, answer in zip(ids_NL, answers):
        ids = tokenizer.encode(f" {answer}").ids
        if len(ids) >= length:
            raise ConfigError(f"the answer '{answer}' needs {len(ids) + 1} tokens with its end: raise model.answer_tokens from {length}")
        row[: len(ids)] = ids
    return ids_NL


@dataclass(frozen=True, kw_only=True)
class Answered:
    """What a batch of questions costs: `language`, the mean cross-entropy in nats per answer token; `objects`, what the policy's eye gets
    wrong of where things are (0 without one); and whether each question's greedy answer is right, bool [M]."""

    language: Tensor
    objects: Tensor
    right_M: Tensor


def answer_loss(model: Policy, batch: QuestionBatch, processes: Processes | None = None) -> Answered:
    """Asks all questions of a batch.

    Greedy decoding says the whole answer if and only if every token is the most probable one after the true ones before it.
    """
    logits_MLV, table = model.answer_with_table(batch.images, batch.text_MT, batch.answer_ML)
    loss_ML = F.cross_entropy(logits_MLV.transpose(1, 2), batch.answer_ML, reduction="none")
    right_ML = (logits_MLV.argmax(-1) == batch.answer_ML) | ~batch.counts_ML
    language = (loss_ML * batch.counts_ML).sum() / (processes or Processes()).mean(batch.counts_ML.sum())
    objects = language.new_zeros(()) if table is None else model.eye.loss(table, batch.place_BR2, batch.tool_B4)
    return Answered(language=language, objects=objects, right_M=right_ML.all(1))


@torch.inference_mode()
def measure_answers(model: Policy, maker: QuestionMaker, pictures: int, device: str = "cpu") -> dict[str, float]:
    """`loss_language`, `loss_objects` where the policy has an eye, and `answer_accuracy`, over all held-out questions and for each kind."""
    answered, kinds = [], []
    for batch in maker.validation_batches(pictures):
        answered.append(map_tensors(answer_loss(model, map_tensors(batch, lambda tensor: tensor.to(device))), Tensor.cpu))
        kinds.append(batch.kind_M)
    right_M, kind_M = torch.cat([part.right_M for part in answered]).float(), torch.cat(kinds)
    losses = {f"loss_{name}": float(np.mean([float(getattr(part, name)) for part in answered])) for name in ("language", *(("objects",) if model.eye else ()))}
    by_kind = {f"answer_accuracy_{name}": float(right_M[kind_M == i].mean()) for i, name in enumerate(maker.dataset.kinds) if (kind_M == i).any()}
    return {**losses, "answer_accuracy": float(right_M.mean()), **by_kind}


def _read_meta(folder: Path) -> tuple[tuple[str, ...], tuple[str, ...], int | None]:
    """The kinds of questions, the objects that a scene may have, and the first scene's seed."""
    path = folder / "meta.yaml"
    try:
        fields = Fields(yaml.safe_load(path.read_text(encoding="utf-8")), str(path), DataError)
    except (OSError, yaml.YAMLError) as error:
        raise DataError(f"cannot read {path}: {error}; give a folder that `vla collect --questions` wrote") from error
    if fields.raw("content", None) != "questions":
        raise fields.refuse("this is no question dataset: give a folder that `vla collect --questions` wrote")
    version = fields.integer("format_version", 1)
    if version != FORMAT_VERSION:
        raise fields.refuse(f"format_version is {version}, this release reads {FORMAT_VERSION}: collect again")
    return tuple(map(str, fields.raw("kinds"))), tuple(map(str, fields.raw("objects"))), fields.raw("first_seed", None)


def _open(path: Path, kinds: int, objects: int) -> QuestionShard:
    arrays = {name: load_array(path / f"{name}.npy") for name in (CAMERAS[0].name, *INDICES, "place", "tool", "episode")}
    try:
        texts = json.loads((path / "texts.json").read_text(encoding="utf-8"))
        questions, answers = list(texts["questions"]), list(texts["answers"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"cannot read {path / 'texts.json'}: {error}") from error
    rows = len(arrays["episode"]) if arrays["episode"].ndim else 0
    if not rows:
        raise DataError(f"{path / 'episode.npy'} is empty: delete the shard or collect it again")
    asked = arrays["question"].shape[-1]
    expected = {
        CAMERAS[0].name: (np.uint8, (rows, *CAMERAS[0].shape)), "episode": (np.int32, (rows,)), **{name: (np.int32, (rows, asked)) for name in INDICES},
        "place": (np.float32, (rows, objects, 2)), "tool": (np.float32, (rows, TOOL)),
    }  # fmt: skip
    for name, (dtype, shape) in expected.items():
        if arrays[name].dtype != dtype or arrays[name].shape != shape:
            raise DataError(f"{path / (name + '.npy')}: expected {np.dtype(dtype)} {list(shape)}, got {arrays[name].dtype} {list(arrays[name].shape)}")
    for name, limit in zip(INDICES, (len(questions), len(answers), kinds)):
        bad = (arrays[name] < 0) | (arrays[name] >= limit)
        if bad.any():
            row = np.argwhere(bad)[0]
            raise DataError(f"{path / (name + '.npy')}: row {row[0]}: expected an index below {limit}, got {arrays[name][tuple(row)]}")
    for row in np.flatnonzero(~np.isfinite(arrays["tool"]).all(1))[:1]:
        raise DataError(f"{path / 'tool.npy'}: row {row}: expected finite numbers, got {arrays['tool'][row].tolist()}")
    return QuestionShard(path=path, arrays=arrays, questions=questions, answers=answers)


def keep_all_but_answers(model: Policy) -> None:
    """Only what no acting depends on goes on learning: what questions have of their own, and where in its cell an object's centre lies."""
    own = {id(parameter) for part in (model.answers, model.finder, model.answer_blocks, model.eye, model.read_offset) if part for parameter in part.parameters()}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in own)
