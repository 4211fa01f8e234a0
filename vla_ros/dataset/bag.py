# SPDX-License-Identifier: Apache-2.0
"""Reads the topics of a mapping from MCAP recordings (rosbag2, Foxglove, `vla record`). No ROS is needed. Axes: N messages, J joints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mcap.exceptions import McapError
from mcap.reader import make_reader

from vla_ros.core.errors import ConfigError, InputError
from vla_ros.core.image import prepare_image
from vla_ros.core.text import normalize_instruction
from vla_ros.dataset.mapping import JointStream, Mapping, Stream
from vla_ros.recording import Recording
from vla_ros.ros.compressed_images import compressed_to_rgb
from vla_ros.ros.images import image_to_rgb
from vla_ros.train.shards import DataError

IMAGE, COMPRESSED, TEXT = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage", "std_msgs/msg/String"
JOINT_TYPES = ("sensor_msgs/msg/JointState", "trajectory_msgs/msg/JointTrajectory", "std_msgs/msg/Float64MultiArray")
STAMPED = (IMAGE, COMPRESSED, *JOINT_TYPES[:2])


@dataclass(frozen=True, kw_only=True)
class Samples:
    """What came over one topic, in the order of time.

    Attributes:
        stream: of the mapping.
        time_N: s since the epoch, rising.
        value_N: pictures uint8 [N, H, W, 3], joints float64 [N, J] in rad or m, or texts.
        number_N: each one's place among the topic's messages, for messages to people.
    """

    stream: Stream
    file: Path
    time_N: np.ndarray
    value_N: Any
    number_N: np.ndarray

    def where(self, row: int) -> str:
        """File, topic, message and time, for messages."""
        return f"{self.file}: {self.stream.topic}: message {self.number_N[row]} at {self.time_N[row]:.3f} s"


@dataclass(frozen=True, kw_only=True)
class Bag:
    """One recording's topics."""

    path: Path
    cameras: dict[str, Samples]
    state: list[Samples]
    action: list[Samples]
    instruction: Samples | None


def find_recordings(sources: list[Path]) -> list[Path]:
    """MCAP files, and those in folders, as `ros2 bag record` makes them.

    Raises:
        DataError: a place without one.
    """
    found = []
    for source in sources:
        files = sorted(source.rglob("*.mcap")) if source.is_dir() else [source]
        if not files or not files[0].is_file():
            raise DataError(f"{source} is no MCAP recording and no folder with one: record with ros2 bag record --storage mcap")
        found += files
    return found


def read_bag(path: Path, mapping: Mapping) -> Bag:
    """Reads one file.

    Raises:
        DataError: a topic is missing, has another type or no message, or a value cannot be used; names file, topic and message.
    """
    types = topic_types(path)
    readers: dict[str, Callable[[Any, int], Any]] = {}
    streams: dict[str, Stream] = {}

    def take(key: str, stream: Stream, kinds: tuple[str, ...], read: Callable[[Any, str], Any]) -> None:
        if stream.topic not in types:
            raise DataError(f"{path}: no topic {stream.topic} ({key} in {mapping.path}); there are {', '.join(sorted(types)) or 'none'}")
        kind = types[stream.topic]
        if kind not in kinds:
            raise DataError(f"{path}: {stream.topic} is a {kind}, {key} needs {' or '.join(kinds)}")
        streams[key], readers[key] = stream, lambda message, _: read(message, kind)

    for camera in mapping.body.cameras:
        take(f"camera {camera.name}", mapping.cameras[camera.name], (IMAGE, COMPRESSED), lambda message, kind, c=camera: prepare_image(
            (image_to_rgb if kind == IMAGE else compressed_to_rgb)(message), c.height, c.width))  # fmt: skip
    for key, several in (("state", mapping.state), ("action", mapping.action)):
        for number, stream in enumerate(several):
            take(f"{key} {number}", stream, JOINT_TYPES, lambda message, kind, s=stream: joint_positions(message, kind, s))
    if mapping.instruction is not None:
        take("instruction", mapping.instruction, (TEXT,), lambda message, _: message.data)
    samples = _read(path, mapping, types, streams, readers)
    return Bag(
        path=path, cameras={camera.name: samples[f"camera {camera.name}"] for camera in mapping.body.cameras},
        state=[samples[f"state {number}"] for number in range(len(mapping.state))],
        action=[samples[f"action {number}"] for number in range(len(mapping.action))], instruction=samples.get("instruction"),
    )  # fmt: skip


