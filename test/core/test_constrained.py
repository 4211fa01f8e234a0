# SPDX-License-Identifier: Apache-2.0
"""Whatever a network prefers among the legal ids, the finished answer decodes: random walks over every codec."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_ros.core.action_tokens import ActionTokenizer
from vla_ros.core.constrained import generate
from vla_ros.core.dataset_statistics import ValueStatistics
from vla_ros.core.errors import ConfigError, DecodeError
from vla_ros.core.fast_tokens import FastTokenizer, FastVocabulary
from vla_ros.core.quantile_bins import QuantileTokenizer
from vla_ros.core.tabletop import ACTION_SPEC

STATS = ValueStatistics.of(np.random.default_rng(0).uniform(ACTION_SPEC.low_D, ACTION_SPEC.high_D, (200, 6)))
# Ids 0...46 are the coefficients -23...23; then runs of 2, 4 and 8 zeros (47, 48, 49), -1 and 1 (50), 5 zeros (51).
MERGES = ((23, 23), (47, 47), (48, 48), (22, 24), (48, 23))
CODECS = {
    "uniform": ActionTokenizer(ACTION_SPEC, 512),
    "quantile": QuantileTokenizer(STATS, horizon=5, text_vocab_size=700),
    "fast": FastTokenizer(STATS, 5, FastVocabulary(max_coefficient=23, merges=MERGES), first_token_id=300),
}
VOCAB_SIZE = 800


def decode(codec, ids):
    ids = np.array(ids, dtype=np.int32)
    return codec.decode(ids if isinstance(codec, FastTokenizer) else ids.reshape(5, 6))


@pytest.mark.parametrize("name", CODECS)
@given(seed=st.integers(0, 2**32 - 1))
def test_every_random_walk_over_legal_ids_ends_in_actions_inside_the_bounds(name, seed):
    codec, rng = CODECS[name], np.random.default_rng(seed)
    logits = rng.normal(size=(31, VOCAB_SIZE))
    ids = generate(codec, VOCAB_SIZE, lambda generated: logits[len(generated)])
    actions_HD = decode(codec, ids)
    assert actions_HD.shape == (5, 6)
    assert (np.abs(actions_HD - 0.5 * (ACTION_SPEC.low_D + ACTION_SPEC.high_D)) <= 0.5 * (ACTION_SPEC.high_D - ACTION_SPEC.low_D) + 1e-9).all()
    assert not codec.legal_next(ids, VOCAB_SIZE).any()


@pytest.mark.parametrize("name", CODECS)
@given(seed=st.integers(0, 2**32 - 1))
def test_an_id_is_legal_exactly_when_an_answer_can_go_on_with_it(name, seed):
    """The mask is neither too narrow nor too wide: after an illegal id the prefix itself is refused."""
    codec, rng = CODECS[name], np.random.default_rng(seed)
    generated: list[int] = []
    while (legal_V := codec.legal_next(generated, VOCAB_SIZE)).any():
        for token in rng.integers(0, VOCAB_SIZE, 5).tolist():
            if legal_V[token]:
                codec.legal_next([*generated, token], VOCAB_SIZE)
            else:
                with pytest.raises(DecodeError):
                    codec.legal_next([*generated, token], VOCAB_SIZE)
        generated.append(int(rng.choice(np.flatnonzero(legal_V))))


@pytest.mark.parametrize("name", CODECS)
@given(seed=st.integers(0, 2**32 - 1))
def test_what_was_encoded_is_legal_at_every_position(name, seed):
    codec = CODECS[name]
    actions_HD = np.random.default_rng(seed).uniform(ACTION_SPEC.low_D, ACTION_SPEC.high_D, (5, 6))
    ids = codec.encode(actions_HD, clip=True).reshape(-1).tolist()
    for position, token in enumerate(ids):
        assert codec.legal_next(ids[:position], VOCAB_SIZE)[token]


@pytest.mark.parametrize("name", CODECS)
def test_the_network_s_choice_counts_among_the_legal_ids_only(name):
    codec = CODECS[name]
    first, last = codec.first_token_id, codec.end_token_id - 1
    logits = np.full(VOCAB_SIZE, -np.inf)
    logits[0], logits[last] = 9.0, 1.0  # an ordinary word is the favourite
    ids = generate(codec, VOCAB_SIZE, lambda generated: logits)
    assert ids[0] == last and (ids >= first).all()


@pytest.mark.parametrize("name", CODECS)
def test_a_beginning_that_is_no_action_is_refused(name):
    codec = CODECS[name]
    for bad in ([codec.first_token_id - 1], [codec.end_token_id], [codec.first_token_id] * 31):
        with pytest.raises(DecodeError):
            codec.legal_next(bad, VOCAB_SIZE)
    with pytest.raises(ConfigError, match="vocab_size"):
        codec.legal_next([], codec.end_token_id - 1)


def test_fast_ids_that_would_overshoot_are_masked():
    codec, two, four, eight = CODECS["fast"], 300 + 47, 300 + 48, 300 + 49
    generated = [eight] * 3  # 24 of 30 coefficients
    assert np.flatnonzero(~codec.legal_next(generated, VOCAB_SIZE)[300:352]).tolist() == [49]
    generated += [four, 300]  # one is missing
    assert np.flatnonzero(codec.legal_next(generated, VOCAB_SIZE)).tolist() == list(range(300, two))
    with pytest.raises(DecodeError, match="1 coefficients more"):
        codec.legal_next([*generated, two], VOCAB_SIZE)


@pytest.mark.parametrize("logits", [np.zeros(3), np.full(VOCAB_SIZE, np.nan)])
def test_logits_of_a_wrong_shape_or_nan_are_no_action(logits):
    with pytest.raises(DecodeError, match="logits"):
        generate(CODECS["uniform"], VOCAB_SIZE, lambda generated: logits)
