# SPDX-License-Identifier: Apache-2.0
"""What an action means: each dimension's unit, frame, bounds and bins, and the chunk's horizon.

Array axes: H steps of a chunk, D dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vla_ros.core.errors import ActionError, ConfigError
from vla_ros.core.schema import Fields

DIM_KINDS = ("terminate", "translation", "rotation", "gripper", "joint", "unused")  # unused: the policy says it, the robot does not follow

BOUNDS_TOLERANCE = 1e-9  # float64 rounding of sums of metres; far below any bin's width


@dataclass(frozen=True, kw_only=True)
class ActionDim:
    """One dimension of an action.

    Attributes:
        name: unique name, such as ``x``.
        kind: one of ``DIM_KINDS``.
        unit: ``m``, ``rad`` or ``1``.
        frame: frame of a translation or rotation; the joint's name for ``gripper`` and ``joint``; may be empty.
        relative: True if measured from the robot's state at the observation's stamp.
        low: smallest value, in ``unit``.
        high: largest value, in ``unit``.
        num_bins: uniform bins between ``low`` and ``high``.
    """

    name: str
    kind: str
    unit: str
    frame: str
    relative: bool
    low: float
    high: float
    num_bins: int = 256

    def __post_init__(self) -> None:
        if not self.name:
            raise ConfigError("an action dimension needs a name")
        if self.kind not in DIM_KINDS:
            raise ConfigError(f"action dimension '{self.name}': kind must be one of {list(DIM_KINDS)}, got {self.kind!r}")
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ConfigError(f"action dimension '{self.name}': bounds must be finite with low < high, got [{self.low}, {self.high}]")
        if self.num_bins < 2:
            raise ConfigError(f"action dimension '{self.name}': num_bins must be at least 2, got {self.num_bins}")

    @property
    def bin_width(self) -> float:
        """Width of one bin, in ``unit``."""
        return (self.high - self.low) / self.num_bins

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "action dimension") -> ActionDim:
        """Reads a plain mapping.

        Raises:
            ConfigError: naming the key, what was expected and what came.
        """
        fields = Fields(data, where)
        dim = cls(
            name=fields.text("name"),
            kind=fields.choice("kind", DIM_KINDS),
            unit=fields.text("unit"),
            frame=fields.text("frame", default=""),
            relative=fields.flag("relative"),
            low=fields.number("low"),
            high=fields.number("high"),
            num_bins=fields.integer("num_bins", 2, default=256),
        )
        fields.finish()
        return dim

    def to_dict(self) -> dict[str, Any]:
        """The inverse of ``from_dict``."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class ActionSpec:
    """A chunk of actions: ``horizon`` steps of ``dims``, ``dt_s`` apart.

    Step k of a chunk is due ``(k + 1) * dt_s`` after the stamp of the observation that it answers.
    """

    dims: tuple[ActionDim, ...]
    horizon: int
    dt_s: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "dims", tuple(self.dims))
        if not self.dims:
            raise ConfigError("an action needs at least one dimension")
        if len(set(self.names)) != len(self.names):
            raise ConfigError(f"action dimensions must have different names, got {list(self.names)}")
        if len({dim.num_bins for dim in self.dims}) != 1:
            raise ConfigError("all action dimensions share one token range: give them the same num_bins")
        if self.horizon < 1:
            raise ConfigError(f"action horizon must be at least 1, got {self.horizon}")
        if not (math.isfinite(self.dt_s) and self.dt_s > 0.0):
            raise ConfigError(f"action dt_s must be positive, got {self.dt_s}")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the dimensions, in order."""
        return tuple(dim.name for dim in self.dims)

    @property
    def num_dims(self) -> int:
        """D."""
        return len(self.dims)

    @property
    def num_bins(self) -> int:
        """Bins of every dimension."""
        return self.dims[0].num_bins

    @property
    def num_tokens(self) -> int:
        """H * D, the tokens of a chunk."""
        return self.horizon * len(self.dims)

    @property
    def shape(self) -> tuple[int, int]:
        """(H, D)."""
        return (self.horizon, len(self.dims))

    @property
    def dt_ns(self) -> int:
        """Time between two steps, integer nanoseconds."""
        return round(self.dt_s * 1e9)

    @property
    def low_D(self) -> np.ndarray:
        """Lower bounds, float64 [D]."""
        return np.array([dim.low for dim in self.dims])

    @property
    def high_D(self) -> np.ndarray:
        """Upper bounds, float64 [D]."""
        return np.array([dim.high for dim in self.dims])

    def index(self, name: str) -> int:
        """Position of the dimension ``name``.

        Raises:
            ConfigError: listing the names there are.
        """
        if name not in self.names:
            raise ConfigError(f"no action dimension '{name}'; there are {list(self.names)}")
        return self.names.index(name)

    def index_of_kind(self, kind: str) -> int | None:
        """Position of the first dimension of ``kind``, None if there is none."""
        return next((i for i, dim in enumerate(self.dims) if dim.kind == kind), None)

    def clip(self, actions_HD: np.ndarray) -> np.ndarray:
        """A copy with every value inside its bounds. The last axis is D; NaN stays NaN."""
        return np.clip(np.asarray(actions_HD, dtype=np.float64), self.low_D, self.high_D)

    def validate(self, actions_HD: np.ndarray) -> None:
        """Checks shape [H, D], finiteness and bounds.

        Raises:
            ActionError: naming the step, the dimension, the value and its bounds.
        """
        actions_HD = np.asarray(actions_HD)
        if actions_HD.shape != self.shape:
            raise ActionError(f"actions must have shape [H, D] = {list(self.shape)}, got {list(actions_HD.shape)}")
        self.validate_values(actions_HD)

    def validate_values(self, actions_D: np.ndarray) -> None:
        """Like ``validate``, for any leading axes [..., D].

        Raises:
            ActionError: naming the first offending value.
        """
        if actions_D.shape[-1:] != (self.num_dims,):
            raise ActionError(f"the last axis must have {self.num_dims} dimensions {list(self.names)}, got shape {list(actions_D.shape)}")
        outside = ~((actions_D >= self.low_D - BOUNDS_TOLERANCE) & (actions_D <= self.high_D + BOUNDS_TOLERANCE))
        if outside.any():
            at = tuple(int(i) for i in np.argwhere(outside)[0])
            dim = self.dims[at[-1]]
            raise ActionError(f"action {list(at[:-1])} '{dim.name}' is {actions_D[at]} {dim.unit}, bounds [{dim.low}, {dim.high}]")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "action") -> ActionSpec:
        """Reads ``{horizon, dt_s, dims: [...]}``.

        Raises:
            ConfigError: naming the key, what was expected and what came.
        """
        fields = Fields(data, where)
        dims = fields.items("dims")
        spec = cls(
            dims=tuple(ActionDim.from_dict(d, f"{where}: dims[{i}]") for i, d in enumerate(dims)),
            horizon=fields.integer("horizon", 1),
            dt_s=fields.number("dt_s"),
        )
        fields.finish()
        return spec

    def to_dict(self) -> dict[str, Any]:
        """The inverse of ``from_dict``."""
        return {"horizon": self.horizon, "dt_s": self.dt_s, "dims": [dim.to_dict() for dim in self.dims]}
