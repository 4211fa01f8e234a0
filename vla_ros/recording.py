# SPDX-License-Identifier: Apache-2.0
"""A recording on disk: MCAP as ``ros2 bag`` and Foxglove read it, with what a replay needs as attachments. Must not import rclpy.

Profile ``ros2``, messages in CDR, schemas in ``ros2msg`` (https://mcap.dev/spec/registry). Attachments: ``session.json`` (parameters of
the node, facts), ``manifest.yaml``, ``robot.yaml`` and ``robot.urdf``. They come first, so that a file that was cut short is still useful.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from mcap.exceptions import McapError
from mcap.records import Attachment, Channel, Message, Schema
from mcap.stream_reader import StreamReader
from mcap.writer import CompressionType, Writer
from mcap_ros2.decoder import DecoderFactory

from vla_ros import __version__
from vla_ros.core.errors import ConfigError

SESSION, MANIFEST, ROBOT_YAML, ROBOT_URDF = "session.json", "manifest.yaml", "robot.yaml", "robot.urdf"
_CHUNK_BYTES = 1 << 20  # what a killed recorder loses at most


class RecordingWriter:
    """Writes one file. One thread only; use as a context manager.

    Args:
        path: of the file; it must not exist.
        compress: zstd, which a busy robot may not have the time for.

    Raises:
        ConfigError: the file exists or cannot be made.
    """

    def __init__(self, path: Path, *, compress: bool = True) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = path.open("xb")
        except FileExistsError as error:
            raise ConfigError(f"{path} exists: choose another name, or remove it") from error
        except OSError as error:
            raise ConfigError(f"cannot write {path}: {error.strerror}") from error
        compression = CompressionType.ZSTD if compress else CompressionType.NONE
        self._writer = Writer(self._stream, chunk_size=_CHUNK_BYTES, compression=compression)
        self._writer.start(profile="ros2", library=f"vla_ros {__version__}")
        self._schemas: dict[str, int] = {}
        self.counts: dict[str, int] = {}
        self._channels: dict[str, int] = {}

    def attach(self, name: str, text: str) -> None:
        """Adds a text file."""
        now_ns = time.time_ns()
        media_type = "application/json" if name.endswith(".json") else "text/plain"
        self._writer.add_attachment(create_time=0, log_time=now_ns, name=name, media_type=media_type, data=text.encode())

    def open_topic(self, topic: str, message_type: str, definition: str) -> None:
        """Declares a topic.

        Args:
            topic: fully resolved name.
            message_type: such as ``std_msgs/msg/String``.
            definition: ``ros2msg`` text with everything that the type holds.
        """
        if message_type not in self._schemas:
            self._schemas[message_type] = self._writer.register_schema(message_type, "ros2msg", definition.encode())
        self._channels[topic] = self._writer.register_channel(topic, "cdr", self._schemas[message_type])
        self.counts[topic] = 0

    def write(self, topic: str, cdr: bytes, log_time_ns: int) -> None:
        """Adds one serialized message of an open topic. Raises OSError when the disk is full."""
        self._writer.add_message(
            self._channels[topic], log_time=log_time_ns, data=cdr, publish_time=log_time_ns, sequence=self.counts[topic]
        )
        self.counts[topic] += 1

    def close(self) -> None:
        """Writes the index."""
        self._writer.finish()
        self._stream.close()

    def __enter__(self) -> RecordingWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, OSError):  # the index has no room either
            self._stream.close()
        else:
            self.close()


@dataclass
class Recording:
    """What was read besides the messages.

    Attributes:
        path: of the file.
        attachments: name to text.
        is_complete: False if the end is missing (the recorder was killed, or the disk was full).
    """

    path: Path
    attachments: dict[str, str] = field(default_factory=dict)
    is_complete: bool = True

    @property
    def session(self) -> dict[str, Any]:
        """Parameters and facts.

        Raises:
            ConfigError: the file is none of ``vla record``.
        """
        if SESSION not in self.attachments:
            raise ConfigError(f"{self.path} has no {SESSION}: it was not made by 'vla record', and holds too little to replay")
        return json.loads(self.attachments[SESSION])

    def messages(self, *topics: str) -> Iterator[tuple[str, int, Any]]:
        """Topic, time of receipt (ns) and decoded message, in the order of the file; attachments are there once they were passed.

        Args:
            topics: those to decode; none means all.

        Raises:
            ConfigError: no MCAP file.
        """
        factory, schemas, channels = DecoderFactory(), {}, {}
        for record in self._records():
            if isinstance(record, Schema):
                schemas[record.id] = record
            elif isinstance(record, Channel):
                channels[record.id] = record
            elif isinstance(record, Attachment):
                self.attachments[record.name] = record.data.decode("utf-8", "replace")
            elif isinstance(record, Message):
                channel = channels[record.channel_id]
                if not topics or channel.topic in topics:
                    decode = factory.decoder_for(channel.message_encoding, schemas[channel.schema_id])
                    if decode is not None:
                        yield channel.topic, record.log_time, decode(record.data)

    def _records(self) -> Iterator[Any]:
        try:
            stream = self.path.open("rb")
        except OSError as error:
            raise ConfigError(f"{self.path} cannot be read ({error.strerror}): give a file that 'vla record' made") from error
        with stream:
            started = False
            try:
                for record in StreamReader(stream).records:
                    started = True
                    yield record
            except (McapError, struct.error, EOFError) as error:
                if not started:
                    raise ConfigError(f"{self.path} is no MCAP file: give a file that 'vla record' made") from error
                self.is_complete = False


def read_attachments(path: Path) -> Recording:
    """Reads a recording's attachments, which come before its first message."""
    recording = Recording(path)
    for _ in recording.messages():
        break
    return recording
