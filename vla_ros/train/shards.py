# SPDX-License-Identifier: Apache-2.0
"""Recorded demonstrations on disk: opening, checking and finding shards.

A dataset folder holds `meta.yaml` and folders `shard_*` of .npy files. Axes: N frames of a shard, K labels of a frame,
M objects, H steps, D action dimensions, S proprioception entries.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from vla_ros.core.action import ActionSpec
from vla_ros.core.embodiment import TABLETOP, Embodiment, embodiment_of
from vla_ros.core.errors import ConfigError
from vla_ros.core.schema import Fields

FORMAT_VERSION = 2
OPTIONAL = ("touch",)  # contact forces of the fingers in N, float32 [N, P]; NaN where not measured
ARRAYS = ("proprio", "text_index", "actions", "committed", "plan", "object_uv", "object_class", "episode", "frame")


class DataError(ConfigError):
    """Training data that cannot be used. The message names the file and, where there is one, the row."""


@dataclass(frozen=True, kw_only=True)
class DatasetMeta:
    """`meta.yaml`: what the arrays of every shard mean. `point_low` and `point_high` bound the plan's (x, y) in m."""

    labels: int
    objects: int
    phases: tuple[str, ...]
    colours: tuple[str, ...]
    kinds: tuple[str, ...]
    point_low: tuple[float, float]
    point_high: tuple[float, float]
    action: ActionSpec
    embodiment: str | dict[str, Any] = TABLETOP.name  # a name, or a description as of ``Embodiment.from_dict``
    provenance: dict[str, Any]

    @property
    def body(self) -> Embodiment:
        """Whose cameras and proprioception the shards hold."""
        return embodiment_of(self.embodiment)

    def check_same(self, other: DatasetMeta, where: str) -> None:
        """Raises DataError unless the arrays of both datasets mean the same."""
        for name in ("phases", "colours", "kinds", "point_low", "point_high", "action", "embodiment"):
            if getattr(self, name) != getattr(other, name):
                raise DataError(f"{where}: {name} differs from the first dataset's ({getattr(other, name)} against {getattr(self, name)})")


def read_meta(folder: Path) -> DatasetMeta:
    """Reads `folder`/meta.yaml; raises ConfigError naming the key."""
    path = folder / "meta.yaml"
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise DataError(f"cannot read {path}: {error}; give a folder that `vla collect` wrote") from error
    fields = Fields(values, str(path), DataError)
    version = fields.integer("format_version", 1)
    if version != FORMAT_VERSION:
        raise fields.refuse(f"format_version is {version}, this release reads {FORMAT_VERSION}: collect again")
    bounds = Fields(fields.raw("plan"), f"{path}: plan", DataError)
    low, high = (_point(bounds, key) for key in ("low", "high"))
    if not (low[0] < high[0] and low[1] < high[1]):
        raise bounds.refuse(f"low {list(low)} must lie below high {list(high)}")
    known = {"format_version", "K", "M", "phases", "colours", "kinds", "plan", "action", "embodiment"}
    return DatasetMeta(
        labels=fields.integer("K", 1),
        objects=fields.integer("M", 1),
        phases=tuple(fields.raw("phases")),
        colours=tuple(fields.raw("colours")),
        kinds=tuple(fields.raw("kinds")),
        point_low=low,
        point_high=high,
        action=ActionSpec.from_dict(fields.raw("action"), f"{path}: action"),
        embodiment=_embodiment(fields.raw("embodiment", TABLETOP.name), path),
        provenance={key: value for key, value in values.items() if key not in known},
    )


def _embodiment(value: Any, path: Path) -> str | dict[str, Any]:
    if not isinstance(value, (str, dict)):
        raise DataError(f"{path}: 'embodiment' must be a name or a mapping, got {value!r}")
    body = embodiment_of(value)
    return body.name if isinstance(value, str) else body.to_dict()


