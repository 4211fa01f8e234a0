# SPDX-License-Identifier: Apache-2.0
"""Actions to tokens and back: uniform bins, decoded to their centres.

RT-1 truncates while encoding and divides while decoding, a bias of half a bin (RT-2, arXiv 2307.15818,
keeps the 256 bins). Decoding to centres has no bias: after a round trip the error is at most half a bin.
A token outside the action vocabulary raises and is never clipped to a bin (OpenVLA decodes every such
id to a full-speed motion).

Axes: H steps, D dimensions. All dimensions share the ids ``[first_token_id, first_token_id + num_bins)``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vla_ros.core.action import ActionSpec
from vla_ros.core.constrained import fixed_length_mask
from vla_ros.core.errors import ActionError, ConfigError, DecodeError


class ActionTokenizer:
    """Codec between continuous actions and vocabulary ids. Immutable, safe to share between threads.

    Args:
        spec: dimensions, bounds and bins.
        first_token_id: vocabulary id of bin 0.

    Raises:
        ConfigError: if ``first_token_id`` is negative.
    """

    def __init__(self, spec: ActionSpec, first_token_id: int) -> None:
        if first_token_id < 0:
            raise ConfigError(f"first_token_id must not be negative, got {first_token_id}")
        self.spec = spec
        self.first_token_id = first_token_id
        self._low_D = spec.low_D
        self._width_D = (spec.high_D - spec.low_D) / spec.num_bins

    @property
    def end_token_id(self) -> int:
        """One past the id of the last bin."""
        return self.first_token_id + self.spec.num_bins

    def actions_to_bins(self, actions_D: np.ndarray, clip: bool = False) -> np.ndarray:
        """Bin of each value, int32, same shape [..., D].

        Args:
            actions_D: any leading axes, last axis D, in each dimension's unit.
            clip: move values outside the bounds to the nearest bin (training data only).

        Raises:
            ActionError: a value is not finite, or outside its bounds while ``clip`` is False.
        """
        actions_D = np.asarray(actions_D, dtype=np.float64)
        if clip:
            if not np.isfinite(actions_D).all():
                raise ActionError("actions must be finite, clip moves only values outside their bounds")
            actions_D = self.spec.clip(actions_D)
        self.spec.validate_values(actions_D)
        bins_D = np.floor((actions_D - self._low_D) / self._width_D)
        return np.clip(bins_D, 0, self.spec.num_bins - 1).astype(np.int32)

    def bins_to_actions(self, bins_D: np.ndarray) -> np.ndarray:
        """Centre of each bin, float64, same shape [..., D], in each dimension's unit.

        Raises:
            DecodeError: a bin index outside ``[0, num_bins)`` or no integer.
        """
        bins_D = np.asarray(bins_D)
        self._check_range(bins_D, 0, "bin")
        return self._low_D + (bins_D.astype(np.float64) + 0.5) * self._width_D

    def bins_to_ids(self, bins: np.ndarray) -> np.ndarray:
        """Vocabulary ids of bin indices, int32.

        Raises:
            DecodeError: a bin index outside ``[0, num_bins)``.
        """
        bins = np.asarray(bins)
        self._check_range(bins, 0, "bin")
        return (bins + self.first_token_id).astype(np.int32)

    def ids_to_bins(self, tokens: np.ndarray) -> np.ndarray:
        """Bin indices of vocabulary ids, int32.

        Raises:
            DecodeError: an id outside the action vocabulary.
        """
        tokens = np.asarray(tokens)
        self._check_range(tokens, self.first_token_id, "token")
        return (tokens - self.first_token_id).astype(np.int32)

    def encode(self, actions_HD: np.ndarray, clip: bool = False) -> np.ndarray:
        """Vocabulary ids of a chunk, int32 [H, D].

        Args:
            actions_HD: float [H, D], in each dimension's unit.
            clip: move values outside the bounds to the nearest bin (training data only).

        Raises:
            ActionError: wrong shape, not finite, or outside its bounds while ``clip`` is False.
        """
        actions_HD = np.asarray(actions_HD, dtype=np.float64)
        if actions_HD.shape != self.spec.shape:
            raise ActionError(f"actions must have shape [H, D] = {list(self.spec.shape)}, got {list(actions_HD.shape)}")
        return self.bins_to_ids(self.actions_to_bins(actions_HD, clip))

    def decode(self, tokens_HD: np.ndarray) -> np.ndarray:
        """The actions that a chunk's tokens mean, float64 [H, D], in each dimension's unit.

        Args:
            tokens_HD: integer vocabulary ids [H, D].

        Raises:
            DecodeError: wrong shape, or an id outside the action vocabulary. Nothing is clipped.
        """
        tokens_HD = np.asarray(tokens_HD)
        if tokens_HD.shape != self.spec.shape:
            raise DecodeError(f"action tokens must have shape [H, D] = {list(self.spec.shape)}, got {list(tokens_HD.shape)}")
        return self.bins_to_actions(self.ids_to_bins(tokens_HD))

    def legal_next(self, generated: Sequence[int], vocab_size: int) -> np.ndarray:
        """Ids that may follow ``generated``, bool [vocab_size]: any bin until the chunk has H*D tokens, then none.

        Raises:
            DecodeError: ``generated`` is no beginning of a chunk.
            ConfigError: the vocabulary is smaller than the action ids.
        """
        return fixed_length_mask(generated, self.spec.num_tokens, self.first_token_id, self.end_token_id, vocab_size)

    def bins_to_text(self, bins_D: np.ndarray) -> str:
        """One action as RT-2 writes it: its bins as decimal numbers with single spaces, such as ``1 128 91 241 5 101 127 217``.

        Raises:
            DecodeError: not one bin for each dimension, or a bin outside ``[0, num_bins)``.
        """
        bins_D = np.asarray(bins_D)
        if bins_D.shape != (self.spec.num_dims,):
            raise DecodeError(f"an action has {self.spec.num_dims} bins {list(self.spec.names)}, got shape {list(bins_D.shape)}")
        self._check_range(bins_D, 0, "bin")
        return " ".join(str(int(index)) for index in bins_D)

    def text_to_bins(self, text: str) -> np.ndarray:
        """The inverse of ``bins_to_text``, int32 [D]. Blanks may repeat; a word that is no bin raises.

        Raises:
            DecodeError: a wrong number of words, or a word that is no integer of ``[0, num_bins)``.
        """
        words = text.split()
        if len(words) != self.spec.num_dims:
            raise DecodeError(f"an action has {self.spec.num_dims} numbers {list(self.spec.names)}, got {len(words)} in {text!r}")
        wrong = [word for word in words if not (word.isascii() and word.isdigit() and int(word) < self.spec.num_bins)]
        if wrong:
            raise DecodeError(f"'{wrong[0]}' in {text!r} is no bin: expected an integer of 0 to {self.spec.num_bins - 1}")
        return np.array([int(word) for word in words], dtype=np.int32)

    def _check_range(self, values: np.ndarray, first: int, noun: str) -> None:
        if values.dtype.kind not in "iu":
            raise DecodeError(f"{noun} values must be integers, got {values.dtype}")
        end = first + self.spec.num_bins
        outside = (values < first) | (values >= end)
        if outside.any():
            at = tuple(int(i) for i in np.argwhere(outside)[0])
            raise DecodeError(f"{noun} {int(values[at])} at {list(at)} is outside the action vocabulary [{first}, {end})")
