# SPDX-License-Identifier: Apache-2.0
"""Mixture-of-experts feed-forward: a router sends each token to its top-k experts (Shazeer et al., arXiv 1701.06538).

Balance by the auxiliary loss of Switch (arXiv 2101.03961, equation 4) over all k choices; capacity as in GShard
(arXiv 2006.16668): in training an expert takes at most its capacity, first choices before second ones, and what it cannot
take adds nothing to the stream. In evaluation there is no capacity, so that a token's result never depends on its neighbours.

The router's decision is one matrix of gates, zero where a token is not sent. Two ways to compute the same sum: `sparse`
gathers each expert's tokens; `dense` lets every expert compute every token, which has a fixed shape and exports to ONNX.

Axes: T tokens, X experts, E width, M hidden width, k choices.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vla_ros.core.errors import ConfigError
from vla_ros.model.attention import FEED_FORWARDS


@dataclass(frozen=True, kw_only=True)
class MoeConfig:
    """Experts and routing.

    Attributes:
        experts: X.
        top_k: experts of one token.
        capacity_factor: an expert's capacity in training, in parts of an even share of the tokens; 0 = no limit.
        balance: weight of the load-balancing loss; 0.01 is Switch's.
    """

    experts: int = 4
    top_k: int = 1
    capacity_factor: float = 1.25
    balance: float = 0.01

    def __post_init__(self) -> None:
        if self.experts < 2:
            raise ConfigError(f"a mixture needs at least 2 experts, got {self.experts}")
        if not 1 <= self.top_k <= self.experts:
            raise ConfigError(f"top_k must lie in 1..experts ({self.experts}), got {self.top_k}")
        if self.capacity_factor < 0:
            raise ConfigError(f"capacity_factor must be 0 (no limit) or positive, got {self.capacity_factor}")


@dataclass(frozen=True, kw_only=True)
class Routing:
    """What one layer's router did in one pass.

    balance_loss: 1 when even, up to X. load_X: share of the k*T choices that went to each expert, before capacity (sums to 1).
    dropped: share of the choices that found their expert full.
    """

    balance_loss: Tensor
    load_X: Tensor
    dropped: Tensor


class MixtureFeedForward(nn.Module):
    """In the place of a block's feed-forward: [..., E] to [..., E]."""

    def __init__(self, width: int, hidden: int, config: MoeConfig, activation: str = "gelu", residual_std: float = 0.02) -> None:
        super().__init__()
        self.config = config
        self.activation = FEED_FORWARDS[activation]
        self.dense = False  # a caller may choose the dense sum; an export always does
        self.routings: list[Routing] | None = None
        experts = config.experts
        self.router = nn.Linear(width, experts, bias=False)
        self.expand_XEM = nn.Parameter(torch.empty(experts, width, hidden).uniform_(-1, 1) * width**-0.5)
        self.expand_bias_XM = nn.Parameter(torch.zeros(experts, hidden))
        self.contract_XME = nn.Parameter(residual_std * torch.randn(experts, hidden, width))
        self.contract_bias_XE = nn.Parameter(torch.zeros(experts, width))

    def forward(self, x_E: Tensor) -> Tensor:
        """Routes each token, [..., E] to [..., E]; records the routing if `record_routing` asks."""
        x_TE = x_E.reshape(-1, x_E.shape[-1])
        gate_TX = self._route(x_TE)
        mixed_TE = self._dense(x_TE, gate_TX) if self.dense or torch.compiler.is_exporting() else self._sparse(x_TE, gate_TX)
        return mixed_TE.view_as(x_E)

    def _route(self, x_TE: Tensor) -> Tensor:
        """Gates [T, X]: the weight of each expert's answer, 0 where a token is not sent."""
        config = self.config
        probability_TX = self.router(x_TE).softmax(-1)
        top_Tk, expert_Tk = probability_TX.topk(config.top_k, dim=-1)
        if config.top_k > 1:  # one choice keeps its probability, which is what teaches the router (Switch); several share 1 (GShard)
            top_Tk = top_Tk / top_Tk.sum(-1, keepdim=True)
        chosen_kTX = F.one_hot(expert_Tk, config.experts).transpose(0, 1).to(x_TE.dtype)
        kept_kTX = chosen_kTX
        if self.training and config.capacity_factor:
            kept_kTX = chosen_kTX * within_capacity(chosen_kTX, self.capacity(len(x_TE)))
        if self.routings is not None:
            load_X = chosen_kTX.mean((0, 1))
            balance = config.experts * (load_X * probability_TX.mean(0)).sum()
            dropped = 1.0 - kept_kTX.sum() / chosen_kTX.sum()
            self.routings.append(Routing(balance_loss=balance, load_X=load_X.detach(), dropped=dropped.detach()))
        return (kept_kTX * top_Tk.t()[..., None]).sum(0)

    def capacity(self, tokens: int) -> int:
        """Choices that one expert takes of a pass over `tokens` tokens."""
        return math.ceil(self.config.capacity_factor * self.config.top_k * tokens / self.config.experts)

    def _sparse(self, x_TE: Tensor, gate_TX: Tensor) -> Tensor:
        mixed_TE = torch.zeros_like(x_TE)
        for expert in range(self.config.experts):
            row_R = gate_TX[:, expert].nonzero()[:, 0]
            hidden_RM = self.activation(torch.addmm(self.expand_bias_XM[expert], x_TE[row_R], self.expand_XEM[expert]))
            answer_RE = torch.addmm(self.contract_bias_XE[expert], hidden_RM, self.contract_XME[expert])
            mixed_TE = mixed_TE.index_add(0, row_R, answer_RE * gate_TX[row_R, expert, None])
        return mixed_TE

    def _dense(self, x_TE: Tensor, gate_TX: Tensor) -> Tensor:
        hidden_XTM = self.activation(x_TE @ self.expand_XEM + self.expand_bias_XM[:, None])
        answer_XTE = hidden_XTM @ self.contract_XME + self.contract_bias_XE[:, None]
        return (answer_XTE * gate_TX.t()[..., None]).sum(0)


