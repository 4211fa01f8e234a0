# SPDX-License-Identifier: Apache-2.0
"""Transformer block over two streams that share their weights.

The sequence is [vision, label] with a block-causal mask: vision attends vision only, the label tokens (text, state,
plan, action) attend vision and one another as their own mask allows. Vision therefore does not depend on the label,
and one picture can serve K labels: the vision stream holds B sequences, the label stream N = B*K.

Axes: B frames, K labels of a frame, N = B*K, V vision tokens, L label tokens, E width, G heads, F width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vla_ros.model.config import PolicyConfig
from vla_ros.model.moe import MixtureFeedForward, MoeConfig


@dataclass(frozen=True, kw_only=True)
class Source:
    """Keys and values of tokens that later ones may attend, [N, G, S, F] (`FusedBlock`: [N, S, E]); `mask_N11S` is added to their scores, 0 or a
    large negative number."""

    key: Tensor
    value: Tensor
    mask_N11S: Tensor | None = None


class Block(nn.Module):
    """Pre-norm attention and MLP. Attention is written out because, at these short lengths, plain matrix products
    are about twice as fast on a CPU as PyTorch's fused kernel, and because vision keys then need no copy per label. Exported graphs have
    `vla_ros.model.fused.FusedBlock` in its place."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.scale = (width // config.heads) ** -0.5
        self.activation = config.activation
        self.norm_attention = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.project = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        residual_std = 0.02 / (2 * config.depth) ** 0.5
        residuals = [self.project]
        self.mixture: nn.Module | None = None
        if config.feed_forward == "moe":
            moe = MoeConfig(experts=config.experts, top_k=config.experts_top_k, capacity_factor=config.expert_capacity)
            self.mixture = MixtureFeedForward(width, config.mlp_ratio * width, moe, config.activation, residual_std)
        else:
            self.expand = nn.Linear(width, config.mlp_ratio * width)
            self.contract = nn.Linear(config.mlp_ratio * width, width)
            residuals.append(self.contract)
        for residual in residuals:
            nn.init.normal_(residual.weight, std=residual_std)
            nn.init.zeros_(residual.bias)

    def vision(self, x_BVE: Tensor, update: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Vision's next features [B, V, E] with this block's keys and values [B, G, V, F] for the label stream.

        With `update` false the features stay as they are and only keys and values are computed.
        """
        normed_BVE = self.norm_attention(x_BVE)
        key_BGVF, value_BGVF = self._keys_values(normed_BVE)
        if update:
            query_BGVF = self._split(self.query(normed_BVE) * self.scale)
            weight_BGVV = (query_BGVF @ key_BGVF.transpose(-1, -2)).softmax(-1)
            x_BVE = self._residual(x_BVE, _side_by_side(weight_BGVV @ value_BGVF))
        return x_BVE, key_BGVF, value_BGVF

    def label(self, x_NLE: Tensor, key_BGVF: Tensor, value_BGVF: Tensor, mask_N1LL: Tensor, start: int = 0) -> Tensor:
        """Next features of the label tokens from `start` on, [N, L - start, E].

        `mask_N1LL` is added to the scores among label tokens (0 or a large negative number).
        """
        normed_NLE = self.norm_attention(x_NLE)
        key_NGLF, value_NGLF = self._keys_values(normed_NLE)
        query_NGQF = self._split(self.query(normed_NLE[:, start:]) * self.scale)
        mixed_NGQF = _attend_two(
            query_NGQF, key_BGVF, value_BGVF, key_NGLF, value_NGLF, mask_N1LL[:, :, start:]
        )
        return self._residual(x_NLE[:, start:], _side_by_side(mixed_NGQF))

    def keys_values(self, x_NLE: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values that this block makes of its input, [N, G, L, F] each: what a cache holds."""
        return self._keys_values(self.norm_attention(x_NLE))

    def extend(self, x_N1E: Tensor, sources: Sequence[Source]) -> tuple[Tensor, Source]:
        """Next features [N, 1, E] of one more token, which attends all sources and itself, and what later ones may attend of it."""
        normed_N1E = self.norm_attention(x_N1E)
        own = Source(**dict(zip(("key", "value"), self._keys_values(normed_N1E))))
        query_NG1F = self._split(self.query(normed_N1E) * self.scale)
        scores = []
        for source in (*sources, own):
            score_NG1S = query_NG1F @ source.key.transpose(-1, -2)
            scores.append(score_NG1S if source.mask_N11S is None else score_NG1S + source.mask_N11S)
        weights = torch.cat(scores, dim=-1).softmax(-1).split([score.shape[-1] for score in scores], dim=-1)
        mixed_NG1F = sum(weight @ source.value for weight, source in zip(weights, (*sources, own)))
        return self._residual(x_N1E, _side_by_side(mixed_NG1F)), own

    def _split(self, x_NLE: Tensor) -> Tensor:
        return x_NLE.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _keys_values(self, normed_NLE: Tensor) -> tuple[Tensor, Tensor]:
        key_NLE, value_NLE = self.key_value(normed_NLE).chunk(2, dim=-1)
        return self._split(key_NLE), self._split(value_NLE)

    def _residual(self, x_NLE: Tensor, mixed_NLE: Tensor) -> Tensor:
        x_NLE = x_NLE + self.project(mixed_NLE)
        if self.mixture is not None:
            return x_NLE + self.mixture(self.norm_mlp(x_NLE))
        hidden_NLM = self.expand(self.norm_mlp(x_NLE))
        if self.activation == "gelu":
            hidden_NLM = F.gelu(hidden_NLM)
        else:
            hidden_NLM = hidden_NLM.relu()
            if self.activation == "relu2":
                hidden_NLM = hidden_NLM * hidden_NLM
        return x_NLE + self.contract(hidden_NLM)


def _attend_two(
    query_NGQF: Tensor, key_BGVF: Tensor, value_BGVF: Tensor, key_NGLF: Tensor, value_NGLF: Tensor, mask_N1QL: Tensor
) -> Tensor:
    """One softmax over the frame's vision tokens and the label's own tokens; scaled queries; result [N, G, Q, F].

    The queries of a frame's K labels are laid side by side, so that vision keys and values are read once per frame.
    """
    frames, vision = key_BGVF.shape[0], key_BGVF.shape[2]
    labels = query_NGQF.shape[0] // frames
    queries = query_NGQF.shape[2]
    score_NGQV = _apart(_together(query_NGQF, frames) @ key_BGVF.transpose(-1, -2), labels, queries)
    score_NGQL = query_NGQF @ key_NGLF.transpose(-1, -2) + mask_N1QL
    weight_NGQS = torch.cat([score_NGQV, score_NGQL], dim=-1).softmax(-1)
    weight_NGQV, weight_NGQL = weight_NGQS[..., :vision], weight_NGQS[..., vision:]
    seen_NGQF = _apart(_together(weight_NGQV, frames) @ value_BGVF, labels, queries)
    return seen_NGQF + weight_NGQL @ value_NGLF


def _side_by_side(x_NGLF: Tensor) -> Tensor:
    """Heads beside each other, [N, L, E]."""
    return x_NGLF.transpose(1, 2).flatten(2)


def _together(x_NGQF: Tensor, frames: int) -> Tensor:
    """[B*K, G, Q, F] as [B, G, K*Q, F]."""
    return x_NGQF.unflatten(0, (frames, -1)).transpose(1, 2).flatten(2, 3)


def _apart(x_BGRF: Tensor, labels: int, queries: int) -> Tensor:
    """[B, G, K*Q, F] as [B*K, G, Q, F]."""
    return x_BGRF.unflatten(2, (labels, queries)).transpose(1, 2).flatten(0, 1)
