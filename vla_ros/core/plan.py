# SPDX-License-Identifier: Apache-2.0
"""The policy's plan: a few words and numbers that it says before it acts (RT-2's chain of thought).

Each slot is one token: an index into a list of words, or one of 256 bins of a number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vla_ros.core.errors import BundleError, ConfigError, DecodeError
from vla_ros.core.schema import Fields

NUM_BINS = 256


@dataclass(frozen=True, kw_only=True)
class PlanSlot:
    """One slot: either ``words``, or a number in ``[low, high]`` with unit and frame."""

    name: str
    words: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 1.0
    unit: str = ""
    frame: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", tuple(self.words))
        if not self.words and not self.low < self.high:
            raise ConfigError(f"plan slot '{self.name}': needs words, or low < high, got [{self.low}, {self.high}]")

    @property
    def size(self) -> int:
        """Number of legal values."""
        return len(self.words) or NUM_BINS

    def encode(self, value: str | float) -> int:
        """Index of a word, or the bin of a number (clipped into the bounds).

        Raises:
            ConfigError: a word that is not in the list.
        """
        if self.words:
            if value not in self.words:
                raise ConfigError(f"plan slot '{self.name}': no word {value!r}; there are {list(self.words)}")
            return self.words.index(str(value))
        return int(np.clip(np.floor((float(value) - self.low) / (self.high - self.low) * NUM_BINS), 0, NUM_BINS - 1))

    def decode(self, index: int) -> str | float:
        """The word, or the centre of the bin.

        Raises:
            DecodeError: an index that is no value of this slot.
        """
        if not 0 <= index < self.size:
            raise DecodeError(f"plan slot '{self.name}': index {index} is outside [0, {self.size})")
        return self.words[index] if self.words else self.low + (index + 0.5) * (self.high - self.low) / NUM_BINS

    def describe(self, index: int) -> str:
        """``reach``, or ``x=0.312 m``."""
        value = self.decode(index)
        return value if isinstance(value, str) else f"{self.name}={value:.3f} {self.unit}".rstrip()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "plan slot") -> PlanSlot:
        """Reads ``{name, words}`` or ``{name, low, high, unit, frame}``; raises ``BundleError``."""
        fields = Fields(data, where, BundleError)
        name, words = fields.text("name"), fields.items("words", default=(), empty=True)
        if words:
            slot = cls(name=name, words=tuple(str(word) for word in words))
        else:
            low, high = fields.number("low"), fields.number("high")
            slot = cls(name=name, low=low, high=high, unit=fields.text("unit"), frame=fields.text("frame"))
        fields.finish()
        return slot

    def to_dict(self) -> dict[str, Any]:
        """The inverse of ``from_dict``."""
        if self.words:
            return {"name": self.name, "words": list(self.words)}
        return {"name": self.name, "low": self.low, "high": self.high, "unit": self.unit, "frame": self.frame}


@dataclass(frozen=True, kw_only=True)
class PlanSpec:
    """The slots of a plan, in order."""

    slots: tuple[PlanSlot, ...]

    def describe(self, tokens: Sequence[int]) -> str:
        """The plan as text, such as ``grasp x=0.312 m y=-0.041 m``.

        Args:
            tokens: one index per slot.

        Raises:
            DecodeError: a wrong number of tokens, or one that is no value of its slot.
        """
        if len(tokens) != len(self.slots):
            raise DecodeError(f"plan has {len(self.slots)} slots, got {len(tokens)} tokens")
        return " ".join(slot.describe(int(token)) for slot, token in zip(self.slots, tokens))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "plan") -> PlanSpec:
        """Reads ``{slots: [...]}``; raises ``BundleError``."""
        fields = Fields(data, where, BundleError)
        spec = cls(slots=tuple(PlanSlot.from_dict(d, f"{where}: slots[{i}]") for i, d in enumerate(fields.items("slots"))))
        fields.finish()
        return spec

    def to_dict(self) -> dict[str, Any]:
        """The inverse of ``from_dict``."""
        return {"slots": [slot.to_dict() for slot in self.slots]}
