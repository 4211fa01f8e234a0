# SPDX-License-Identifier: Apache-2.0
"""Reads a robot's YAML and URDF into one immutable description. Must not import ROS, torch or a simulator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
import xml.etree.ElementTree as ET

import numpy as np
import yaml

from vla_ros.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class JointLimits:
    """Limits of all joints, each array of shape [J] in the description's joint order.

    Positions are in rad (revolute) or m (prismatic); velocity, acceleration and jerk are magnitudes in that unit per second,
    per second squared and per second cubed. Two settings say how a commanded position closes its error: with the part ``closing`` of the
    speed from which a jerk-limited stop would just fit (at 1 it swings about a target that moves), and near zero at ``max_rate_1_s``, which
    should be slow against the control rate.
    """

    position_min: np.ndarray
    position_max: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray
    jerk: np.ndarray
    closing: float = 0.35
    max_rate_1_s: float = 12.0


@dataclass(frozen=True, kw_only=True)
class RobotDescription:
    """One robot: joints, frames, limits, workspace. Arrays are read-only.

    Attributes:
        joint_names: arm joints, then the gripper joint; the order of every [J] array.
        workspace_min: lower corner of the tool's box in ``base_frame``, m, shape [3].
        workspace_max: upper corner, likewise.
        home: joint positions from which an episode starts, shape [J].
        floor_height: height in ``base_frame`` that no link but the standing one may go below, m; None: there is no table.
        self_clearance: least distance between links that do not touch by construction, m.
        mimics: other joints of the URDF, each with the joint that it follows, factor and offset.
    """

    name: str
    urdf_path: Path
    base_frame: str
    tool_frame: str
    arm_joints: tuple[str, ...]
    gripper_joint: str
    gripper_open: float
    gripper_closed: float
    limits: JointLimits
    home: np.ndarray
    workspace_min: np.ndarray
    workspace_max: np.ndarray
    floor_height: float | None
    self_clearance: float
    mimics: Mapping[str, tuple[str, float, float]]

    @property
    def joint_names(self) -> tuple[str, ...]:
        return (*self.arm_joints, self.gripper_joint)

    @property
    def num_arm_joints(self) -> int:
        return len(self.arm_joints)

    @classmethod
    def load(cls, path: str | Path) -> RobotDescription:
        """Loads ``path`` (YAML) and the URDF that it names.

        Raises:
            ConfigError: a file is missing, a key is missing, or YAML and URDF disagree.
        """
        path = Path(path)
        config = _read_yaml(path)
        urdf_path = path.parent / _need(config, "urdf", path)
        arm_joints = tuple(_need(config, "arm_joints", path))
        gripper_joint = _need(config, "gripper_joint", path)
        names = (*arm_joints, gripper_joint)
        workspace = _need(config, "workspace", path)
        collision = _need(config, "collision", path)
        floor_height = _need(collision, "floor_height", path)
        return cls(
            name=_need(config, "name", path),
            urdf_path=urdf_path,
            base_frame=_need(config, "base_frame", path),
            tool_frame=_need(config, "tool_frame", path),
            arm_joints=arm_joints,
            gripper_joint=gripper_joint,
            gripper_open=float(_need(config, "gripper_open", path)),
            gripper_closed=float(_need(config, "gripper_closed", path)),
            limits=_joint_limits(names, _need(config, "joint_limits", path), _following(config.get("following") or {}, path), urdf_path, path),
            home=_frozen([float(_need(_need(config, "home", path), n, path)) for n in names]),
            workspace_min=_frozen(workspace["min"]),
            workspace_max=_frozen(workspace["max"]),
            floor_height=None if floor_height is None else float(floor_height),
            self_clearance=float(_need(collision, "self_clearance", path)),
            mimics=_urdf_mimics(urdf_path),
        )


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"robot description {path} cannot be read ({error.strerror}): give the path of a YAML file such as config/robots/tabletop_arm.yaml") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"robot description {path} is not valid YAML: {error}") from error
    if not isinstance(config, dict):
        raise ConfigError(f"robot description {path} must be a mapping, found {type(config).__name__}")
    return config


def _need(config: dict[str, Any], key: str, path: Path) -> Any:
    if key not in config:
        raise ConfigError(f"{path} has no key {key!r}: add it (keys found: {', '.join(map(str, config))})")
    return config[key]


def _following(table: dict[str, Any], path: Path) -> dict[str, float]:
    known = {"closing": "closing", "max_rate": "max_rate_1_s"}
    if unknown := sorted(set(table) - set(known)):
        raise ConfigError(f"{path}: following has no key {', '.join(unknown)}: valid are {', '.join(known)}")
    values = {known[key]: float(value) for key, value in table.items()}
    if not (0.0 < values.get("closing", 0.5) < 1.0 and 0.0 < values.get("max_rate_1_s", 1.0) < np.inf):
        raise ConfigError(f"{path}: following.closing must lie between 0 and 1 and following.max_rate be positive, found {table}")
    return values


def _joint_limits(names: tuple[str, ...], table: dict[str, Any], following: dict[str, float], urdf_path: Path, path: Path) -> JointLimits:
    urdf = _urdf_limits(urdf_path)
    missing = [n for n in names if n not in urdf]
    if missing:
        raise ConfigError(f"{urdf_path} has no limits for {', '.join(missing)}: joints with limits are {', '.join(urdf)}")
    rows = {key: [float(_need(_need(table, n, path), key, path)) for n in names] for key in ("max_velocity", "max_acceleration", "max_jerk")}
    for key, row in rows.items():
        for name, value in zip(names, row):
            if not 0.0 < value < np.inf:
                raise ConfigError(f"{path}: joint_limits.{name}.{key} must be positive and finite, found {value}")
    velocity = np.minimum(rows["max_velocity"], [urdf[n][2] for n in names])
    return JointLimits(
        position_min=_frozen([urdf[n][0] for n in names]),
        position_max=_frozen([urdf[n][1] for n in names]),
        velocity=_frozen(velocity),
        acceleration=_frozen(rows["max_acceleration"]),
        jerk=_frozen(rows["max_jerk"]),
        **following,
    )


def _urdf_limits(path: Path) -> dict[str, tuple[float, float, float]]:
    try:
        root = ET.parse(path).getroot()
    except (OSError, ET.ParseError) as error:
        raise ConfigError(f"URDF {path} cannot be read: {error}") from error
    found = {}
    for joint in root.iter("joint"):
        limit = joint.find("limit")
        if limit is not None:
            found[joint.get("name")] = (float(limit.get("lower", "-inf")), float(limit.get("upper", "inf")), float(limit.get("velocity", "inf")))
    return found


def _urdf_mimics(path: Path) -> dict[str, tuple[str, float, float]]:
    joints = [(joint.get("name"), joint.find("mimic")) for joint in ET.parse(path).getroot().iter("joint")]
    return {n: (m.get("joint"), float(m.get("multiplier", "1")), float(m.get("offset", "0"))) for n, m in joints if m is not None}


def _frozen(values: Any) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64).copy()
    array.flags.writeable = False
    return array
