# SPDX-License-Identifier: Apache-2.0
"""Optimiser, learning-rate schedule and averaged weights."""

from __future__ import annotations

import math

import torch
from torch import nn

from vla_ros.train.config import OptimConfig


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Fused AdamW; only matrices and convolution kernels decay, not norms, biases, positions or embeddings."""
    decayed, free = [], []
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            kernel = isinstance(module, (nn.Linear, nn.Conv2d)) and name == "weight"
            (decayed if kernel else free).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True)


def learning_rate(config: OptimConfig, step: int, progress: float) -> float:
    """Linear warm-up over steps, then cosine over `progress` (0..1 of the budget) to `final_fraction`."""
    warm = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))
    return config.learning_rate * warm * (config.final_fraction + (1.0 - config.final_fraction) * cosine)


class AveragedWeights:
    """Exponential moving average of all floating-point parameters and buffers, in a second model of the same shape.

    The decay starts small and rises to `decay`, so that early averages do not remember the initial weights.
    """

    def __init__(self, model: nn.Module, averaged: nn.Module, decay: float) -> None:
        self.model = averaged.requires_grad_(False).eval()
        self.decay = decay
        self._source = [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]
        self._target = [tensor for tensor in averaged.state_dict().values() if tensor.is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Moves the average towards the model after optimiser step number `step`."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._target, self._source, 1.0 - decay)