def _point(bounds: Fields, key: str) -> tuple[float, float]:
    pair = bounds.raw(key)
    if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(value, (int, float)) for value in pair):
        raise bounds.refuse(f"'{key}' must be [x, y] in m, got {pair!r}")
    return float(pair[0]), float(pair[1])


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Memory-mapped, checked arrays of one shard, named as in `ARRAYS` and, where they are there, `OPTIONAL`; and its instructions."""

    path: Path
    arrays: dict[str, np.ndarray]
    instructions: list[str]

    def __len__(self) -> int:
        return len(self.arrays["episode"])


def open_shard(path: Path, meta: DatasetMeta) -> Shard:
    """Opens and checks every array of a shard.

    Raises:
        DataError: a file is missing, truncated, of the wrong shape or type, not finite, or out of range; names file and row.
    """
    arrays = {name: load_array(path / f"{name}.npy") for name in (*_names(meta.body), *OPTIONAL) if name not in OPTIONAL or (path / f"{name}.npy").exists()}
    rows = len(arrays["episode"]) if arrays["episode"].ndim else 0
    if not rows:
        raise DataError(f"{path / 'episode.npy'} is empty: delete the shard or collect it again")
    for name, (dtype, shape) in _expected(meta, rows).items():
        array = arrays[name]
        if array.dtype != dtype or array.shape != shape:
            raise DataError(f"{path / (name + '.npy')}: expected {np.dtype(dtype)} {list(shape)}, got {array.dtype} {list(array.shape)}")
    try:
        instructions = json.loads((path / "instructions.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path / 'instructions.json'}: {error}") from error
    if not isinstance(instructions, list) or not all(isinstance(text, str) and text.strip() for text in instructions):
        raise DataError(f"{path / 'instructions.json'}: expected a list of texts that are not blank")
    _check_values(path, arrays, meta, len(instructions))
    if "touch" in arrays:
        _check_touch(path / "touch.npy", arrays["touch"], rows)
    return Shard(path=path, arrays=arrays, instructions=instructions)


def load_array(path: Path) -> np.ndarray:
    """A memory-mapped array; raises DataError naming the file."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"cannot read {path}: {error}") from error


def _expected(meta: DatasetMeta, rows: int) -> dict[str, tuple[type, tuple[int, ...]]]:
    pictures = {camera.name: (np.uint8, (rows, *camera.shape)) for camera in meta.body.cameras}
    labels, objects = meta.labels, meta.objects
    return {
        **pictures,
        "proprio": (np.float32, (rows, len(meta.body.proprio))),
        "text_index": (np.int32, (rows, labels)),
        "actions": (np.float32, (rows, labels, *meta.action.shape)),
        "committed": (np.int8, (rows, labels)),
        "plan": (np.float32, (rows, labels, 3)),
        "object_uv": (np.float32, (rows, objects, 2)),
        "object_class": (np.int16, (rows, objects, 2)),
        "episode": (np.int32, (rows,)),
        "frame": (np.int32, (rows,)),
    }


def _check_values(path: Path, arrays: dict[str, np.ndarray], meta: DatasetMeta, texts: int) -> None:
    def refuse(name: str, bad: np.ndarray, words: str) -> None:
        if bad.any():
            row = np.argwhere(bad)[0]
            raise DataError(f"{path / (name + '.npy')}: row {row[0]}: {words}, got {arrays[name][tuple(row)]}")

    for name in ("proprio", "actions", "plan"):
        refuse(name, ~np.isfinite(arrays[name]), "values must be finite")
    margin = 1e-5 * (meta.action.high_D - meta.action.low_D)  # float32 rounding of the bounds
    refuse("actions", (arrays["actions"] < meta.action.low_D - margin) | (arrays["actions"] > meta.action.high_D + margin), "actions must be within bounds")
    committed = arrays["committed"]
    refuse("committed", (committed < 0) | (committed >= meta.action.horizon), f"expected 0 to {meta.action.horizon - 1} committed steps")
    refuse("text_index", (arrays["text_index"] < 0) | (arrays["text_index"] >= texts), f"expected an index of the {texts} instructions")
    phase = arrays["plan"][..., 0]
    refuse("plan", (phase != np.floor(phase)) | (phase < 0) | (phase >= len(meta.phases)), f"phase must be one of {len(meta.phases)} words")
    classes = arrays["object_class"]
    limit = np.array([len(meta.colours), len(meta.kinds)])
    refuse("object_class", (classes < -1) | (classes >= limit), f"expected colour, kind below {limit.tolist()} or -1")
    present = (classes >= 0).all(-1)
    refuse("object_uv", present & ~np.isfinite(arrays["object_uv"]).all(-1), "a present object needs finite coordinates")


def _check_touch(path: Path, touch: np.ndarray, rows: int) -> None:
    if touch.dtype != np.float32 or touch.ndim != 2 or len(touch) != rows:
        raise DataError(f"{path}: expected float32 [{rows}, fingers], got {touch.dtype} {list(touch.shape)}")
    if np.isinf(touch).any():
        raise DataError(f"{path}: row {np.argwhere(np.isinf(touch))[0][0]}: forces must be finite, or NaN where not measured")


def _names(body: Embodiment) -> tuple[str, ...]:
    return (*(camera.name for camera in body.cameras), *ARRAYS)


def find_shards(folder: Path, body: Embodiment = TABLETOP) -> list[Path]:
    """Finished shard folders, in order. One with a suffix, or that lacks a file, is not listed: its writer may be at work."""
    names = [f"{name}.npy" for name in _names(body)] + ["instructions.json"]
    return [path for path in sorted(folder.glob("shard_*")) if not path.suffix and all((path / name).is_file() for name in names)]
