# SPDX-License-Identifier: Apache-2.0
"""``ros2msg`` schema text of a message type: its .msg file and, below separators, those of everything it holds.

Format: https://mcap.dev/spec/registry#ros2msg. Must not import rclpy.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from vla_ros.core.errors import ConfigError

_SEPARATOR = "=" * 80
_FIELD = re.compile(r"^\s*([A-Za-z][\w/]*)\s*(?:<=\d+)?\s*(?:\[[^\]]*\])?\s+[A-Za-z]")
_PRIMITIVES = {
    "bool",
    "byte",
    "char",
    "float32",
    "float64",
    "string",
    "wstring",
    *(f"{s}int{b}" for s in ("", "u") for b in (8, 16, 32, 64)),
}


def definition_of(message_type: str) -> str:
    """The text for a type such as ``sensor_msgs/msg/Image``.

    Raises:
        ConfigError: the type's package is not installed here.
    """
    texts = {message_type: _text(message_type)}
    pending = [message_type]
    while pending:
        name = pending.pop(0)
        for inner in _types_in(texts[name], name.split("/")[0]):
            if inner not in texts:
                texts[inner] = _text(inner)
                pending.append(inner)
    first, *others = texts.items()
    blocks = [first[1], *(f"MSG: {name.replace('/msg/', '/')}\n{text}" for name, text in others)]
    return f"\n{_SEPARATOR}\n".join(block.rstrip("\n") for block in blocks) + "\n"


def _text(message_type: str) -> str:
    package, _, name = message_type.split("/")
    # ROS 2 as wheels lies in the environment's own prefix, which AMENT_PREFIX_PATH does not name.
    prefixes = [*filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)), sys.prefix]
    for prefix in prefixes:
        path = Path(prefix) / "share" / package / "msg" / f"{name}.msg"
        if path.is_file():
            return path.read_text(encoding="utf-8")
    raise ConfigError(f"no definition of {message_type} in {', '.join(prefixes)}: install the package {package}, or source its workspace")


def _types_in(text: str, package: str) -> list[str]:
    """Full names of the message types that a .msg file uses."""
    found = []
    for line in text.splitlines():
        match = _FIELD.match(line.partition("#")[0])
        if match is None or match[1] in _PRIMITIVES:
            continue
        parts = match[1].split("/")
        found.append(f"{parts[0] if len(parts) > 1 else package}/msg/{parts[-1]}")
    return found
