# SPDX-License-Identifier: Apache-2.0
"""FAST action tokens (arXiv 2501.09747): a chunk's cosine spectrum, rounded, low frequencies first, compressed by byte-pair merges.

    n = normalised chunk [H, D] in [-1, 1]        (quantiles, core/quantile_bins.py)
    c = M n                                       M orthonormal DCT-II, so that |c| <= sqrt(H)
    k = round(scale c)                            integers, |k| <= ceil(scale sqrt(H))
    symbols = k + K, row by row of k              frequency 0 of every dimension, then frequency 1, ...
    ids = the merges applied to the symbols       one id stands for one or several coefficients

Decoding goes back and projects on [-1, 1], a convex set that the true chunk is in, which moves no decoded value away
from the truth. A sequence that does not spell exactly H*D coefficients is an error, never a guess (the published
decoder returns the middle of the range). Frequency-first order means that a prefix of the tokens is no prefix of the
motion: real-time chunking cannot force one. The merges are learned in train/fast_tokenizer.py.
Axes: H steps or frequencies, D dimensions, S symbols of a spelled chunk (H*D), V ids.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vla_ros.core.constrained import check_generated, check_vocabulary
from vla_ros.core.dataset_statistics import ValueStatistics
from vla_ros.core.errors import ActionError, BundleError, ConfigError, DecodeError
from vla_ros.core.quantile_bins import EPSILON, QuantileNormalizer
from vla_ros.core.schema import Fields

FORMAT_VERSION = 1


def dct_matrix(size: int) -> np.ndarray:
    """Orthonormal DCT-II, float64 [H, H]: row k is frequency k, ``matrix @ matrix.T`` is the identity."""
    frequency_H1 = np.arange(size)[:, None]
    middle_1H = np.arange(size)[None, :] + 0.5
    matrix_HH = np.sqrt(2.0 / size) * np.cos(np.pi * frequency_H1 * middle_1H / size)
    matrix_HH[0] /= np.sqrt(2.0)
    return matrix_HH


def largest_coefficient(horizon: int, scale: float) -> int:
    """K: no rounded coefficient of a chunk in [-1, 1] is larger, because |c| <= |n| <= sqrt(H)."""
    return math.ceil(scale * math.sqrt(horizon))


@dataclass(frozen=True, kw_only=True)
class FastVocabulary:
    """Symbols and merges. Ids 0...2K are the coefficients -K...K; each merge that spells something new adds one id.

    Attributes:
        max_coefficient: K.
        merges: pairs of ids, the first learned first; a pair may use ids of earlier merges.
        expansions: coefficients that each id spells, derived.

    Raises:
        BundleError: K below one, a merge of an id that does not exist yet, or a pair twice.
    """

    max_coefficient: int
    merges: tuple[tuple[int, int], ...] = ()
    expansions: tuple[tuple[int, ...], ...] = field(init=False, repr=False, compare=False)
    _rules: dict[tuple[int, int], tuple[int, int]] = field(init=False, repr=False, compare=False)  # pair to (rank, id)

    def __post_init__(self) -> None:
        if self.max_coefficient < 1:
            raise BundleError(f"FAST needs max_coefficient of at least 1, got {self.max_coefficient}")
        object.__setattr__(self, "merges", tuple((int(left), int(right)) for left, right in self.merges))
        expansions = [(coefficient,) for coefficient in range(-self.max_coefficient, self.max_coefficient + 1)]
        known = {expansion: index for index, expansion in enumerate(expansions)}
        rules: dict[tuple[int, int], tuple[int, int]] = {}
        for rank, (left, right) in enumerate(self.merges):
            if not (0 <= left < len(expansions) and 0 <= right < len(expansions)):
                raise BundleError(f"FAST merge {rank} of ids {left} and {right}: only {len(expansions)} ids exist by then")
            if (left, right) in rules:
                raise BundleError(f"FAST merge {rank} of ids {left} and {right} is there twice")
            merged = expansions[left] + expansions[right]
            if merged not in known:
                known[merged] = len(expansions)
                expansions.append(merged)
            rules[left, right] = (rank, known[merged])
        object.__setattr__(self, "expansions", tuple(expansions))
        object.__setattr__(self, "_rules", rules)

    @property
    def size(self) -> int:
        """Number of ids."""
        return len(self.expansions)

    def merge(self, coefficients_S: np.ndarray) -> list[int]:
        """Ids that spell the coefficients: again and again the earliest learned pair, the leftmost of its places.

        Raises:
            ActionError: a coefficient beyond K.
        """
        beyond = np.abs(coefficients_S) > self.max_coefficient
        if beyond.any():
            raise ActionError(f"coefficient {int(coefficients_S[beyond][0])} is beyond the vocabulary's {self.max_coefficient}")
        ids = [int(coefficient) + self.max_coefficient for coefficient in coefficients_S]
        while True:
            found = [(*self._rules[pair], place) for place, pair in enumerate(zip(ids, ids[1:])) if pair in self._rules]
            if not found:
                return ids
            _, merged, place = min(found, key=lambda rule: (rule[0], rule[2]))
            ids[place : place + 2] = [merged]


class FastTokenizer:
    """Codec between physical chunks and FAST ids. Immutable, safe to share between threads.

    Args:
        stats: the normalisation.
        horizon: H.
        vocabulary: symbols and merges.
        scale: coefficients are rounded to multiples of 1/scale; the paper's default is 10.
        first_token_id: vocabulary id of the first FAST id.

    Raises:
        ConfigError: the vocabulary cannot spell every chunk, or a number out of range.
    """

    def __init__(self, stats: ValueStatistics, horizon: int, vocabulary: FastVocabulary, *, scale: float = 10.0, first_token_id: int = 0) -> None:
        if horizon < 1 or first_token_id < 0 or not (math.isfinite(scale) and scale > 0.0):
            raise ConfigError(f"FAST needs horizon >= 1, scale > 0, first_token_id >= 0, got {horizon}, {scale}, {first_token_id}")
        needed = largest_coefficient(horizon, scale)
        if vocabulary.max_coefficient < needed:
            raise ConfigError(f"FAST vocabulary spells coefficients up to {vocabulary.max_coefficient}, horizon {horizon} and scale {scale} need {needed}")
        self.normalizer = QuantileNormalizer(stats)
        self.shape = (horizon, stats.num_dims)
        self.vocabulary = vocabulary
        self.scale = scale
        self.first_token_id = first_token_id
        self._matrix_HH = dct_matrix(horizon)
        self._length_V = np.array([len(expansion) for expansion in vocabulary.expansions])

    @property
    def end_token_id(self) -> int:
        """One past the last id."""
        return self.first_token_id + self.vocabulary.size

    @property
    def num_coefficients(self) -> int:
        """H*D, what a complete answer spells."""
        return self.shape[0] * self.shape[1]

    @property
    def l2_bound(self) -> float:
        """Largest round-trip error of one dimension over the chunk, L2 norm in normalised units: sqrt(H) / (2 scale), by Parseval."""
        return math.sqrt(self.shape[0]) / (2.0 * self.scale)

    @property
    def error_bound_D(self) -> np.ndarray:
        """Largest round-trip error of one value inside the quantiles, float64 [D], in each dimension's unit (docs/tokens.md)."""
        largest = np.abs(self._matrix_HH).sum(axis=0).max() / (2.0 * self.scale)
        return largest * self.normalizer.half_range_D + np.where(self.normalizer.stats.scaled_D, EPSILON, 0.0)

    def encode(self, actions_HD: np.ndarray, clip: bool = True) -> np.ndarray:
        """Ids of a chunk, int32 [T] with 1 <= T <= H*D.

        Args:
            actions_HD: float [H, D], in each dimension's unit.
            clip: move values outside the quantiles to them; False refuses them.

        Raises:
            ActionError: wrong shape, not finite, or outside while ``clip`` is False.
        """
        actions_HD = np.asarray(actions_HD, dtype=np.float64)
        if actions_HD.shape != self.shape:
            raise ActionError(f"actions must have shape [H, D] = {list(self.shape)}, got {list(actions_HD.shape)}")
        coefficients_S = quantized_spectrum(self.normalizer.normalize(actions_HD, clip), self.scale)
        return np.array(self.vocabulary.merge(coefficients_S), dtype=np.int32) + self.first_token_id

    def decode(self, tokens_T: np.ndarray, strict: bool = False) -> np.ndarray:
        """The actions that the ids mean, float64 [H, D], in each dimension's unit, inside the quantiles.

        Args:
            tokens_T: integer ids [T].
            strict: refuse a chunk that lies farther outside [-1, 1] than rounding explains: no chunk is written so.

        Raises:
            DecodeError: no integers, an id that is no FAST id, not exactly H*D coefficients, or refused by ``strict``.
        """
        tokens_T = np.asarray(tokens_T)
        if tokens_T.ndim != 1 or tokens_T.dtype.kind not in "iu":
            raise DecodeError(f"FAST tokens must be integers [T], got {tokens_T.dtype} {list(tokens_T.shape)}")
        check_generated(tokens_T.tolist(), self.first_token_id, self.end_token_id)
        spelled = [c for token in tokens_T.tolist() for c in self.vocabulary.expansions[token - self.first_token_id]]
        if len(spelled) != self.num_coefficients:
            raise DecodeError(f"the tokens spell {len(spelled)} coefficients, a chunk [H, D] = {list(self.shape)} has {self.num_coefficients}")
        normal_HD = self._matrix_HH.T @ (np.array(spelled, dtype=np.float64).reshape(self.shape) / self.scale)
        beyond = float(np.abs(normal_HD).max()) - 1.0
        if strict and beyond > self.l2_bound + 1e-9:  # the second term is float64 rounding
            raise DecodeError(f"the decoded chunk lies {beyond:.3f} outside [-1, 1], rounding explains {self.l2_bound:.3f}: it is no encoded chunk")
        return self.normalizer.unnormalize(np.clip(normal_HD, -1.0, 1.0))

    def legal_next(self, generated: Sequence[int], vocab_size: int) -> np.ndarray:
        """Ids that may follow ``generated``, bool [vocab_size]: those that spell no more than what is missing to H*D coefficients.

        There is always one until the answer is complete, since every coefficient has an id of its own.

        Raises:
            DecodeError: ``generated`` has an id that is no FAST id, or spells too much.
            ConfigError: the vocabulary is smaller than the FAST ids.
        """
        check_vocabulary(self.end_token_id, vocab_size)
        check_generated(generated, self.first_token_id, self.end_token_id)
        missing = self.num_coefficients - sum(int(self._length_V[token - self.first_token_id]) for token in generated)
        if missing < 0:
            raise DecodeError(f"the tokens spell {-missing} coefficients more than the chunk's {self.num_coefficients}")
        legal_V = np.zeros(vocab_size, dtype=bool)
        legal_V[self.first_token_id : self.end_token_id] = self._length_V <= missing
        return legal_V

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, without ``first_token_id``, which belongs to the network's vocabulary."""
        return {
            "format_version": FORMAT_VERSION,
            "horizon": self.shape[0],
            "scale": self.scale,
            "max_coefficient": self.vocabulary.max_coefficient,
            "merges": [list(pair) for pair in self.vocabulary.merges],
            "action": self.normalizer.stats.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str, first_token_id: int = 0) -> FastTokenizer:
        """The inverse of ``to_dict``; raises BundleError naming the key."""
        fields = Fields(data, where, BundleError)
        fields.integer("format_version", FORMAT_VERSION, FORMAT_VERSION)
        pairs = fields.items("merges", empty=True)
        if not all(isinstance(p, (list, tuple)) and len(p) == 2 and all(type(i) is int for i in p) for p in pairs):
            raise fields.refuse("'merges' must be a list of pairs of ids")
        vocabulary = FastVocabulary(max_coefficient=fields.integer("max_coefficient", 1), merges=tuple(pairs))
        horizon, scale, action = fields.integer("horizon", 1), fields.number("scale"), fields.raw("action")
        fields.finish()
        try:
            stats = ValueStatistics.from_dict(action, f"{where}: action")
            return cls(stats, horizon, vocabulary, scale=scale, first_token_id=first_token_id)
        except ConfigError as error:
            raise BundleError(str(error)) from error


def quantized_spectrum(normal_HD: np.ndarray, scale: float) -> np.ndarray:
    """Rounded coefficients int64 [S] of a normalised chunk, frequency 0 of every dimension first."""
    return np.rint(scale * (dct_matrix(len(normal_HD)) @ normal_HD)).astype(np.int64).reshape(-1)


def write_fast_tokenizer(path: Path, tokenizer: FastTokenizer) -> None:
    """Writes ``fast_tokenizer.json``; reading it gives the same codec."""
    path.write_text(json.dumps(tokenizer.to_dict()) + "\n", encoding="utf-8")


def read_fast_tokenizer(path: Path, first_token_id: int = 0) -> FastTokenizer:
    """Reads ``fast_tokenizer.json``; raises BundleError naming the file and the key."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} cannot be read as JSON ({error}): train the FAST tokenizer again or copy the bundle again") from error
    return FastTokenizer.from_dict(data, str(path), first_token_id)
