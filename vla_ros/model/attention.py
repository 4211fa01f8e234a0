# SPDX-License-Identifier: Apache-2.0
"""Scaled dot-product attention and the pre-norm block, for any two streams of tokens.

`Block` in `vla_ros.model.transformer` is the policy's own: two streams with shared weights. These are the general parts
that the vision transformer, the masked autoencoder and the cross-modal trunk are built of.

Axes: B sequences, Q query tokens, S source tokens, E width, G heads, F width of a head, M hidden width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

MASKED = -1e9  # added to a score that must not count; finite, so that no graph optimiser can make NaN of it

FEED_FORWARDS = {"relu": F.relu, "relu2": lambda x: F.relu(x).square(), "gelu": F.gelu}


def scaled_dot_product_attention(query_BGQF: Tensor, key_BGSF: Tensor, value_BGSF: Tensor, mask_B1QS: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(F) + mask) v, [B, G, Q, F] (Vaswani et al., arXiv 1706.03762, equation 1).

    Written out: at these short lengths plain matrix products are faster on a CPU than the fused kernel.

    Args:
        mask_B1QS: added to the scores, 0 or `MASKED`; broadcast over axes of size 1.
    """
    score_BGQS = (query_BGQF * query_BGQF.shape[-1] ** -0.5) @ key_BGSF.transpose(-1, -2)
    if mask_B1QS is not None:
        score_BGQS = score_BGQS + mask_B1QS
    return score_BGQS.softmax(-1) @ value_BGSF


class Attention(nn.Module):
    """Multi-head attention: queries of one stream, keys and values of another (the same one for self-attention)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.project = nn.Linear(width, width)

    def forward(self, query_BQE: Tensor, source_BSE: Tensor, mask_B1QS: Tensor | None = None) -> Tensor:
        """What each query token reads from the source, [B, Q, E]."""
        key_BSE, value_BSE = self.key_value(source_BSE).chunk(2, dim=-1)
        mixed_BGQF = scaled_dot_product_attention(self._split(self.query(query_BQE)), self._split(key_BSE), self._split(value_BSE), mask_B1QS)
        return self.project(mixed_BGQF.transpose(1, 2).flatten(2))

    def _split(self, x_BSE: Tensor) -> Tensor:
        return x_BSE.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class FeedForward(nn.Module):
    """Two linear layers with an activation between, token by token."""

    def __init__(self, width: int, hidden: int, activation: str = "gelu") -> None:
        super().__init__()
        self.activation = FEED_FORWARDS[activation]
        self.expand = nn.Linear(width, hidden)
        self.contract = nn.Linear(hidden, width)

    def forward(self, x_BSE: Tensor) -> Tensor:
        """[..., E] to [..., E]."""
        return self.contract(self.activation(self.expand(x_BSE)))


class SelfBlock(nn.Module):
    """Pre-norm transformer block (arXiv 2002.04745): x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, width: int, heads: int, mlp_ratio: int, depth: int, activation: str = "gelu") -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm_mlp = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, mlp_ratio * width, activation)
        start_near_identity(depth, self.attention.project, self.feed_forward.contract)

    def forward(self, x_BSE: Tensor, mask_B1SS: Tensor | None = None) -> Tensor:
        """[B, S, E] to [B, S, E]."""
        normed_BSE = self.norm_attention(x_BSE)
        x_BSE = x_BSE + self.attention(normed_BSE, normed_BSE, mask_B1SS)
        return x_BSE + self.feed_forward(self.norm_mlp(x_BSE))


def start_near_identity(depth: int, *residuals: nn.Linear) -> None:
    """Small weights where a branch is added to the stream, smaller in a deeper network (GPT-2's rule)."""
    for layer in residuals:
        nn.init.normal_(layer.weight, std=0.02 / (2 * depth) ** 0.5)
        nn.init.zeros_(layer.bias)
