# SPDX-License-Identifier: Apache-2.0
"""OpenVLA's action tokens: quantile-normalised values in 256 uniform bins at the end of the text vocabulary.

    n = clip(2 (a - q01) / (q99 - q01 + 1e-8) - 1, -1, 1)     where the mask is set, else clip(a, -1, 1)
    n = 0                                                      where the dimension never changed (min == max)
    id = text_vocab_size - digitize(n, linspace(-1, 1, 256))   so 31744...31999 of 32000 ids
    a = (n + 1) (q99 - q01) / 2 + q01                          where the mask is set, else n; n is its bin's centre

Source: arXiv 2406.09246 and the conventions of its published code. The 256 edges have 255 intervals: n = 1 alone falls
past the last one, so that its id (31744) and the next share the last centre. Edges are compared in float64, the
published training code computes in float32: a value on an edge may come out one bin apart.
Axes: H steps, D dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vla_ros.core.constrained import fixed_length_mask
from vla_ros.core.dataset_statistics import ValueStatistics
from vla_ros.core.errors import ActionError, ConfigError, DecodeError

NUM_BINS = 256
OPENVLA_VOCAB_SIZE = 32000  # Llama 2's; the network pads it to 32064, which plays no part
EPSILON = 1e-8  # in the convention's denominator, in the unit of the dimension
_EDGES = np.linspace(-1.0, 1.0, NUM_BINS)
_CENTRES = 0.5 * (_EDGES[:-1] + _EDGES[1:])
_HALF_BIN = 1.0 / (NUM_BINS - 1)  # half of 2 / 255, in normalised units


class QuantileNormalizer:
    """Between physical units and [-1, 1]. Immutable, safe to share between threads.

    Raises:
        ConfigError: a dimension is constant, not zero and not scaled: the convention would decode it to 0.
    """

    def __init__(self, stats: ValueStatistics) -> None:
        self.stats = stats
        self._q01_D, self._q99_D = np.array(stats.q01), np.array(stats.q99)
        self._scaled_D, self._constant_D = stats.scaled_D, stats.constant_D
        lost = np.flatnonzero(self._constant_D & ~self._scaled_D & (np.array(stats.min) != 0.0))
        if len(lost):
            raise ConfigError(f"dimension {lost[0]} is always {stats.min[lost[0]]} and its mask is false, which decodes to 0: set its mask to true")

    @property
    def low_D(self) -> np.ndarray:
        """Smallest value that is not clipped, float64 [D]."""
        return np.where(self._scaled_D, self._q01_D, -1.0)

    @property
    def high_D(self) -> np.ndarray:
        """Largest value that is not clipped, float64 [D]."""
        return np.where(self._scaled_D, self._q99_D, 1.0)

    @property
    def half_range_D(self) -> np.ndarray:
        """Physical units of one normalised unit, float64 [D]."""
        return 0.5 * (self.high_D - self.low_D)

    def normalize(self, actions_D: np.ndarray, clip: bool = True) -> np.ndarray:
        """Values in [-1, 1], float64, same shape [..., D].

        Args:
            actions_D: any leading axes, last axis D, in each dimension's unit.
            clip: move values outside the quantiles to them, as the convention does; False refuses them.

        Raises:
            ActionError: a value is not finite, or outside while ``clip`` is False.
        """
        actions_D = np.asarray(actions_D, dtype=np.float64)
        if actions_D.shape[-1:] != (self.stats.num_dims,):
            raise ActionError(f"the last axis must have {self.stats.num_dims} dimensions, got shape {list(actions_D.shape)}")
        if not np.isfinite(actions_D).all():
            raise ActionError("actions must be finite, clip moves only values outside their quantiles")
        outside = (actions_D < self.low_D) | (actions_D > self.high_D)
        if outside.any() and not clip:
            at = tuple(int(i) for i in np.argwhere(outside)[0])
            raise ActionError(f"action {list(at)} is {actions_D[at]}, bounds [{self.low_D[at[-1]]}, {self.high_D[at[-1]]}]; clip=True moves it there")
        scaled_D = 2.0 * (actions_D - self._q01_D) / (self._q99_D - self._q01_D + EPSILON) - 1.0
        normal_D = np.clip(np.where(self._scaled_D, scaled_D, actions_D), -1.0, 1.0)
        return np.where(self._constant_D, 0.0, normal_D)

    def unnormalize(self, normal_D: np.ndarray) -> np.ndarray:
        """Physical values, float64, same shape [..., D]. Nothing is clipped."""
        normal_D = np.asarray(normal_D, dtype=np.float64)
        return np.where(self._scaled_D, 0.5 * (normal_D + 1.0) * (self._q99_D - self._q01_D) + self._q01_D, normal_D)


class QuantileTokenizer:
    """Codec between physical actions and OpenVLA's ids. Immutable, safe to share between threads.

    Args:
        stats: the ``action`` entry of the model's ``dataset_statistics.json``.
        horizon: H, actions in a chunk; OpenVLA has one.
        text_vocab_size: ids of the text tokenizer; the last 256 are the actions.

    Raises:
        ConfigError: the vocabulary is too small, the horizon below one, or statistics that cannot be decoded.
    """

    def __init__(self, stats: ValueStatistics, horizon: int = 1, text_vocab_size: int = OPENVLA_VOCAB_SIZE) -> None:
        if text_vocab_size < NUM_BINS:
            raise ConfigError(f"text_vocab_size must be at least {NUM_BINS}, got {text_vocab_size}")
        if horizon < 1:
            raise ConfigError(f"horizon must be at least 1, got {horizon}")
        self.normalizer = QuantileNormalizer(stats)
        self.shape = (horizon, stats.num_dims)
        self.end_token_id = text_vocab_size
        self.first_token_id = text_vocab_size - NUM_BINS

    @property
    def error_bound_D(self) -> np.ndarray:
        """Largest round-trip error of a value inside the quantiles, float64 [D] (derived in docs/tokens.md)."""
        return _HALF_BIN * self.normalizer.half_range_D + np.where(self.normalizer.stats.scaled_D, EPSILON, 0.0)

    def encode(self, actions_HD: np.ndarray, clip: bool = True) -> np.ndarray:
        """Vocabulary ids of a chunk, int32 [H, D].

        Args:
            actions_HD: float [H, D], in each dimension's unit.
            clip: move values outside the quantiles to them, as the convention does; False refuses them.

        Raises:
            ActionError: wrong shape, not finite, or outside while ``clip`` is False.
        """
        actions_HD = np.asarray(actions_HD, dtype=np.float64)
        if actions_HD.shape != self.shape:
            raise ActionError(f"actions must have shape [H, D] = {list(self.shape)}, got {list(actions_HD.shape)}")
        return (self.end_token_id - np.digitize(self.normalizer.normalize(actions_HD, clip), _EDGES)).astype(np.int32)

    def decode(self, tokens_HD: np.ndarray) -> np.ndarray:
        """The actions that a chunk's tokens mean, float64 [H, D], in each dimension's unit.

        Raises:
            DecodeError: wrong shape, no integers, or an id that is no action. Nothing is clipped to a bin: the convention
                of the published code turns every ordinary word into +0.996 of full speed.
        """
        tokens_HD = np.asarray(tokens_HD)
        if tokens_HD.shape != self.shape or tokens_HD.dtype.kind not in "iu":
            raise DecodeError(f"action tokens must be integers [H, D] = {list(self.shape)}, got {tokens_HD.dtype} {list(tokens_HD.shape)}")
        outside = (tokens_HD < self.first_token_id) | (tokens_HD >= self.end_token_id)
        if outside.any():
            at = tuple(int(i) for i in np.argwhere(outside)[0])
            raise DecodeError(f"token {int(tokens_HD[at])} at {list(at)} is outside the action vocabulary [{self.first_token_id}, {self.end_token_id})")
        intervals_HD = np.minimum(self.end_token_id - tokens_HD.astype(np.int64), NUM_BINS - 1) - 1  # two ids share the last centre
        return self.normalizer.unnormalize(_CENTRES[intervals_HD])

    def legal_next(self, generated: Sequence[int], vocab_size: int) -> np.ndarray:
        """Ids that may follow ``generated``, bool [vocab_size]: any action id until there are H*D of them, then none.

        Args:
            generated: ids so far.
            vocab_size: width of the network's logits, which may be padded beyond the text's ids.

        Raises:
            DecodeError: ``generated`` is no beginning of a chunk.
        """
        return fixed_length_mask(generated, self.shape[0] * self.shape[1], self.first_token_id, self.end_token_id, vocab_size)
