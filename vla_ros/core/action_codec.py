# SPDX-License-Identifier: Apache-2.0
"""Which codec a bundle's action tokens have, and how its prompts are put together: the parts of format version 2 of the manifest.

Axes: H steps, D dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vla_ros.core.action import ActionDim, ActionSpec
from vla_ros.core.dataset_statistics import ValueStatistics
from vla_ros.core.errors import BundleError, ConfigError, DecodeError
from vla_ros.core.quantile_bins import NUM_BINS, QuantileNormalizer, QuantileTokenizer
from vla_ros.core.schema import Fields

CODECS = ("quantile",)
OUTPUTS = ("tokens", "continuous")
_LEAST_WIDTH = 1e-6  # of the bounds of a dimension that never changed in the data, in its unit


@dataclass(frozen=True, kw_only=True)
class QuantileCodecSpec:
    """OpenVLA's tokens (``core.quantile_bins``) and what their values mean on this robot: ``physical = offset + scale * value``.

    Attributes:
        statistics: of the data that the model was trained on, in the data's units.
        scale: of each dimension, not zero.
        offset: of each dimension, in the dimension's unit.
    """

    statistics: ValueStatistics
    scale: tuple[float, ...]
    offset: tuple[float, ...]

    def __post_init__(self) -> None:
        lengths = (self.statistics.num_dims, len(self.scale), len(self.offset))
        if len(set(lengths)) != 1:
            raise ConfigError(
                f"codec needs one scale and one offset for each dimension of the statistics, got {lengths[1]} and {lengths[2]} for {lengths[0]}"
            )
        if not np.isfinite([*self.scale, *self.offset]).all() or 0.0 in self.scale:
            raise ConfigError(f"codec's scale and offset must be finite and scale not zero, got {list(self.scale)} and {list(self.offset)}")

    @classmethod
    def of(cls, statistics: ValueStatistics) -> QuantileCodecSpec:
        """Values are physical already."""
        return cls(statistics=statistics, scale=(1.0,) * statistics.num_dims, offset=(0.0,) * statistics.num_dims)

    def bounds_D(self) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest physical value, float64 [D] each; never equal, as bounds must not be."""
        normalizer = QuantileNormalizer(self.statistics)
        ends = [np.array(self.offset) + np.array(self.scale) * value_D for value_D in (normalizer.low_D, normalizer.high_D)]
        low_D, high_D = np.minimum(*ends), np.maximum(*ends)
        flat_D = high_D - low_D < _LEAST_WIDTH
        return np.where(flat_D, low_D - _LEAST_WIDTH, low_D), np.where(flat_D, high_D + _LEAST_WIDTH, high_D)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str) -> QuantileCodecSpec:
        """Reads a plain mapping, raises ``BundleError``."""
        fields = Fields(data, where, BundleError)
        fields.choice("kind", CODECS)
        scale, offset = (tuple(map(float, fields.items(key))) for key in ("scale", "offset"))
        spec = cls(statistics=ValueStatistics.from_dict(fields.raw("statistics"), f"{where}: statistics"), scale=scale, offset=offset)
        fields.finish()
        return spec

    def to_dict(self) -> dict[str, Any]:
        """The inverse of ``from_dict``."""
        return {"kind": "quantile", "scale": list(self.scale), "offset": list(self.offset), "statistics": self.statistics.to_dict()}


@dataclass(frozen=True, kw_only=True)
class PromptSpec:
    """What happens to a prompt besides the template.

    Attributes:
        lowercase: the instruction is put in lower case first.
        prefix_ids: ids before the text, such as the begin of the sequence. The tokenizer's own are left out.
        suffix_ids: ids after the text.
    """

    lowercase: bool = False
    prefix_ids: tuple[int, ...] = ()
    suffix_ids: tuple[int, ...] = ()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str) -> PromptSpec:
        """Reads a plain mapping, raises ``BundleError``."""
        fields = Fields(data, where, BundleError)
        lists = {key: fields.items(key, empty=True, default=()) for key in ("prefix_ids", "suffix_ids")}
        for key, ids in lists.items():
            if not all(isinstance(value, int) and not isinstance(value, bool) and value >= 0 for value in ids):
                raise fields.refuse(f"'{key}' must be a list of vocabulary ids, got {ids}")
        spec = cls(lowercase=fields.flag("lowercase", default=False), **{key: tuple(ids) for key, ids in lists.items()})
        fields.finish()
        return spec

    def to_dict(self) -> dict[str, Any]:
        """The inverse of ``from_dict``."""
        return {"lowercase": self.lowercase, "prefix_ids": list(self.prefix_ids), "suffix_ids": list(self.suffix_ids)}


