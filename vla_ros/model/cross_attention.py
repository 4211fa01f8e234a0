# SPDX-License-Identifier: Apache-2.0
"""The policy with cross-modal attention in the place of the single sequence (co-attention as in ViLBERT, arXiv 1908.02265).

Vision, language and the action tokens (with state and plan) are three streams with weights of their own. After
`vision_depth` layers in which vision and language each attend to themselves, every further layer exchanges:

    language -> vision   each cell of the picture reads the words
    vision -> language   each word reads the picture
    language -> action, vision -> action   the action tokens read both, and one another

Inputs, outputs, heads and pointing are the `Policy`'s. Since words now change what vision sees, the picture's stream is
computed once per label from the first exchange on, which the single sequence avoids.

Axes: as in `vla_ros.model.policy`; Q state, plan and action tokens, S source tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vla_ros.core.errors import ConfigError
from vla_ros.model.attention import Attention, FeedForward, SelfBlock, start_near_identity
from vla_ros.model.config import PolicyConfig
from vla_ros.model.policy import Policy


class Read(nn.Module):
    """One stream reads another: x + attention(norm(x), norm(source)), pre-norm on both sides."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.width)
        self.norm_source = nn.LayerNorm(config.width)
        self.attention = Attention(config.width, config.heads)
        start_near_identity(config.depth, self.attention.project)

    def forward(self, x_NQE: Tensor, source_NSE: Tensor, mask_N11S: Tensor | None = None) -> Tensor:
        """[N, Q, E] with what each token read."""
        return x_NQE + self.attention(self.norm(x_NQE), self.norm_source(source_NSE), mask_N11S)


class Think(nn.Module):
    """Pre-norm feed-forward with its residual."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.width)
        self.feed_forward = FeedForward(config.width, config.mlp_ratio * config.width, config.activation)
        start_near_identity(config.depth, self.feed_forward.contract)

    def forward(self, x_NSE: Tensor) -> Tensor:
        """[N, S, E] to the same."""
        return x_NSE + self.feed_forward(self.norm(x_NSE))


class Exchange(nn.Module):
    """One layer of cross-modal attention. The last one of a network only lets the action tokens read (`for_action_only`)."""

    def __init__(self, config: PolicyConfig, for_action_only: bool) -> None:
        super().__init__()
        self.for_action_only = for_action_only
        if not for_action_only:
            self.language_to_vision, self.think_vision = Read(config), Think(config)
            self.vision_to_language, self.think_language = Read(config), Think(config)
        self.language_to_action, self.vision_to_action = Read(config), Read(config)
        self.action = SelfBlock(config.width, config.heads, config.mlp_ratio, config.depth, config.activation)

    def forward(
        self, vision_NVE: Tensor, text_NTE: Tensor, query_NQE: Tensor, padded_N11T: Tensor, mask_N1QQ: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """All three streams after the exchange. Vision and language read each other as they were before it.

        Args:
            padded_N11T: added to scores of words, `MASKED` at padding.
            mask_N1QQ: added to scores among the queries; None lets each see all.
        """
        if not self.for_action_only:
            vision_before_NVE, text_before_NTE = vision_NVE, text_NTE
            vision_NVE = self.think_vision(self.language_to_vision(vision_before_NVE, text_before_NTE, padded_N11T))
            text_NTE = self.think_language(self.vision_to_language(text_before_NTE, vision_before_NVE))
        query_NQE = self.language_to_action(query_NQE, text_NTE, padded_N11T)
        query_NQE = self.vision_to_action(query_NQE, vision_NVE)
        return vision_NVE, text_NTE, self.action(query_NQE, mask_N1QQ)


class CrossModalTrunk(nn.Module):
    """All layers: `vision_depth` alone, the other `depth - vision_depth` with exchange."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        exchanges = config.depth - config.vision_depth
        if exchanges < 2:
            raise ConfigError(f"cross-modal attention needs two exchanges after vision's own layers: set model.depth to {config.vision_depth + 2} or more")
        shape = (config.width, config.heads, config.mlp_ratio, config.depth, config.activation)
        self.vision = nn.ModuleList(SelfBlock(*shape) for _ in range(config.vision_depth))
        self.language = nn.ModuleList(SelfBlock(*shape) for _ in range(config.vision_depth))
        self.exchanges = nn.ModuleList(Exchange(config, for_action_only=index == exchanges - 1) for index in range(exchanges))


class CrossModalPolicy(Policy):
    """`Policy` with three streams; may stand wherever a `Policy` does."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__(config)
        del self.blocks
        self.trunk = CrossModalTrunk(config)

    def _look(self, vision_BVE: Tensor, label_NLE: Tensor, mask_N1LL: Tensor, words: int) -> tuple[Tensor, Tensor, Tensor]:
        """As `Policy._look`; what later layers read is vision after the first exchange, once per label."""
        text_NTE, query_NQE = label_NLE[:, :words], label_NLE[:, words:]
        padded_N11T, mask_N1QQ = _masks(mask_N1LL, words)
        for see, listen in zip(self.trunk.vision, self.trunk.language):
            vision_BVE, text_NTE = see(vision_BVE), listen(text_NTE, padded_N11T)
        labels = len(label_NLE) // len(vision_BVE)
        streams = (vision_BVE.repeat_interleave(labels, dim=0), text_NTE, query_NQE)
        vision_NVE, text_NTE, query_NQE = self.trunk.exchanges[0](*streams, padded_N11T, mask_N1QQ)
        return vision_BVE, vision_NVE, torch.cat([text_NTE, query_NQE], dim=1)

    def _think(self, read_NVE: Tensor, label_NLE: Tensor, mask_N1LL: Tensor, words: int, start: int) -> Tensor:
        """As `Policy._think`, by the other exchanges."""
        text_NTE, query_NQE = label_NLE[:, :words], label_NLE[:, words:]
        for exchange in self.trunk.exchanges[1:]:
            read_NVE, text_NTE, query_NQE = exchange(read_NVE, text_NTE, query_NQE, *_masks(mask_N1LL, words))
        return query_NQE[:, start - words :]


def _masks(mask_N1LL: Tensor, words: int) -> tuple[Tensor, Tensor]:
    """What is hidden of the words (padding, from all alike), and of the queries from one another."""
    return mask_N1LL[:, :, :1, :words], mask_N1LL[:, :, words:, words:]


def make_policy(config: PolicyConfig) -> Policy:
    """The network that `config.fusion` names."""
    return CrossModalPolicy(config) if config.fusion == "cross" else Policy(config)
