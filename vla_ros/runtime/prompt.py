# SPDX-License-Identifier: Apache-2.0
"""Instructions to token ids, cached; a prompt that does not fit is refused and never cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from vla_ros.core.action_codec import PromptSpec
from vla_ros.core.errors import BundleError, InputError, InstructionTooLong
from vla_ros.core.manifest import Manifest
from vla_ros.core.text import build_prompt, normalize_instruction

_MAX_CACHED = 64


class PromptEncoder:
    """Encodes prompts for one bundle. One thread only.

    Args:
        manifest: template, vocabulary and limit.
        tokenizer_path: the tokenizer's file.

    Raises:
        BundleError: the tokenizer is unreadable or does not fit the vocabulary.
    """

    def __init__(self, manifest: Manifest, tokenizer_path: Path) -> None:
        self._manifest = manifest
        try:
            self._tokenizer = Tokenizer.from_file(str(tokenizer_path))
        except Exception as error:  # tokenizers raises Exception itself
            raise BundleError(f"{tokenizer_path} is no readable tokenizer ({error}): copy the bundle again") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        vocabulary = manifest.vocabulary
        self._prompt = manifest.prompt or PromptSpec()
        self._actions = range(vocabulary.first_action_token, vocabulary.first_action_token + vocabulary.num_action_tokens)
        taken = range(0) if manifest.codec is not None else self._actions  # OpenVLA overwrites the text's last ids
        wrong = [i for i in self._tokenizer.get_vocab(with_added_tokens=True).values() if i >= vocabulary.size or i in taken]
        if wrong:
            raise BundleError(f"{tokenizer_path} has text ids such as {wrong[0]} that are action tokens or not below {vocabulary.size}")
        self._cache: dict[str, np.ndarray] = {}

    def encode(self, instruction: str) -> np.ndarray:
        """Ids of the prompt, int64 [1, T], padded at the end, read-only.

        Raises:
            InstructionTooLong: with the limit.
            InputError: a word whose token means an action (``instruction_action_token``).
        """
        cached = self._cache.get(instruction)
        if cached is not None:
            return cached
        ids = self._ids(normalize_instruction(instruction))
        limit = self._manifest.context.text_tokens
        if len(ids) > limit:
            raise InstructionTooLong(len(ids), limit)
        ids_1T = np.full((1, limit), self._manifest.vocabulary.pad_token, dtype=np.int64)
        ids_1T[0, : len(ids)] = ids
        ids_1T.setflags(write=False)
        if len(self._cache) >= _MAX_CACHED:
            self._cache.clear()
        self._cache[instruction] = ids_1T
        return ids_1T

    def _ids(self, instruction: str) -> list[int]:
        text = build_prompt(self._manifest.prompt_template, instruction.lower() if self._prompt.lowercase else instruction)
        if self._manifest.prompt is None:
            return self._tokenizer.encode(text).ids
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        wrong = next((token for token in ids if token in self._actions), None)
        if wrong is not None:
            word = self._tokenizer.decode([wrong])
            raise InputError(
                f"the instruction has {word!r}, whose token {wrong} means an action: say it in other words", code="instruction_action_token"
            )
        return [*self._prompt.prefix_ids, *ids, *self._prompt.suffix_ids]
