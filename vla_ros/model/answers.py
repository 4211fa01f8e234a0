# SPDX-License-Identifier: Apache-2.0
"""Answers to questions: text tokens after the prompt, each of which reads vision, prompt and the tokens before it (prefix-LM).

Axes: N questions, B pictures, T text tokens, L answer tokens, S = T + L, V vision tokens, E width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vla_ros.model.config import PolicyConfig
from vla_ros.model.transformer import Block


class AnswerReader(nn.Module):
    """What answers need beside the policy's own layers: a beginning, positions, and the projection that is compared with the vocabulary."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.begin_E = nn.Parameter(torch.randn(width) * 0.02)
        self.position_LE = nn.Parameter(torch.randn(tokens, width) * 0.02)
        self.read = nn.Linear(width, width)

    def forward(self, embedded_NLE: Tensor) -> Tensor:
        """Inputs of the answer's positions, [N, L, E]: the beginning, then every token but the last (teacher forcing)."""
        begin_N1E = self.begin_E.expand(len(embedded_NLE), 1, -1)
        return torch.cat([begin_N1E, embedded_NLE[:, :-1]], dim=1) + self.position_LE[: embedded_NLE.shape[1]]


class AnswerBlocks(nn.Module):
    """Layers for questions alone, beside a policy that stays as it is (`run.only: answers`).

    They read what the policy's own layers make of the picture, or what an `Eye` makes of that. Questions have words that instructions do not have, and other uses of those
    that they have: `words` is added to the vocabulary's embeddings.
    """

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.words = nn.Embedding(config.vocab_size, config.width)
        nn.init.zeros_(self.words.weight)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.answer_depth))

    def forward(self, read_BVE: Tensor, label_NSE: Tensor, mask_N1SS: Tensor) -> Tensor:
        """The next features of question and answer, [N, S, E]."""
        for block in self.blocks:
            _, key, value = block.vision(read_BVE, update=False)
            label_NSE = block.label(label_NSE, key, value, mask_N1SS)
        return label_NSE


def answer_mask(padded_NT: Tensor, answer: int) -> Tensor:
    """What must not be seen, bool [N, 1, S, S]: text sees text, the answer sees text and the answer up to itself; nothing sees padding."""
    text = padded_NT.shape[1]
    place_S = torch.arange(text + answer, device=padded_NT.device).clamp_min(text - 1)  # all text is one place
    hidden_SS = place_S[None, :] > place_S[:, None]
    hidden_NS = torch.cat([padded_NT, padded_NT.new_zeros(len(padded_NT), answer)], dim=1)
    return hidden_SS | hidden_NS[:, None, None, :]
