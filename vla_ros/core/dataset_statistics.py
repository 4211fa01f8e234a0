# SPDX-License-Identifier: Apache-2.0
"""``dataset_statistics.json``: statistics of a data set's actions in OpenVLA's file format (arXiv 2406.09246).

    {"<data set>": {"action":  {"mean": [D], "std": [D], "max": [D], "min": [D], "q01": [D], "q99": [D], "mask": [D]},
                    "proprio": {the same without mask}, "num_transitions": n, "num_trajectories": n}}

``mask`` says which dimensions are scaled by their quantiles; where it is false (usually the gripper) values are left
alone. Without ``mask`` all are scaled; without ``proprio`` there is none. Axes: N samples, D dimensions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vla_ros.core.action import ActionSpec
from vla_ros.core.errors import ConfigError
from vla_ros.core.schema import Fields

_NUMBERS = ("mean", "std", "max", "min", "q01", "q99")


@dataclass(frozen=True, kw_only=True)
class ValueStatistics:
    """Statistics of each dimension, in that dimension's unit; ``mask`` is None where the file has none.

    Raises:
        ConfigError: lists of different length, a number that is not finite, or values out of order.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    max: tuple[float, ...]
    min: tuple[float, ...]
    q01: tuple[float, ...]
    q99: tuple[float, ...]
    mask: tuple[bool, ...] | None = None

    def __post_init__(self) -> None:
        lists = {name: getattr(self, name) for name in _NUMBERS} | ({} if self.mask is None else {"mask": self.mask})
        lengths = {name: len(values) for name, values in lists.items()}
        if len(set(lengths.values())) != 1 or not lengths["q01"]:
            raise ConfigError(f"statistics must have one entry for each dimension in every list, got lengths {lengths}")
        for name in _NUMBERS:
            if not np.isfinite(lists[name]).all():
                raise ConfigError(f"statistics '{name}' must be finite, got {list(lists[name])}")
        for index, ordered in enumerate(zip(self.min, self.q01, self.q99, self.max)):
            if not ordered[1] <= ordered[2] or not ordered[0] <= ordered[3]:
                raise ConfigError(f"statistics of dimension {index} must have q01 <= q99 and min <= max, got min, q01, q99, max = {list(ordered)}")

    @property
    def num_dims(self) -> int:
        """D."""
        return len(self.q01)

    @property
    def scaled_D(self) -> np.ndarray:
        """Bool [D]: which dimensions are scaled by their quantiles."""
        return np.ones(self.num_dims, dtype=bool) if self.mask is None else np.array(self.mask)

    @property
    def constant_D(self) -> np.ndarray:
        """Bool [D]: which dimensions never changed in the data."""
        return np.array(self.min) == np.array(self.max)

    @classmethod
    def of(cls, values_ND: np.ndarray, mask: Sequence[bool] | None = None) -> ValueStatistics:
        """Statistics of samples; quantiles with linear interpolation, as numpy and OpenVLA have them.

        Args:
            values_ND: [N, D], N >= 1, finite.
            mask: which dimensions are scaled; None: all.

        Raises:
            ConfigError: another shape, or a sample that is not finite.
        """
        values_ND = np.asarray(values_ND, dtype=np.float64)
        if values_ND.ndim != 2 or not values_ND.size:
            raise ConfigError(f"statistics need samples [N, D] with N, D >= 1, got shape {list(values_ND.shape)}")
        if not np.isfinite(values_ND).all():
            row, column = np.argwhere(~np.isfinite(values_ND))[0]
            raise ConfigError(f"sample {row} has {values_ND[row, column]} in dimension {column}: mend the data first")
        q01_D, q99_D = np.quantile(values_ND, (0.01, 0.99), axis=0)
        arrays = {
            "mean": values_ND.mean(axis=0), "std": values_ND.std(axis=0), "max": values_ND.max(axis=0),
            "min": values_ND.min(axis=0), "q01": q01_D, "q99": q99_D,
        }  # fmt: skip
        return cls(**{name: tuple(array.tolist()) for name, array in arrays.items()}, mask=None if mask is None else tuple(map(bool, mask)))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str) -> ValueStatistics:
        """Reads the lists of one entry; keys that the format does not know are refused, since a misspelt ``mask`` moves the gripper."""
        fields = Fields(data, where)
        lists = {name: tuple(_number(value, f"{where}: {name}") for value in fields.items(name)) for name in _NUMBERS}
        mask = fields.items("mask", default=None) if "mask" in data else None
        if mask is not None and not all(isinstance(flag, bool) for flag in mask):
            raise fields.refuse(f"'mask' must be a list of true and false, got {mask}")
        fields.finish()
        try:
            return cls(**lists, mask=None if mask is None else tuple(mask))
        except ConfigError as error:
            raise fields.refuse(str(error)) from error

    def to_dict(self) -> dict[str, Any]:
        """The inverse of ``from_dict``."""
        lists: dict[str, Any] = {name: list(getattr(self, name)) for name in _NUMBERS}
        return lists if self.mask is None else {**lists, "mask": list(self.mask)}


