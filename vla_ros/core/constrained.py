# SPDX-License-Identifier: Apache-2.0
"""Constrained decoding: at each position only ids that keep the answer an action may be generated (RT-2, arXiv 2307.15818, 3.2).

A codec says which ids may come next; whatever the network prefers among them, the finished sequence decodes.
Axes: V ids of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from vla_ros.core.errors import ConfigError, DecodeError


class NextTokenRule(Protocol):
    """What constrained decoding needs to know of a codec."""

    def legal_next(self, generated: Sequence[int], vocab_size: int) -> np.ndarray:
        """Mask bool [V] of the ids that may follow ``generated``; all False when the answer is complete.

        Raises:
            DecodeError: ``generated`` itself is not legal.
        """


def fixed_length_mask(generated: Sequence[int], num_tokens: int, first_id: int, end_id: int, vocab_size: int) -> np.ndarray:
    """The rule of codecs with one token a value: ``num_tokens`` ids of ``[first_id, end_id)``, then nothing.

    Args:
        generated: ids so far.
        num_tokens: length of a complete answer.
        first_id: first action id.
        end_id: one past the last action id.
        vocab_size: V, at least ``end_id``.

    Raises:
        DecodeError: an id of ``generated`` is no action, or there are too many of them.
        ConfigError: the vocabulary is too small for the action ids.
    """
    check_vocabulary(end_id, vocab_size)
    check_generated(generated, first_id, end_id)
    if len(generated) > num_tokens:
        raise DecodeError(f"{len(generated)} tokens were generated, a complete action has {num_tokens}")
    legal_V = np.zeros(vocab_size, dtype=bool)
    legal_V[first_id:end_id] = len(generated) < num_tokens
    return legal_V


def check_vocabulary(end_id: int, vocab_size: int) -> None:
    """Raises ConfigError where the action ids do not fit the vocabulary."""
    if vocab_size < end_id:
        raise ConfigError(f"action ids end at {end_id} and the vocabulary has {vocab_size} ids: give the network's own vocab_size")


def check_generated(generated: Sequence[int], first_id: int, end_id: int) -> None:
    """Raises DecodeError at the first id outside ``[first_id, end_id)``."""
    for position, token in enumerate(generated):
        if not first_id <= token < end_id:
            raise DecodeError(f"token {token} at [{position}] is outside the action vocabulary [{first_id}, {end_id})")


def generate(rule: NextTokenRule, vocab_size: int, logits_of: Callable[[Sequence[int]], np.ndarray]) -> np.ndarray:
    """Greedy decoding under ``rule``, int32 ids of a complete answer.

    Args:
        rule: a codec.
        vocab_size: V.
        logits_of: logits [V] of the next id, given the ids so far.

    Raises:
        DecodeError: logits of another shape, or NaN among the legal ones.
    """
    generated: list[int] = []
    while True:
        legal = np.flatnonzero(rule.legal_next(generated, vocab_size))
        if not len(legal):
            return np.array(generated, dtype=np.int32)
        logits_V = np.asarray(logits_of(generated))
        if logits_V.shape != (vocab_size,) or np.isnan(logits_V[legal]).any():
            raise DecodeError(f"logits must have shape [{vocab_size}] without NaN, got shape {list(logits_V.shape)} at position {len(generated)}")
        generated.append(int(legal[np.argmax(logits_V[legal])]))