def topic_types(path: Path) -> dict[str, str]:
    """Type of each topic.

    Raises:
        DataError: no MCAP file, or messages that are not CDR with `ros2msg` definitions.
    """
    try:
        with path.open("rb") as stream:
            summary = make_reader(stream).get_summary()
    except (OSError, McapError, EOFError) as error:
        raise DataError(
            f"cannot read {path}: {error or type(error).__name__}; if the recorder was killed: mcap recover FILE -o NEW"
        ) from error
    if summary is None or not summary.channels:
        raise DataError(f"{path} has no index or no topic; if the recorder was killed: mcap recover FILE -o NEW")
    found = {}
    for channel in summary.channels.values():
        schema = summary.schemas.get(channel.schema_id)
        if schema is None or (channel.message_encoding, schema.encoding) != ("cdr", "ros2msg"):
            continue  # missing then, with the names of the others
        found[channel.topic] = schema.name
    return found


def _read(path: Path, mapping: Mapping, types: dict[str, str], streams: dict[str, Stream], readers: dict[str, Any]) -> dict[str, Samples]:
    keys_of: dict[str, list[str]] = {}
    for key, stream in streams.items():
        keys_of.setdefault(stream.topic, []).append(key)
    rows: dict[str, list[tuple[float, Any, int]]] = {key: [] for key in streams}
    counts = dict.fromkeys(keys_of, 0)
    try:
        for topic, received_ns, message in Recording(path).messages(*keys_of):
            number, counts[topic] = counts[topic], counts[topic] + 1
            stamp_s = received_ns / 1e9
            where = f"{path}: {topic}: message {number}"
            if mapping.time == "header" and types[topic] in STAMPED:
                stamp_s = message.header.stamp.sec + message.header.stamp.nanosec / 1e9
                if stamp_s == 0.0:
                    raise DataError(f"{where} has no stamp: set 'time: received' in {mapping.path} to use the time of receipt")
            for key in keys_of[topic]:
                try:
                    value = readers[key](message, number)
                except InputError as error:
                    raise DataError(f"{where}: {error}") from error
                if value is not None:
                    rows[key].append((stamp_s, value, number))
    except ConfigError as error:
        raise error if isinstance(error, DataError) else DataError(str(error)) from error
    return {key: _samples(path, streams[key], values) for key, values in rows.items()}


def _samples(path: Path, stream: Stream, rows: list[tuple[float, Any, int]]) -> Samples:
    if not rows:
        raise DataError(
            f"{path}: {stream.topic} has no message" + (f" with {', '.join(stream.covers)}" if isinstance(stream, JointStream) else "")
        )
    time_N = np.array([row[0] for row in rows])
    late = np.flatnonzero(np.diff(time_N) < 0)
    if len(late):
        row = late[0] + 1
        raise DataError(
            f"{path}: {stream.topic}: message {rows[row][2]} is stamped {time_N[row]:.3f} s, {time_N[row - 1] - time_N[row]:.3f} s before the one ahead of it"
        )
    values = [row[1] for row in rows]
    return Samples(
        stream=stream,
        file=path,
        time_N=time_N,
        value_N=values if isinstance(values[0], str) else np.stack(values),
        number_N=np.array([row[2] for row in rows]),
    )


def joint_positions(message: Any, kind: str, stream: JointStream) -> np.ndarray | None:
    """Positions of the joints that the stream covers, rad or m, float64; None from a message that holds none of them, as of another driver.

    Raises:
        InputError: one of several is missing, or a value is not finite.
    """
    if kind == JOINT_TYPES[0]:
        names, values = list(message.name), list(message.position)
    elif kind == JOINT_TYPES[1]:
        names, values = list(message.joint_names), list(message.points[-1].positions) if message.points else []
    else:
        names, values = list(stream.order), list(message.data)
    sources = [stream.source(joint) for joint in stream.covers]
    if kind != JOINT_TYPES[2] and not any(source.name in names for source in sources):
        return None
    if len(names) != len(values):
        hint = ": name its values in 'order' of the mapping" if kind == JOINT_TYPES[2] else ""
        raise InputError(f"{len(names)} names and {len(values)} positions{hint}", code="joint_names")
    found, positions = dict(zip(names, values)), []
    for joint, source in zip(stream.covers, sources):
        if source.name not in found:
            raise InputError(f"no joint '{source.name}' for {joint}: there are {', '.join(names) or 'none'}", code="joint_names")
        positions.append(source.factor * found[source.name] + source.offset)
        if not np.isfinite(positions[-1]):
            raise InputError(f"{source.name} is {found[source.name]}: positions must be finite", code="joint_value")
    return np.array(positions, dtype=np.float64)


def texts_of(samples: Samples) -> list[str]:
    """Instructions as the node would take them."""
    return [normalize_instruction(text) for text in samples.value_N]
