# SPDX-License-Identifier: Apache-2.0
"""Questions about a picture, answered by a bundle that was trained on such: text tokens, one after another, greedily.

Such a bundle has two further files: `answer` (a graph) and `answers` (its `AnswerSpec`). The graph's logits cover the text
vocabulary only, so that an answer can hold no action token. Axes: 1 (batch), T text tokens, L answer tokens, V text ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders
import yaml

from vla_ros.core.answers import ROLE, SPEC_ROLE, AnswerSpec
from vla_ros.core.errors import BundleError, DecodeError, InputError, InstructionTooLong
from vla_ros.core.image import prepare_image
from vla_ros.core.text import build_prompt, normalize_instruction
from vla_ros.runtime.bundle import Bundle
from vla_ros.runtime.contract import TEXT_IDS, TensorSpec, image_input
from vla_ros.runtime.session import BoundGraph

ANSWER_IDS = "answer_ids"
ANSWER_LOGITS = "answer_logits"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the policy said, and the probability that it gave these words and their end, 0..1."""

    text: str
    probability: float


class Answerer:
    """Answers questions with a bundle's second graph. One thread only.

    Args:
        bundle: a verified bundle.
        provider: execution provider.
        threads: threads of one pass on the CPU.
        allow_cpu: run on the CPU if ``provider`` is not available.

    Raises:
        BundleError: the bundle answers no questions, or its files do not fit one another.
        ConfigError: the provider is not available.
    """

    def __init__(self, bundle: Bundle, provider: str = "cpu", threads: int = 1, allow_cpu: bool = False) -> None:
        self.bundle = bundle
        self.spec = read_answer_spec(bundle)
        vocabulary, context = bundle.manifest.vocabulary, bundle.manifest.context
        camera = next(camera for camera in bundle.manifest.cameras if camera.name == self.spec.camera)
        self._camera, self._pad = camera, vocabulary.pad_token
        self._graph = BoundGraph(bundle.path(ROLE), provider, threads, allow_cpu)
        expected = {
            image_input(camera.name): TensorSpec(dtype=np.uint8, shape=(1, *camera.shape)),
            TEXT_IDS: TensorSpec(dtype=np.int64, shape=(1, context.text_tokens)),
            ANSWER_IDS: TensorSpec(dtype=np.int64, shape=(1, self.spec.tokens)),
        }
        if self._graph.inputs != expected:
            wanted, there = ({name: str(spec) for name, spec in side.items()} for side in (expected, self._graph.inputs))
            raise BundleError(f"the answer graph's inputs do not fit the manifest: expected {wanted}, found {there}. Export the bundle again")
        self._tokenizer = Tokenizer.from_file(str(bundle.tokenizer_path))
        self._tokenizer.decoder = decoders.ByteLevel()

    def answer(self, picture_HWC: np.ndarray, question: str) -> Answer:
        """Answers a question about a picture.

        Args:
            picture_HWC: uint8 rgb, any size.
            question: plain text.

        Raises:
            InputError: no such picture, or a blank question; ``InstructionTooLong`` if it does not fit.
            DecodeError: the logits are not finite.
            InferenceError: the back end failed.
        """
        picture = prepare_image(picture_HWC, self._camera.height, self._camera.width)[None]
        inputs = {image_input(self._camera.name): picture, TEXT_IDS: self._prompt(question)}
        answer_1L = np.full((1, self.spec.tokens), self.spec.end_token, dtype=np.int64)
        probability = 1.0
        for place in range(self.spec.tokens):
            logits_V = self._graph.infer({**inputs, ANSWER_IDS: answer_1L})[ANSWER_LOGITS][0, place].astype(np.float64)
            if not np.isfinite(logits_V).all():
                raise DecodeError("the policy's answer is not finite")
            token = int(logits_V.argmax())
            probability /= float(np.exp(logits_V - logits_V[token]).sum())
            if token == self.spec.end_token:
                break
            answer_1L[0, place] = token
        said = answer_1L[0][answer_1L[0] != self.spec.end_token]
        return Answer(text=self._tokenizer.decode(said.tolist()).strip(), probability=probability)

    def _prompt(self, question: str) -> np.ndarray:
        question = normalize_instruction(question)
        if not question:
            raise InputError("the question is blank: ask something, such as 'what colour is the cube?'", code="question")
        ids = self._tokenizer.encode(build_prompt(self.spec.prompt_template, question)).ids
        limit = self.bundle.manifest.context.text_tokens
        if len(ids) > limit:
            raise InstructionTooLong(len(ids), limit)
        ids_1T = np.full((1, limit), self._pad, dtype=np.int64)
        ids_1T[0, : len(ids)] = ids
        return ids_1T


def read_answer_spec(bundle: Bundle) -> AnswerSpec:
    """The facts of a bundle's answers.

    Raises:
        BundleError: it has none, or they do not fit its manifest.
    """
    manifest = bundle.manifest
    if ROLE not in manifest.files or SPEC_ROLE not in manifest.files:
        raise BundleError(
            f"bundle '{manifest.name}' answers no questions (its files are {sorted(manifest.files)}): train with `vla train --questions DIR` "
            "and model.answer_tokens, and export it"
        )
    path: Path = bundle.path(SPEC_ROLE)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise BundleError(f"{path} cannot be read: {error}") from error
    spec = AnswerSpec.from_dict(values, str(path))
    names = [camera.name for camera in manifest.cameras]
    if spec.camera not in names:
        raise BundleError(f"{path}: camera '{spec.camera}' is none of the manifest's {names}")
    if spec.end_token >= manifest.vocabulary.first_action_token:
        raise BundleError(f"{path}: end_token {spec.end_token} must be a text id below {manifest.vocabulary.first_action_token}")
    return spec
