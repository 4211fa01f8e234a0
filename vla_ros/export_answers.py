# SPDX-License-Identifier: Apache-2.0
"""The part of `vla export` for policies that answer questions: a second graph, and the file that describes it.

Axes: H and W pixels, T text tokens, L answer tokens, V text ids.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from vla_ros.core.answers import QUESTION_TEMPLATE, ROLE, SPEC_ROLE, AnswerSpec
from vla_ros.core.errors import VlaError
from vla_ros.model.config import PolicyConfig
from vla_ros.model.policy import Policy
from vla_ros.runtime.answerer import ANSWER_IDS, ANSWER_LOGITS
from vla_ros.runtime.contract import TEXT_IDS, image_input
from vla_ros.runtime.session import BoundGraph
from vla_ros.train.questions import pictures_of
from vla_ros.train.tokenizer import PAD_ID

GRAPH_FILE, SPEC_FILE = "answer.onnx", "answers.yaml"
FILES = {ROLE: GRAPH_FILE, SPEC_ROLE: SPEC_FILE}

WriteGraph = Callable[[nn.Module, dict[str, np.ndarray], Sequence[str], Path], None]


class ParityError(VlaError):
    """The exported graph does not answer as the network does."""


class ExportedAnswers(nn.Module):
    """The policy with the answer graph's inputs and output: one picture of the first camera, one question."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, picture_1HWC: Tensor, text_1T: Tensor, answer_1L: Tensor) -> Tensor:
        """Logits of every answer token over text ids, [1, L, V]."""
        return self.policy.answer(pictures_of(picture_1HWC, self.policy.config.frames), text_1T, answer_1L)


def question_inputs(config: PolicyConfig, sample: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Inputs of the answer graph out of those of the policy's graph: its picture, its text, and the beginning of some answer."""
    picture = image_input(config.cameras[0].name)
    answer_1L = rng.integers(1, config.first_action_token, (1, config.answer_tokens))
    answer_1L[0, rng.integers(config.answer_tokens) :] = PAD_ID
    return {picture: sample[picture], TEXT_IDS: sample[TEXT_IDS], ANSWER_IDS: answer_1L}


def export_answers(policy: Policy, folded: Policy, samples: Sequence[dict[str, np.ndarray]], folder: Path, write: WriteGraph, allowed: float) -> dict[str, Any]:
    """Writes graph and description into `folder` and compares the graph with the network on pictures and texts of `samples`.

    Args:
        folded: the policy with its batch norms folded, which is what gets written.
        samples: inputs of the policy's graph.
        write: writes an ONNX graph: module, inputs, output names, path.
        allowed: largest difference of a logit.

    Raises:
        ParityError: naming the sample and the difference.
    """
    config = policy.config
    camera = config.cameras[0].name
    rng = np.random.default_rng(0)
    questions = [question_inputs(config, sample, rng) for sample in samples]
    write(ExportedAnswers(folded).eval(), questions[0], [ANSWER_LOGITS], folder / GRAPH_FILE)
    spec = AnswerSpec(camera=camera, prompt_template=QUESTION_TEMPLATE, tokens=config.answer_tokens, end_token=PAD_ID)
    (folder / SPEC_FILE).write_text(yaml.safe_dump(spec.to_dict(), sort_keys=False), encoding="utf-8")
    graph, reference, worst = BoundGraph(folder / GRAPH_FILE), ExportedAnswers(policy).eval(), 0.0
    for index, question in enumerate(questions):
        with torch.inference_mode():
            expected = reference(*(torch.from_numpy(array) for array in question.values())).numpy()
        difference = float(np.abs(graph.infer(question)[ANSWER_LOGITS] - expected).max())
        worst = max(worst, difference)
        if not difference <= allowed:
            raise ParityError(f"frame {index}: logits of the answer differ by {difference:.2g}, allowed are {allowed}: the export is faulty")
    return {"max_answer_logit_difference": worst}