def within_capacity(chosen_kTX: Tensor, capacity: int) -> Tensor:
    """1 for each choice that its expert can take, else 0; an expert fills with first choices, then second ones, in token order."""
    place_kTX = (chosen_kTX.flatten(0, 1).cumsum(0) - 1.0).view_as(chosen_kTX)
    return (place_kTX < capacity).to(chosen_kTX.dtype)


@contextmanager
def record_routing(model: nn.Module) -> Iterator[list[Routing]]:
    """Collects what every router of `model` does inside the `with`; used around a training or a validation pass."""
    routings: list[Routing] = []
    layers = [module for module in model.modules() if isinstance(module, MixtureFeedForward)]
    for layer in layers:
        layer.routings = routings
    try:
        yield routings
    finally:
        for layer in layers:
            layer.routings = None


def balance_loss(routings: Sequence[Routing]) -> Tensor:
    """Mean load-balancing loss of the layers, to be weighted by `MoeConfig.balance`."""
    return torch.stack([routing.balance_loss for routing in routings]).mean()


def utilisation(routings: Sequence[Routing]) -> dict[str, float]:
    """`experts_used` (exp of the entropy of a layer's load, 1..X, mean over layers), `busiest_expert` (largest load of any layer, 1/X when even) and `dropped`."""
    load_LX = torch.stack([routing.load_X for routing in routings])
    entropy_L = -torch.special.xlogy(load_LX, load_LX).sum(-1)
    return {
        "experts_used": float(entropy_L.exp().mean()),
        "busiest_expert": float(load_LX.max()),
        "dropped": float(torch.stack([routing.dropped for routing in routings]).mean()),
    }
