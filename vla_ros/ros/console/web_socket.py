# SPDX-License-Identifier: Apache-2.0
"""The server's end of a WebSocket (RFC 6455) for single words, no longer than a control frame. Must not import rclpy.

A browser opens six HTTP connections to a host at most and queues what comes after; a WebSocket does not count among them. That is all that
the stop button needs of the protocol: no fragments, no extensions, nothing long.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from typing import BinaryIO

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3
_TEXT, _CLOSE, _PING, _PONG = 0x1, 0x8, 0x9, 0xA
_FIN, _MASKED = 0x80, 0x80
_MAX_LENGTH = 125


def accept_key(headers: Mapping[str, str]) -> str | None:
    """The answer to a client's opening handshake, or None where it is none."""
    upgrade, connection = headers.get("Upgrade", ""), headers.get("Connection", "")
    key = headers.get("Sec-WebSocket-Key", "").strip()
    if upgrade.lower() != "websocket" or "upgrade" not in connection.lower() or headers.get("Sec-WebSocket-Version") != "13":
        return None
    try:
        if len(base64.b64decode(key, validate=True)) != 16:
            return None
    except binascii.Error:
        return None
    return base64.b64encode(hashlib.sha1(key.encode() + _GUID).digest()).decode()  # noqa: S324  the protocol says so


def read_word(source: BinaryIO, sink: BinaryIO) -> str | None:
    """The next text; answers pings on the way. None when the other end closed, or sent what this end does not speak."""
    while True:
        head = source.read(2)
        if len(head) < 2:
            return None
        opcode, length = head[0] & 0x0F, head[1] & 0x7F
        if not head[0] & _FIN or not head[1] & _MASKED or length > _MAX_LENGTH:
            return None
        body = source.read(4 + length)
        if len(body) < 4 + length:
            return None
        payload = bytes(byte ^ body[i % 4] for i, byte in enumerate(body[4:]))
        if opcode == _TEXT:
            return payload.decode("utf-8", errors="replace")
        if opcode == _PING:
            _send(sink, _PONG, payload)
        elif opcode != _PONG:
            return None


def send_word(sink: BinaryIO, word: str) -> None:
    """Sends a text of at most 125 bytes."""
    _send(sink, _TEXT, word.encode())


def send_close(sink: BinaryIO) -> None:
    """Says goodbye."""
    _send(sink, _CLOSE, b"")


def _send(sink: BinaryIO, opcode: int, payload: bytes) -> None:
    if len(payload) > _MAX_LENGTH:
        raise ValueError(f"a word has at most {_MAX_LENGTH} bytes, this one has {len(payload)}")
    sink.write(bytes([_FIN | opcode, len(payload)]) + payload)
    sink.flush()
