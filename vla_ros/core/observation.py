# SPDX-License-Identifier: Apache-2.0
"""What the policy sees at one moment: pictures, joints and the instruction, each with its stamp."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vla_ros.core.errors import ConfigError, InputError
from vla_ros.core.schema import Fields


@dataclass(frozen=True, kw_only=True)
class CameraSpec:
    """One camera input of a policy.

    Attributes:
        name: camera name; the topic is ``<name>/image_raw``.
        height: rows of the policy's picture.
        width: columns of the policy's picture.
        channels: 3 (rgb8).
        required: without a fresh picture the robot holds.
    """

    name: str
    height: int
    width: int
    channels: int = 3
    required: bool = True

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ConfigError(f"camera name must be an identifier such as 'front', got {self.name!r}")
        if self.height < 1 or self.width < 1 or self.channels != 3:
            raise ConfigError(f"camera '{self.name}': needs height, width > 0 and 3 channels, got {list(self.shape)}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return (self.height, self.width, self.channels)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "camera") -> CameraSpec:
        """Reads a plain mapping.

        Raises:
            ConfigError: naming the key, what was expected and what came.
        """
        fields = Fields(data, where)
        camera = cls(
            name=fields.text("name"),
            height=fields.integer("height", 1),
            width=fields.integer("width", 1),
            channels=fields.integer("channels", 3, 3, default=3),
            required=fields.flag("required", default=True),
        )
        fields.finish()
        return camera

    def to_dict(self) -> dict[str, Any]:
        """The inverse of ``from_dict``."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Observation:
    """Inputs of one inference. Arrays are not copied: the maker must not write to them afterwards.

    Attributes:
        images: camera name to uint8 [height, width, 3], RGB, already in the policy's size.
        image_stamp_ns: camera name to the sensor's stamp, ROS clock. A camera that is not required may be left out, so that
            its old picture does not make the whole observation old.
        joint_positions: float64 [J], in the robot's joint order, rad or m.
        joint_stamp_ns: stamp of the joint state, ROS clock.
        instruction: normalised text.
        generation: number of the control loop's generation that asked; late answers of an older one never act.
    """

    images: Mapping[str, np.ndarray]
    image_stamp_ns: Mapping[str, int]
    joint_positions: np.ndarray
    joint_stamp_ns: int
    instruction: str
    generation: int = 0

    @property
    def stamp_ns(self) -> int:
        """The oldest picture's stamp; the joint state's without pictures."""
        return min(self.image_stamp_ns.values(), default=self.joint_stamp_ns)

    def validate(self, cameras: tuple[CameraSpec, ...], num_joints: int) -> None:
        """Checks pictures and joints against what a policy reads.

        Raises:
            InputError: ``observation_missing_image``, ``observation_image_shape``, ``observation_joints``.
        """
        for camera in cameras:
            image = self.images.get(camera.name)
            if image is None or (camera.required and camera.name not in self.image_stamp_ns):
                raise InputError(f"no image of camera '{camera.name}'; present are {sorted(self.images)}", code="observation_missing_image")
            if image.dtype != np.uint8 or image.shape != camera.shape:
                raise InputError(
                    f"image of camera '{camera.name}' must be uint8 {list(camera.shape)}, got {image.dtype} {list(image.shape)}",
                    code="observation_image_shape",
                )
        if self.joint_positions.shape != (num_joints,) or not np.isfinite(self.joint_positions).all():
            raise InputError(f"joint_positions must be {num_joints} finite values, got {self.joint_positions}", code="observation_joints")
