# SPDX-License-Identifier: Apache-2.0
"""Strict reading of plain mappings that came from YAML or JSON.

Every error names the place, the key, what was expected and what came. Keys that nobody read are an
error too, so that a misspelt key never becomes a silent default.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from vla_ros.core.errors import ConfigError

_REQUIRED = object()


class Fields:
    """One mapping being read, key by key.

    Args:
        data: the mapping.
        where: its place, for messages (``manifest.yaml: action``).
        error: exception class to raise.

    Raises:
        ConfigError: (or ``error``) if ``data`` is no mapping.
    """

    def __init__(self, data: Any, where: str, error: type[ConfigError] = ConfigError) -> None:
        self._where = where
        self._error = error
        if not isinstance(data, Mapping):
            raise self.refuse(f"expected a mapping, got {type(data).__name__}")
        self._data = data
        self._known: set[str] = set()

    def refuse(self, message: str) -> ConfigError:
        """Returns (does not raise) an error that begins with the place."""
        return self._error(f"{self._where}: {message}")

    def raw(self, key: str, default: Any = _REQUIRED) -> Any:
        """The value as it is; without a default the key is required."""
        self._known.add(key)
        if key in self._data:
            return self._data[key]
        if default is _REQUIRED:
            raise self.refuse(f"key '{key}' is missing; present are {sorted(map(str, self._data))}")
        return default

    def _typed(self, key: str, kind: type | tuple[type, ...], words: str, default: Any) -> Any:
        value = self.raw(key, default)
        if value is default and default is not _REQUIRED:
            return value
        wrong_bool = isinstance(value, bool) and kind is not bool
        if wrong_bool or not isinstance(value, kind):
            raise self.refuse(f"'{key}' must be {words}, got {value!r}")
        return value

    def text(self, key: str, default: Any = _REQUIRED) -> str:
        """A string."""
        return self._typed(key, str, "a string", default)

    def flag(self, key: str, default: Any = _REQUIRED) -> bool:
        """A boolean."""
        return self._typed(key, bool, "true or false", default)

    def integer(self, key: str, low: int, high: int | None = None, default: Any = _REQUIRED) -> int:
        """An integer in ``[low, high]``."""
        value = self._typed(key, int, "an integer", default)
        if value < low or (high is not None and value > high):
            raise self.refuse(f"'{key}' must be in [{low}, {'∞' if high is None else high}], got {value}")
        return value

    def number(self, key: str, default: Any = _REQUIRED) -> float:
        """A finite number."""
        value = self._typed(key, (int, float), "a number", default)
        if not math.isfinite(value):
            raise self.refuse(f"'{key}' must be finite, got {value}")
        return float(value)

    def choice(self, key: str, valid: Sequence[str], default: Any = _REQUIRED) -> str:
        """One of the valid words."""
        value = self.text(key, default)
        if value not in valid:
            raise self.refuse(f"'{key}' must be one of {list(valid)}, got {value!r}")
        return value

    def items(self, key: str, *, empty: bool = False, default: Any = _REQUIRED) -> list[Any]:
        """A list."""
        value = list(self._typed(key, (list, tuple), "a list", default))
        if not value and not empty:
            raise self.refuse(f"'{key}' must not be empty")
        return value

    def mapping(self, key: str, default: Any = _REQUIRED) -> dict[str, Any]:
        """A mapping with string keys."""
        value = self._typed(key, Mapping, "a mapping", default)
        if not all(isinstance(k, str) for k in value):
            raise self.refuse(f"'{key}' must have strings as keys, got {list(value)}")
        return dict(value)

    def finish(self) -> None:
        """Refuses keys that nobody asked for."""
        unknown = sorted(str(k) for k in self._data if k not in self._known)
        if unknown:
            raise self.refuse(f"unknown keys {unknown}; valid keys are {sorted(self._known)}")