class QuantileActionCodec:
    """``QuantileTokenizer`` in physical units, with the methods of ``core.action_tokens.ActionTokenizer``. Immutable.

    A bin is an id less the first one: bin 0 is the largest normalised value.

    Args:
        spec: dimensions and horizon.
        codec: statistics and units.
        first_token_id: vocabulary id of bin 0.

    Raises:
        ConfigError: the statistics have another number of dimensions, or cannot be decoded.
    """

    def __init__(self, spec: ActionSpec, codec: QuantileCodecSpec, first_token_id: int) -> None:
        if codec.statistics.num_dims != spec.num_dims:
            raise ConfigError(
                f"the codec's statistics have {codec.statistics.num_dims} dimensions, the action has {spec.num_dims} {list(spec.names)}"
            )
        self.spec = spec
        self.first_token_id = first_token_id
        self.end_token_id = first_token_id + NUM_BINS
        self._codec = codec
        self._scale_D, self._offset_D = np.array(codec.scale), np.array(codec.offset)
        self._tokenizer = self._of_horizon(spec.horizon)

    def decode(self, tokens_HD: np.ndarray) -> np.ndarray:
        """The actions that a chunk's ids mean, float64 [H, D], in each dimension's unit.

        Raises:
            DecodeError: wrong shape, or an id outside the action vocabulary. Nothing is clipped.
        """
        return self._offset_D + self._scale_D * self._tokenizer.decode(tokens_HD)

    def encode(self, actions_HD: np.ndarray, clip: bool = True) -> np.ndarray:
        """Vocabulary ids of a chunk, int32 [H, D]; raises ActionError as ``QuantileTokenizer.encode`` does."""
        return self._tokenizer.encode(self._values(actions_HD), clip)

    def actions_to_bins(self, actions_PD: np.ndarray) -> np.ndarray:
        """Bins of any number of steps, int32 [P, D]; values outside the quantiles are moved to them."""
        return self._of_horizon(len(actions_PD)).encode(self._values(actions_PD)) - self.first_token_id

    def bins_to_ids(self, bins: np.ndarray) -> np.ndarray:
        """Vocabulary ids of bins, int32; raises DecodeError outside ``[0, 256)``."""
        return self._checked(np.asarray(bins), 0, "bin") + self.first_token_id

    def ids_to_bins(self, tokens: np.ndarray) -> np.ndarray:
        """Bins of vocabulary ids, int32; raises DecodeError outside the action vocabulary."""
        return self._checked(np.asarray(tokens), self.first_token_id, "token") - self.first_token_id

    def legal_next(self, generated: Sequence[int], vocab_size: int) -> np.ndarray:
        """As ``QuantileTokenizer.legal_next``."""
        return self._tokenizer.legal_next(generated, vocab_size)

    def _of_horizon(self, horizon: int) -> QuantileTokenizer:
        return QuantileTokenizer(self._codec.statistics, horizon, self.end_token_id)

    def _values(self, actions_D: np.ndarray) -> np.ndarray:
        return (np.asarray(actions_D, dtype=np.float64) - self._offset_D) / self._scale_D

    def _checked(self, values: np.ndarray, first: int, noun: str) -> np.ndarray:
        outside = (values < first) | (values >= first + NUM_BINS)
        if values.dtype.kind not in "iu" or outside.any():
            wrong = values[outside][0] if outside.any() else values.dtype
            raise DecodeError(f"{noun} {wrong} is outside the action vocabulary [{first}, {first + NUM_BINS})")
        return values.astype(np.int32)


def with_bounds(dims: Sequence[ActionDim], codec: QuantileCodecSpec) -> tuple[ActionDim, ...]:
    """The dimensions with the bounds of what their tokens can say."""
    low_D, high_D = codec.bounds_D()
    return tuple(replace(dim, low=float(low), high=float(high), num_bins=NUM_BINS) for dim, low, high in zip(dims, low_D, high_D))
