# SPDX-License-Identifier: Apache-2.0
"""The learned merges are the library's, and the library-free encoder segments as the library does."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tokenizers import Tokenizer

from vla_ros.core.dataset_statistics import ValueStatistics
from vla_ros.core.errors import ActionError, ConfigError
from vla_ros.core.fast_tokens import largest_coefficient, quantized_spectrum
from vla_ros.train import fast_tokenizer
from vla_ros.train.fast_tokenizer import spell, train_fast_tokenizer

HORIZON, DIMS = 8, 3


def smooth_chunks(seed, count):
    """Straight lines with a bend, as expert chunks have them."""
    rng = np.random.default_rng(seed)
    start, end = rng.uniform(-1, 1, (2, count, 1, DIMS))
    bend = rng.uniform(0, 1, (count, 1, 1))
    time = np.linspace(0, 1, HORIZON)[None, :, None]
    return start + np.minimum(time, bend) * (end - start)


CHUNKS = smooth_chunks(0, 400)
STATS = ValueStatistics.of(CHUNKS.reshape(-1, DIMS))
TOKENIZER = train_fast_tokenizer(CHUNKS, STATS, vocab_size=300)


def library_tokenizer(monkeypatch):
    """The library's own tokenizer of the same training."""
    kept: list[Tokenizer] = []
    learn = fast_tokenizer._learn
    monkeypatch.setattr(fast_tokenizer, "_learn", lambda *args: kept.append(learn(*args)) or kept[0])
    train_fast_tokenizer(CHUNKS, STATS, vocab_size=300)
    return kept[0]


def test_held_out_chunks_are_segmented_as_the_library_does(monkeypatch):
    library, limit = library_tokenizer(monkeypatch), largest_coefficient(HORIZON, 10.0)
    vocabulary = {text: index for index, text in enumerate(spell(np.array(e), limit) for e in TOKENIZER.vocabulary.expansions)}
    for chunk in smooth_chunks(1, 100):
        coefficients = quantized_spectrum(TOKENIZER.normalizer.normalize(chunk), TOKENIZER.scale)
        expected = [vocabulary[token] for token in library.encode(spell(coefficients, limit)).tokens]
        assert TOKENIZER.encode(chunk).tolist() == expected


def test_the_vocabulary_has_the_library_s_entries(monkeypatch):
    library, limit = library_tokenizer(monkeypatch), largest_coefficient(HORIZON, 10.0)
    assert {spell(np.array(e), limit) for e in TOKENIZER.vocabulary.expansions} == set(library.get_vocab())
    assert TOKENIZER.vocabulary.size == 300
    assert len(json.loads(library.to_str())["model"]["merges"]) == len(TOKENIZER.vocabulary.merges)


def test_held_out_chunks_come_back_within_the_bound_and_shorter():
    held_out = np.clip(smooth_chunks(2, 100), STATS.q01, STATS.q99)
    lengths = []
    for chunk in held_out:
        tokens = TOKENIZER.encode(chunk, clip=False)
        lengths.append(len(tokens))
        assert (np.abs(TOKENIZER.decode(tokens, strict=True) - chunk) <= TOKENIZER.error_bound_D + 1e-9).all()
    assert np.mean(lengths) < HORIZON * DIMS / 2


def test_training_is_deterministic():
    assert train_fast_tokenizer(CHUNKS, STATS, vocab_size=300).to_dict() == TOKENIZER.to_dict()


def test_any_chunk_can_be_encoded_not_only_those_of_the_training():
    wild = np.where(np.random.default_rng(0).random((50, HORIZON, DIMS)) < 0.5, STATS.q01, STATS.q99)
    for chunk in wild:
        assert (np.abs(TOKENIZER.decode(TOKENIZER.encode(chunk)) - chunk) <= TOKENIZER.error_bound_D + 1e-9).all()


@pytest.mark.parametrize("chunks", [np.zeros((0, 5, 3)), np.zeros((5, 3))])
def test_no_chunks_are_refused(chunks):
    with pytest.raises(ConfigError, match="chunks"):
        train_fast_tokenizer(chunks, STATS)


def test_a_vocabulary_too_small_for_single_coefficients_is_refused():
    with pytest.raises(ConfigError, match="raise vocab_size"):
        train_fast_tokenizer(CHUNKS, STATS, vocab_size=50)


def test_data_that_are_not_finite_are_refused():
    with pytest.raises(ActionError, match="finite"):
        train_fast_tokenizer(np.full((2, HORIZON, DIMS), np.nan), STATS)
