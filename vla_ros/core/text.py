# SPDX-License-Identifier: Apache-2.0
"""The only preparation of instructions, for training and for serving."""

from __future__ import annotations

import unicodedata

from vla_ros.core.errors import ConfigError

PLACEHOLDER = "{instruction}"

# Unicode general categories that are never part of an instruction: control, format (bidirectional marks,
# zero-width characters), surrogates, private use and unassigned.
_STRIPPED = frozenset(("Cc", "Cf", "Cs", "Co", "Cn"))


def normalize_instruction(text: str) -> str:
    """NFC, without control, bidirectional and NUL characters, runs of blanks made one, ends trimmed.

    Idempotent. A blank instruction becomes the empty string, which means: hold.
    """
    kept = "".join(" " if ch.isspace() else ch for ch in text if ch.isspace() or unicodedata.category(ch) not in _STRIPPED)
    return " ".join(unicodedata.normalize("NFC", kept).split())


def printable(text: str) -> str:
    """Text from outside as it may stand in a log, on one line: what is not printable (control, bidirectional, line ends) as its escape.

    ``\\n`` or a bidirectional mark in a joint's name could otherwise forge log lines or turn those around it.
    """
    return "".join(ch if ch.isprintable() else ch.encode("unicode_escape").decode("ascii") for ch in text)


def build_prompt(template: str, instruction: str) -> str:
    """The text that the tokenizer sees.

    Braces in the instruction are plain characters: this is a replacement, not a format.

    Args:
        template: with ``{instruction}`` exactly once, such as ``Robot: {instruction} Action:``.
        instruction: normalised text.

    Raises:
        ConfigError: if the template has the placeholder not exactly once.
    """
    if template.count(PLACEHOLDER) != 1:
        raise ConfigError(f"prompt template must contain {PLACEHOLDER} exactly once, got {template!r}")
    return template.replace(PLACEHOLDER, instruction)
