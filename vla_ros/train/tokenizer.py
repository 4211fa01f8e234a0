# SPDX-License-Identifier: Apache-2.0
"""Byte-level BPE for instructions. Action ids follow the text's: bin 0 is id `tokenizer.get_vocab_size()`."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from vla_ros.core.errors import ConfigError, InstructionTooLong
from vla_ros.core.text import PLACEHOLDER, build_prompt, normalize_instruction

PAD = "<pad>"
PAD_ID = 0


def train_tokenizer(instructions: Iterable[str], template: str, vocab_size: int = 512) -> Tokenizer:
    """Learns the vocabulary from prompts.

    The tokenizer itself ignores case and a sentence's final punctuation, and reads each part of the template as one
    piece, so that every prompt starts and ends with a single token. Any text can be encoded (bytes are the fallback).

    Args:
        instructions: all texts of the training data; others whose words should be whole tokens may be added.
        template: prompt template with `{instruction}`.
        vocab_size: at most this many ids, the padding id 0 and the 256 bytes included.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Lowercase(), normalizers.Replace(Regex(r"[.!?,;]+(?=\s)"), "")]
    )
    parts = [re.escape(part.rstrip() if index == 0 else part).lower() for index, part in enumerate(template.split(PLACEHOLDER)) if part.strip()]
    pieces = "|".join([*parts, r" ?\p{L}+", r" ?\p{N}", r" ?[^\s\p{L}\p{N}]+", r"\s+"])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pieces), behavior="isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=1,
        show_progress=False,
    )
    unique = sorted({normalize_instruction(text) for text in instructions})
    tokenizer.train_from_iterator((build_prompt(template, text) for text in unique), trainer)
    return tokenizer


def encode_prompts(tokenizer: Tokenizer, template: str, instructions: Iterable[str], length: int) -> np.ndarray:
    """Token ids of each instruction's prompt, int64 [N, length], padded at the end.

    Raises:
        InstructionTooLong: a prompt needs more than `length` ids; nothing is cut.
    """
    prompts = [build_prompt(template, normalize_instruction(text)) for text in instructions]
    ids_NT = np.full((len(prompts), length), PAD_ID, dtype=np.int64)
    for row, encoding in zip(ids_NT, tokenizer.encode_batch(prompts)):
        if len(encoding.ids) > length:
            raise InstructionTooLong(len(encoding.ids), length)
        row[: len(encoding.ids)] = encoding.ids
    return ids_NT


def word_ids(tokenizer: Tokenizer, words: Iterable[str]) -> tuple[int, ...]:
    """The id of each word inside a sentence; raises ConfigError for a word that is not one token."""
    ids = []
    for word in words:
        pieces = tokenizer.encode(f" {word}").ids
        if len(pieces) != 1:
            raise ConfigError(f"'{word}' is not one token of the vocabulary: raise run.vocab_size")
        ids.append(pieces[0])
    return tuple(ids)
