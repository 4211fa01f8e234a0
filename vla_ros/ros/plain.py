# SPDX-License-Identifier: Apache-2.0
"""Values of the domain as JSON and back, bit for bit: numbers, arrays, enums and dataclasses of ``vla_ros.core``. Must not import rclpy.

Python writes a float with as many digits as it takes to read the same bits back, so that text loses nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

import numpy as np

from vla_ros.core import chunk, clock, command, joints, observation, safety, states
from vla_ros.core.errors import InputError

_MODULES = (chunk, clock, command, joints, observation, safety, states)
TYPES: dict[str, type] = {
    cls.__name__: cls
    for module in _MODULES
    for cls in vars(module).values()
    if isinstance(cls, type) and cls.__module__ == module.__name__ and (is_dataclass(cls) or issubclass(cls, Enum))
}
"""What may be written by name."""


def dumps(value: Any) -> str:
    """One line of JSON.

    Raises:
        TypeError: something in ``value`` is none of the domain's.
    """
    return json.dumps(to_plain(value), separators=(",", ":"), ensure_ascii=False)


def loads(text: str | bytes) -> Any:
    """The inverse of :func:`dumps`.

    Raises:
        InputError: the text was not written by :func:`dumps`, or by a release that knows other types.
    """
    try:
        return from_plain(json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"cannot be read ({type(error).__name__}: {error}): was it recorded by another release?", code="plain") from error


def to_plain(value: Any) -> Any:
    """Dictionaries, lists, numbers and strings that say the same.

    Raises:
        TypeError: something in ``value`` is none of the domain's.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return to_plain(value.item())
    if isinstance(value, np.ndarray):
        return {"array": value.dtype.str, "shape": list(value.shape), "data": value.ravel().tolist()}
    if isinstance(value, tuple):
        return {"tuple": [to_plain(item) for item in value]}
    if isinstance(value, list):
        return [to_plain(item) for item in value]
    if isinstance(value, Mapping):
        kind = "counter" if isinstance(value, Counter) else "map"
        return {kind: {_text(key): to_plain(item) for key, item in value.items()}}
    name = type(value).__name__
    if TYPES.get(name) is type(value):
        if isinstance(value, Enum):
            return {"enum": name, "name": value.name}
        return {"type": name, "fields": {f.name: to_plain(getattr(value, f.name)) for f in fields(value)}}
    raise TypeError(f"{type(value).__module__}.{name} cannot be written: known are {', '.join(sorted(TYPES))}")


def from_plain(value: Any) -> Any:
    """The inverse of :func:`to_plain`."""
    if isinstance(value, list):
        return [from_plain(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return np.array(value["data"], dtype=np.dtype(value["array"])).reshape(value["shape"])
    if "tuple" in value:
        return tuple(from_plain(item) for item in value["tuple"])
    if "enum" in value:
        return TYPES[value["enum"]][value["name"]]
    if "type" in value:
        return TYPES[value["type"]](**{name: from_plain(item) for name, item in value["fields"].items()})
    kind = Counter if "counter" in value else dict
    return kind({key: from_plain(item) for key, item in (value["counter"] if kind is Counter else value["map"]).items()})


def _text(key: Any) -> str:
    if not isinstance(key, str):
        raise TypeError(f"keys must be strings, found {key!r}")
    return key


def picture_digest(image: np.ndarray) -> str:
    """Names a picture, uint8 [height, width, 3], by its bytes."""
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()


def first_difference(recorded: Any, computed: Any, where: str = "") -> str | None:
    """Where two values first differ, in words, or None if every bit is the same. NaN equals NaN."""
    if type(recorded) is not type(computed):
        return f"{where or 'answer'} is {_kind(recorded)} in the recording and {_kind(computed)} now"
    if isinstance(recorded, np.ndarray):
        return _array_difference(recorded, computed, where)
    if isinstance(recorded, Mapping):
        if list(recorded) != list(computed):
            return f"{where or 'value'} has {list(recorded)} in the recording and {list(computed)} now"
        return _first(first_difference(recorded[key], computed[key], f"{where}.{key}".lstrip(".")) for key in recorded)
    if isinstance(recorded, (list, tuple)):
        if len(recorded) != len(computed):
            return f"{where or 'value'} has {len(recorded)} items in the recording and {len(computed)} now"
        return _first(first_difference(a, b, f"{where}[{i}]") for i, (a, b) in enumerate(zip(recorded, computed)))
    if is_dataclass(recorded):
        names = [f.name for f in fields(recorded)]
        return _first(first_difference(getattr(recorded, n), getattr(computed, n), f"{where}.{n}".lstrip(".")) for n in names)
    same = recorded == computed or (isinstance(recorded, float) and recorded != recorded and computed != computed)
    return None if same else f"{where or 'value'} is {recorded!r} in the recording and {computed!r} now"


def _array_difference(recorded: np.ndarray, computed: np.ndarray, where: str) -> str | None:
    if (recorded.dtype, recorded.shape) != (computed.dtype, computed.shape):
        return f"{where} is {recorded.dtype} {list(recorded.shape)} in the recording and {computed.dtype} {list(computed.shape)} now"
    if recorded.tobytes() == computed.tobytes():
        return None
    differs = recorded.view(np.uint8).reshape(*recorded.shape, -1) != np.ascontiguousarray(computed).view(np.uint8).reshape(
        *recorded.shape, -1
    )
    at = tuple(int(i) for i in np.argwhere(differs.any(axis=-1))[0])
    return f"{where}{list(at)} is {recorded[at].item()!r} in the recording and {computed[at].item()!r} now"


def _kind(value: Any) -> str:
    return repr(value)[:300] if value is None or isinstance(value, (bool, int, float, str)) else f"a {type(value).__name__}"


def _first(differences: Any) -> str | None:
    return next((difference for difference in differences if difference is not None), None)
