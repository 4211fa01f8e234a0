# SPDX-License-Identifier: Apache-2.0
"""The last seconds of what was published, in memory, and on request in a file. Must not import rclpy."""

from __future__ import annotations

from collections import deque
from pathlib import Path

from vla_ros.core.errors import ConfigError
from vla_ros.recording import RecordingWriter


class FlightRing:
    """Takes messages as ``RecordingWriter`` does, but keeps only the newest. One thread only.

    Args:
        keep_s: how long a message is kept, by the times given with them.
        max_bytes: the oldest go earlier where they would take more room.
    """

    def __init__(self, keep_s: float, max_bytes: int = 256 << 20) -> None:
        self._keep_ns = round(keep_s * 1e9)
        self._max_bytes = max_bytes
        self._bytes = 0
        self._topics: dict[str, tuple[str, str]] = {}
        self._messages: deque[tuple[int, str, bytes]] = deque()

    def __len__(self) -> int:
        return len(self._messages)

    def open_topic(self, topic: str, message_type: str, definition: str) -> None:
        """Declares a topic."""
        self._topics[topic] = (message_type, definition)

    def write(self, topic: str, cdr: bytes, log_time_ns: int) -> None:
        """Keeps one serialized message of an open topic for a while."""
        self._messages.append((log_time_ns, topic, bytes(cdr)))
        self._bytes += len(cdr)
        while self._messages and (self._bytes > self._max_bytes or self._messages[0][0] < log_time_ns - self._keep_ns):
            self._bytes -= len(self._messages.popleft()[2])

    def dump(self, path: Path, attachments: dict[str, str]) -> dict[str, int]:
        """Writes what is kept; it stays kept. The file has its name when it is whole. Returns messages by topic.

        Raises:
            ConfigError: the file exists or cannot be made.
            OSError: the disk is full.
        """
        if path.exists():
            raise ConfigError(f"{path} exists: choose another name")
        part = path.with_name(path.name + ".part")
        with RecordingWriter(part) as writer:
            for name, text in attachments.items():
                writer.attach(name, text)
            for topic in sorted({topic for _, topic, _ in self._messages}):
                writer.open_topic(topic, *self._topics[topic])
            for log_time_ns, topic, cdr in self._messages:
                writer.write(topic, cdr, log_time_ns)
        part.rename(path)
        return dict(writer.counts)
