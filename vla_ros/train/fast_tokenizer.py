# SPDX-License-Identifier: Apache-2.0
"""Learns the merges of FAST action tokens (arXiv 2501.09747) from action chunks. The codec itself is core/fast_tokens.py.

Each coefficient becomes one character of a private Unicode area, a chunk one text without blanks, and the `tokenizers`
library learns which pairs to merge. Its result is carried over to plain pairs of numbers, so that the robot needs no library.
Axes: N chunks, H steps, D dimensions.
"""

from __future__ import annotations

import json

import numpy as np
from tokenizers import Tokenizer, models, trainers

from vla_ros.core.dataset_statistics import ValueStatistics
from vla_ros.core.errors import ConfigError
from vla_ros.core.fast_tokens import FastTokenizer, FastVocabulary, largest_coefficient, quantized_spectrum
from vla_ros.core.quantile_bins import QuantileNormalizer

VOCAB_SIZE = 1024  # the paper's
SCALE = 10.0  # the paper's
_FIRST_CHARACTER = 0xE000  # the private use area has room for 6,400 coefficients
_AREA = 6400


def train_fast_tokenizer(
    chunks_NHD: np.ndarray, stats: ValueStatistics, *, vocab_size: int = VOCAB_SIZE, scale: float = SCALE, first_token_id: int = 0
) -> FastTokenizer:
    """Learns a codec for chunks of this horizon. Deterministic.

    Args:
        chunks_NHD: chunks in physical units; values outside the quantiles are clipped.
        stats: the normalisation.
        vocab_size: at most this many ids, those of the single coefficients included.
        scale: coefficients are rounded to multiples of 1/scale.
        first_token_id: vocabulary id of the first FAST id.

    Raises:
        ConfigError: no chunks, or a vocabulary too small for the single coefficients.
        ActionError: a value that is not finite.
    """
    chunks_NHD = np.asarray(chunks_NHD, dtype=np.float64)
    if chunks_NHD.ndim != 3 or not chunks_NHD.size:
        raise ConfigError(f"FAST needs chunks [N, H, D] with at least one value, got shape {list(chunks_NHD.shape)}")
    horizon = chunks_NHD.shape[1]
    limit = largest_coefficient(horizon, scale)
    alphabet = 2 * limit + 1
    if not alphabet <= min(vocab_size, _AREA):
        raise ConfigError(f"horizon {horizon} and scale {scale} have {alphabet} coefficients: raise vocab_size above that, or lower the scale")
    normal_NHD = QuantileNormalizer(stats).normalize(chunks_NHD)
    texts = [spell(quantized_spectrum(normal_HD, scale), limit) for normal_HD in normal_NHD]
    vocabulary = FastVocabulary(max_coefficient=limit, merges=_merges_of(_learn(texts, limit, vocab_size), limit))
    return FastTokenizer(stats, horizon, vocabulary, scale=scale, first_token_id=first_token_id)


def spell(coefficients_S: np.ndarray, limit: int) -> str:
    """Rounded coefficients as characters, the smallest (-limit) as the first of the private area."""
    return "".join(chr(_FIRST_CHARACTER + limit + int(coefficient)) for coefficient in coefficients_S)


def _learn(texts: list[str], limit: int, vocab_size: int) -> Tokenizer:
    """Byte-pair encoding over characters; nothing splits a chunk, so that merges may cross dimensions and frequencies."""
    tokenizer = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        initial_alphabet=[chr(_FIRST_CHARACTER + index) for index in range(2 * limit + 1)],
        special_tokens=[],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _merges_of(tokenizer: Tokenizer, limit: int) -> tuple[tuple[int, int], ...]:
    """The library's merges of texts as pairs of ids, numbered as `FastVocabulary` numbers them."""
    ids = {chr(_FIRST_CHARACTER + index): index for index in range(2 * limit + 1)}
    merges = []
    for pair in json.loads(tokenizer.to_str())["model"]["merges"]:
        left, right = pair if isinstance(pair, list) else pair.split(" ")
        merges.append((ids[left], ids[right]))
        ids.setdefault(left + right, len(ids))
    return tuple(merges)