@dataclass(frozen=True, kw_only=True)
class DatasetStatistics:
    """One data set's entry of the file."""

    action: ValueStatistics
    num_transitions: int
    num_trajectories: int
    proprio: ValueStatistics | None = None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str) -> DatasetStatistics:
        """Reads one data set's entry; raises ConfigError naming the key."""
        fields = Fields(data, where)
        proprio = fields.raw("proprio", None)
        entry = cls(
            action=ValueStatistics.from_dict(fields.raw("action"), f"{where}: action"),
            proprio=None if proprio is None else ValueStatistics.from_dict(proprio, f"{where}: proprio"),
            num_transitions=fields.integer("num_transitions", 0),
            num_trajectories=fields.integer("num_trajectories", 0),
        )
        fields.finish()
        return entry

    def to_dict(self) -> dict[str, Any]:
        """The inverse of ``from_dict``."""
        proprio = {} if self.proprio is None else {"proprio": self.proprio.to_dict()}
        return {"action": self.action.to_dict(), **proprio, "num_transitions": self.num_transitions, "num_trajectories": self.num_trajectories}


def quantile_mask(spec: ActionSpec) -> tuple[bool, ...]:
    """The mask that suits an action: what terminates is a flag of 0 and 1 and is left alone, all else has a unit and is scaled."""
    return tuple(dim.kind != "terminate" for dim in spec.dims)


def read_dataset_statistics(path: Path) -> dict[str, DatasetStatistics]:
    """All data sets of a file.

    Raises:
        ConfigError: the file is missing or no JSON, or an entry breaks the format; the message names file, data set and key.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as JSON ({error}): give the dataset_statistics.json of the model") from error
    fields = Fields(data, str(path))
    return {name: DatasetStatistics.from_dict(fields.raw(name), f"{path}: {name}") for name in data}


def write_dataset_statistics(path: Path, statistics: Mapping[str, DatasetStatistics]) -> None:
    """Writes the file; reading it gives equal statistics, to the last bit."""
    text = json.dumps({name: entry.to_dict() for name, entry in statistics.items()}, indent=2)
    path.write_text(text + "\n", encoding="utf-8")


def choose_statistics(statistics: Mapping[str, DatasetStatistics], name: str | None = None) -> DatasetStatistics:
    """The entry ``name`` (OpenVLA's ``unnorm_key``); without a name the only one.

    Raises:
        ConfigError: no such entry, or several and no name; lists the names there are.
    """
    if name is None and len(statistics) == 1:
        return next(iter(statistics.values()))
    if name is None or name not in statistics:
        raise ConfigError(f"no statistics for {name!r}: choose one of {sorted(statistics)}")
    return statistics[name]


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"{where} must be a list of numbers, got {value!r}")
    return float(value)
