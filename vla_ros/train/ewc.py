# SPDX-License-Identifier: Apache-2.0
"""Elastic weight consolidation (Kirkpatrick et al., arXiv 1612.00796): weights that mattered to earlier tasks resist change.

How much a weight mattered is the diagonal of the Fisher information, E[(d log p / d weight)^2] with answers drawn from the
model itself. Several earlier tasks share one running sum and one anchor (online EWC, Schwarz et al., arXiv 1805.06370).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vla_ros.core.errors import ConfigError
from vla_ros.model.policy import PolicyOutput


@dataclass(frozen=True, kw_only=True)
class Consolidation:
    """What is remembered of earlier tasks: by parameter name, its diagonal Fisher information and its value then."""

    fisher: dict[str, Tensor]
    anchor: dict[str, Tensor]

    def joined(self, later: Consolidation, decay: float = 1.0) -> Consolidation:
        """Both tasks: information adds up (this one's weighed by `decay`), the anchor is the later one's."""
        return Consolidation(fisher={name: decay * value + later.fisher[name] for name, value in self.fisher.items()}, anchor=later.anchor)

    def to_dict(self) -> dict[str, dict[str, Tensor]]:
        """For a checkpoint."""
        return {"fisher": self.fisher, "anchor": self.anchor}


def diagonal_fisher(model: nn.Module, log_likelihoods: Iterable[Tensor]) -> dict[str, Tensor]:
    """Mean of squared gradients of log-likelihoods, by parameter name. Gradients that were there are lost.

    Args:
        log_likelihoods: one scalar per sample, each computed by `model` when it is asked for.

    Raises:
        ConfigError: no sample.
    """
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    fisher = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    samples = 0
    for log_likelihood in log_likelihoods:
        model.zero_grad(set_to_none=True)
        log_likelihood.backward()
        samples += 1
        for name, parameter in parameters.items():
            if parameter.grad is not None:
                fisher[name] += parameter.grad.square()
    model.zero_grad(set_to_none=True)
    if not samples:
        raise ConfigError("the Fisher information needs at least one sample: raise the number of samples")
    return {name: value / samples for name, value in fisher.items()}


def consolidate(model: nn.Module, log_likelihoods: Iterable[Tensor]) -> Consolidation:
    """Remembers what `model` is now."""
    fisher = diagonal_fisher(model, log_likelihoods)
    return Consolidation(fisher=fisher, anchor={name: parameter.detach().clone() for name, parameter in model.named_parameters() if name in fisher})


class EwcPenalty:
    """strength / 2 * sum of fisher * (weight - anchor)^2.

    With a strength of the number of samples that an earlier task had, and the new task's summed negative log-likelihood beside
    it, this is the Laplace approximation of learning both tasks at once.
    """

    def __init__(self, consolidation: Consolidation, strength: float) -> None:
        if not strength >= 0:
            raise ConfigError(f"the strength of EWC must not be negative, got {strength}")
        self.consolidation = consolidation
        self.strength = strength

    def __call__(self, model: nn.Module) -> Tensor:
        """The penalty, a scalar with gradient.

        Raises:
            ConfigError: the model lacks a parameter that is remembered, or it has another shape.
        """
        parameters = dict(model.named_parameters())
        terms = []
        for name, fisher in self.consolidation.fisher.items():
            if name not in parameters or parameters[name].shape != fisher.shape:
                raise ConfigError(f"{name} is remembered with shape {list(fisher.shape)} and the model has no such parameter: consolidate the model that is trained")
            terms.append((fisher * (parameters[name] - self.consolidation.anchor[name]).square()).sum())
        return 0.5 * self.strength * torch.stack(terms).sum()


def sampled_log_likelihood(output: PolicyOutput) -> Tensor:
    """ln p of one answer that is drawn from the policy's own distributions: action tokens, phase and place of the plan, and
    what the cells say. Scalar; all labels of `output` together, so give it one label at a time."""
    parts = [_drawn(logits) for logits in (output.action_NQA, output.phase_NC, output.point_N2A)]
    said_BVC = torch.bernoulli(output.vision_BVC.detach().sigmoid())
    parts.append(-nn.functional.binary_cross_entropy_with_logits(output.vision_BVC, said_BVC, reduction="sum"))
    return torch.stack(parts).sum()


def _drawn(logits_A: Tensor) -> Tensor:
    """Summed ln p of one draw from each categorical distribution in the last axis."""
    log_A = logits_A.log_softmax(-1)
    drawn_X1 = torch.multinomial(log_A.detach().exp().flatten(0, -2), 1)
    return log_A.flatten(0, -2).gather(-1, drawn_X1).sum()
