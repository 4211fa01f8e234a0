# SPDX-License-Identifier: Apache-2.0
"""The file that says what a recording's topics, joints and units are to a policy. Example with every key: `config/recordings/example.yaml`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from vla_ros.core.embodiment import TABLETOP, Embodiment, embodiment_of
from vla_ros.core.paths import robot_config_path
from vla_ros.core.schema import Fields
from vla_ros.robot.description import RobotDescription
from vla_ros.train.shards import DataError

UNITS = {"rad": 1.0, "deg": math.pi / 180.0, "m": 1.0, "mm": 1e-3}  # to rad or m
TIMES = ("header", "received")


@dataclass(frozen=True, kw_only=True)
class JointSource:
    """Where a joint of the robot description is found: position = ``factor`` * recorded + ``offset``, in rad or m."""

    name: str
    factor: float = 1.0
    offset: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Stream:
    """One topic.

    Attributes:
        topic: fully resolved name.
        rate_hz: what it should have; None: any.
        max_gap_s: longest time between two messages inside an episode, and greatest age of a picture.
    """

    topic: str
    rate_hz: float | None = None
    max_gap_s: float = 0.5


@dataclass(frozen=True, kw_only=True)
class JointStream(Stream):
    """A topic with joint positions: JointState, JointTrajectory (its last point) or Float64MultiArray.

    Attributes:
        covers: the robot description's joints that this topic holds.
        joints: where they are found; those left out are called the same and have rad or m.
        order: names of the values of a message that names none.
    """

    covers: tuple[str, ...] = ()
    joints: dict[str, JointSource] = field(default_factory=dict)
    order: tuple[str, ...] = ()

    def source(self, joint: str) -> JointSource:
        """Where a joint of the description is found."""
        return self.joints.get(joint, JointSource(name=joint))


@dataclass(frozen=True, kw_only=True)
class Mapping:
    """What a recording means.

    Attributes:
        body: whose policies are trained with it.
        robot: its description, for the tool's pose.
        cameras: by the policy's name.
        state: what was measured; together the topics hold every joint.
        action: what was commanded, likewise; empty: the robot went where it was sent.
        instruction: topic of std_msgs/String; None: ``text`` holds for a whole recording.
        text: see ``instruction``.
        time: ``header`` (the messages' stamps) or ``received``.
        min_frames: a shorter episode is refused.
        rate_tolerance: how far a stream's median interval may lie from its ``rate_hz``, as a part of it.
    """

    path: Path
    body: Embodiment
    robot: RobotDescription
    cameras: dict[str, Stream]
    state: tuple[JointStream, ...]
    action: tuple[JointStream, ...]
    instruction: Stream | None
    text: str
    time: str
    min_frames: int
    rate_tolerance: float


def read_mapping(path: Path) -> Mapping:
    """Reads and checks a mapping file.

    Raises:
        DataError: naming file and key, what was expected and what came.
    """
    fields = Fields(read_yaml(path), str(path), DataError)
    body, robot = read_body(fields, path)
    cameras = {name: _stream(Fields(entry, f"{path}: cameras: {name}", DataError)) for name, entry in fields.mapping("cameras").items()}
    wanted = [camera.name for camera in body.cameras]
    if sorted(cameras) != sorted(wanted):
        raise fields.refuse(f"cameras must be {', '.join(wanted)}, as embodiment '{body.name}' has them, got {', '.join(cameras)}")
    topic, text = fields.raw("instruction_topic", None), fields.text("instruction", "")
    if (topic is None) == (not text.strip()):
        raise fields.refuse("give either 'instruction_topic' (std_msgs/String) or 'instruction', one text for a whole recording")
    mapping = Mapping(
        path=path, body=body, robot=robot, cameras=cameras,
        state=_joint_streams(fields.raw("state"), f"{path}: state", robot), action=_joint_streams(fields.raw("action", []), f"{path}: action", robot),
        instruction=None if topic is None else Stream(topic=str(topic)), text=text,
        time=fields.choice("time", TIMES, "header"),
        min_frames=fields.integer("min_frames", 1, default=3),
        rate_tolerance=_positive(fields, "rate_tolerance", 0.2),
    )  # fmt: skip
    fields.finish()
    return mapping


def read_yaml(path: Path) -> Any:
    """The content of a YAML file; raises DataError naming it."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise DataError(f"cannot read {path}: {error}; config/recordings/example.yaml shows what belongs there") from error


def read_body(fields: Fields, path: Path) -> tuple[Embodiment, RobotDescription]:
    """The keys ``embodiment`` (a name or a description) and ``robot`` (a name below config/robots, or a file beside the mapping)."""
    body = embodiment_of(fields.raw("embodiment", TABLETOP.name))
    robot = fields.text("robot", body.robot)
    file = path.parent / robot
    return body, RobotDescription.load(file if file.is_file() else robot_config_path(robot))


def read_joints(entries: dict[str, Any], where: str, robot: RobotDescription) -> dict[str, JointSource]:
    """``joints``: each with ``name``, ``unit`` (see ``UNITS``) or ``factor``, and ``offset``."""
    sources = {}
    for joint, entry in entries.items():
        fields = Fields(entry, f"{where}: joints: {joint}", DataError)
        if joint not in robot.joint_names:
            raise fields.refuse(f"robot '{robot.name}' has no such joint: it has {', '.join(robot.joint_names)}")
        unit = fields.choice("unit", tuple(UNITS), "rad")
        sources[joint] = JointSource(
            name=fields.text("name", joint), factor=fields.number("factor", 1.0) * UNITS[unit], offset=fields.number("offset", 0.0)
        )
        fields.finish()
    return sources


def check_limits(joints_TJ: np.ndarray, robot: RobotDescription, where: list[str]) -> None:
    """Raises DataError at the first position that is far outside the robot's limits, as degrees taken for radians are.

    Args:
        joints_TJ: rad or m.
        robot: its description.
        where: T places for the message.
    """
    low, high = robot.limits.position_min, robot.limits.position_max
    room = 0.1 * (high - low)
    outside = (joints_TJ < low - room) | (joints_TJ > high + room)
    if outside.any():
        t, j = np.argwhere(outside)[0]
        raise DataError(
            f"{where[t]}: {robot.joint_names[j]} is {joints_TJ[t, j]:.4g}, robot '{robot.name}' allows {low[j]:.4g} to {high[j]:.4g}: "
            "are unit, factor, offset and name of this joint right?"
        )


def _stream(fields: Fields) -> Stream:
    stream = Stream(**_common(fields))
    fields.finish()
    return stream


def _joint_streams(value: Any, where: str, robot: RobotDescription) -> tuple[JointStream, ...]:
    """One topic with every joint, or a list of topics that each name theirs in ``joints``."""
    entries = value if isinstance(value, list) else [value]
    streams = tuple(_joint_stream(Fields(entry, where, DataError), where, robot, alone=len(entries) == 1) for entry in entries)
    held = [joint for stream in streams for joint in stream.covers]
    if streams and sorted(held) != sorted(robot.joint_names):
        raise DataError(
            f"{where}: the topics must hold each of {', '.join(robot.joint_names)} once, they hold {', '.join(held) or 'none'}: list each topic's in its joints"
        )
    return streams


def _joint_stream(fields: Fields, where: str, robot: RobotDescription, *, alone: bool) -> JointStream:
    joints = read_joints(fields.mapping("joints", {}), where, robot)
    order = tuple(str(name) for name in fields.items("order", default=(), empty=True))
    stream = JointStream(**_common(fields), covers=robot.joint_names if alone else tuple(joints), joints=joints, order=order)
    fields.finish()
    return stream


def _common(fields: Fields) -> dict[str, Any]:
    rate = fields.raw("rate_hz", None)
    return {
        "topic": fields.text("topic"), "rate_hz": None if rate is None else _positive(fields, "rate_hz"), "max_gap_s": _positive(fields, "max_gap_s", 0.5)
    }  # fmt: skip


def _positive(fields: Fields, key: str, *default: float) -> float:
    value = fields.number(key, *default)
    if value <= 0:
        raise fields.refuse(f"'{key}' must be positive, got {value}")
    return value
