# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_ros.core.errors import ConfigError, InstructionTooLong
from vla_ros.core.tabletop import PROMPT_TEMPLATE
from vla_ros.train.tokenizer import PAD_ID, encode_prompts, train_tokenizer, word_ids

TEXTS = ["pick up the red cube", "put the blue brick in the green bowl"]
TOKENIZER = train_tokenizer(TEXTS, PROMPT_TEMPLATE)


def ids(text: str) -> list[int]:
    return [int(i) for i in encode_prompts(TOKENIZER, PROMPT_TEMPLATE, [text], 64)[0] if i != PAD_ID]


def test_known_words_are_one_token_each():
    assert len(ids(TEXTS[0])) == 5 + 2  # "robot:" and " action:" are one each


def test_case_blanks_and_final_punctuation_do_not_matter():
    assert ids("  Pick up  the RED cube. ") == ids("pick up the red cube")


def test_training_is_deterministic():
    assert train_tokenizer(TEXTS[::-1] * 2, PROMPT_TEMPLATE).to_str() == TOKENIZER.to_str()


def test_padding_is_at_the_end():
    rows = encode_prompts(TOKENIZER, PROMPT_TEMPLATE, TEXTS, 24)
    for row in rows:
        used = (row != PAD_ID).sum()
        assert (row[:used] != PAD_ID).all()


def test_a_long_text_is_refused_not_cut():
    with pytest.raises(InstructionTooLong, match="the policy reads 8"):
        encode_prompts(TOKENIZER, PROMPT_TEMPLATE, ["pick up the red cube and the blue cube"], 8)


def test_words_have_ids_and_unknown_ones_are_refused():
    assert len(set(word_ids(TOKENIZER, ["red", "blue", "cube"]))) == 3
    with pytest.raises(ConfigError, match="'zebra' is not one token"):
        word_ids(TOKENIZER, ["zebra"])


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=12))
def test_any_text_can_be_encoded(text):
    assert all(0 < i < TOKENIZER.get_vocab_size() for i in TOKENIZER.encode(text).ids)
