# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint does not say and a bundle must: robot, cameras, units, frames and rate, in a YAML file that the user writes.

robot: ur5e
dt_s: 0.2
cameras:
  - {name: front, height: 480, width: 640, source: observation.images.front}
dims:       # in the order of the checkpoint's action; physical = offset + scale * value
  - {name: x, kind: translation, unit: m, frame: base_link, relative: true}
  - {name: gripper, kind: gripper, unit: m, frame: gripper_joint, relative: false, scale: 0.042}
proprio:    # in the order of the checkpoint's state, likewise
  - {name: shoulder_pan, unit: rad, source: joint, scale: 0.017453292519943295}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from vla_ros.core.action import DIM_KINDS, ActionDim
from vla_ros.core.errors import ConfigError
from vla_ros.core.manifest import ProprioSpec
from vla_ros.core.observation import CameraSpec
from vla_ros.core.schema import Fields

UNNAMED_ROBOT = "unnamed"  # no description has this name: the bundle can be looked at and drives nothing


@dataclass(frozen=True, kw_only=True)
class Scaled:
    """One value of the checkpoint: ``physical = offset + scale * value``."""

    scale: float = 1.0
    offset: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A camera, and the checkpoint's name for it."""

    spec: CameraSpec
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """One dimension of the action; bounds are None where the statistics give them."""

    name: str
    kind: str
    unit: str
    frame: str
    relative: bool
    scaled: Scaled = Scaled()
    low: float | None = None
    high: float | None = None

    def spec(self, low: float, high: float, num_bins: int = 256) -> ActionDim:
        """With these bounds, unless it has its own."""
        return ActionDim(
            name=self.name, kind=self.kind, unit=self.unit, frame=self.frame, relative=self.relative, num_bins=num_bins,
            low=low if self.low is None else self.low, high=high if self.high is None else self.high,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Interface:
    """Between a checkpoint and a robot."""

    robot: str
    dt_s: float
    cameras: tuple[Camera, ...]
    dims: tuple[Dimension, ...]
    proprio: tuple[tuple[ProprioSpec, Scaled], ...] = ()

    def check_dims(self, count: int, what: str) -> None:
        """Raises ConfigError unless the action has ``count`` dimensions."""
        if len(self.dims) != count:
            names = [dim.name for dim in self.dims]
            raise ConfigError(
                f"{what} has actions of {count} dimensions, the interface names {len(names)} {names}: give one entry for each, in order"
            )

    @classmethod
    def load(cls, path: Path) -> Interface:
        """Reads the YAML file.

        Raises:
            ConfigError: it cannot be read, or a key is missing, unknown or wrong; names the key.
        """
        try:
            data = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(
                f"interface {path} cannot be read ({error.strerror}): give a YAML file as docs/own_model.md describes"
            ) from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"interface {path} is no valid YAML: {error}") from error
        return cls.from_dict(data, str(path))

    @classmethod
    def from_dict(cls, data: Any, where: str = "interface") -> Interface:
        """Reads a plain mapping; raises ConfigError naming the key."""
        fields = Fields(data, where)
        interface = cls(
            robot=fields.text("robot"),
            dt_s=fields.number("dt_s"),
            cameras=tuple(_camera(entry, f"{where}: cameras[{i}]") for i, entry in enumerate(fields.items("cameras"))),
            dims=tuple(_dimension(entry, f"{where}: dims[{i}]") for i, entry in enumerate(fields.items("dims"))),
            proprio=tuple(
                _proprio(entry, f"{where}: proprio[{i}]") for i, entry in enumerate(fields.items("proprio", empty=True, default=()))
            ),
        )
        fields.finish()
        return interface


def openvla_interface(side: int) -> Interface:
    """OpenVLA's convention for the tool of an arm: small steps of the pose, and how far the gripper is open (0 to 1)."""
    moves = [("x", "translation", "m"), ("y", "translation", "m"), ("z", "translation", "m")]
    moves += [("roll", "rotation", "rad"), ("pitch", "rotation", "rad"), ("yaw", "rotation", "rad")]
    dims = [Dimension(name=name, kind=kind, unit=unit, frame="base_link", relative=True) for name, kind, unit in moves]
    gripper = Dimension(name="gripper", kind="gripper", unit="1", frame="", relative=False)
    return Interface(
        robot=UNNAMED_ROBOT, dt_s=0.2, cameras=(Camera(spec=CameraSpec(name="front", height=side, width=side)),), dims=(*dims, gripper)
    )


def _camera(data: Mapping[str, Any], where: str) -> Camera:
    fields = Fields(data, where)
    spec = CameraSpec(name=fields.text("name"), height=fields.integer("height", 1), width=fields.integer("width", 1))
    camera = Camera(spec=spec, source=fields.text("source", ""))
    fields.finish()
    return camera


def _dimension(data: Mapping[str, Any], where: str) -> Dimension:
    fields = Fields(data, where)
    bounds = {key: fields.number(key) if key in data else fields.raw(key, None) for key in ("low", "high")}
    dimension = Dimension(
        name=fields.text("name"), kind=fields.choice("kind", DIM_KINDS), unit=fields.text("unit"), frame=fields.text("frame", ""),
        relative=fields.flag("relative"), scaled=_scaled(fields), **bounds,
    )  # fmt: skip
    fields.finish()
    return dimension


def _proprio(data: Mapping[str, Any], where: str) -> tuple[ProprioSpec, Scaled]:
    own = {key: data[key] for key in ("scale", "offset") if isinstance(data, Mapping) and key in data}
    fields = Fields(own, where)
    spec = ProprioSpec.from_dict(
        {key: value for key, value in data.items() if key not in own} if isinstance(data, Mapping) else data, where
    )
    return spec, _scaled(fields)


def _scaled(fields: Fields) -> Scaled:
    scaled = Scaled(scale=fields.number("scale", 1.0), offset=fields.number("offset", 0.0))
    if not (np.isfinite([scaled.scale, scaled.offset]).all() and scaled.scale != 0.0):
        raise fields.refuse(f"'scale' must not be zero, got {scaled.scale}")
    return scaled
