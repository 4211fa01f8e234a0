# SPDX-License-Identifier: Apache-2.0
"""A tiny network and inputs for it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from vla_ros.core.observation import CameraSpec
from vla_ros.core.tabletop import ACTION_SPEC
from vla_ros.model import Policy, PolicyConfig

FRAMES, LABELS, TEXT = 2, 3, 7


def tiny_config(**changes) -> PolicyConfig:
    """A config of the real structure, small enough for milliseconds."""
    values = {
        "vocab_size": 40 + 16,
        "first_action_token": 40,
        "seen_tokens": (5, 6, 7, 8),
        "action": replace(ACTION_SPEC, dims=tuple(replace(dim, num_bins=16) for dim in ACTION_SPEC.dims)),
        "text_tokens": 10,
        "cameras": (CameraSpec(name="front", height=32, width=32), CameraSpec(name="wrist", height=16, width=16)),
        "plan_phases": 4,
        "width": 32,
        "depth": 3,
        "vision_depth": 2,
        "heads": 4,
        "stem_channels": (4, 8),
    }
    return PolicyConfig(**{**values, **changes})


def tiny_policy(**changes) -> Policy:
    """An initialised network in eval mode whose batch norms and residual branches are not trivial."""
    torch.manual_seed(3)
    policy = Policy(tiny_config(**changes))
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    for module in policy.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    return policy.eval()


def tiny_inputs(config: PolicyConfig, frames: int = FRAMES, labels: int = LABELS) -> dict:
    """Keyword arguments of `Policy.forward`; texts of different lengths, some steps committed."""
    generator = torch.Generator().manual_seed(5)
    count = frames * labels
    text = torch.randint(1, config.first_action_token, (count, TEXT), generator=generator)
    for row in range(count):
        text[row, TEXT - row % 4 :] = config.pad_token if row % 4 else text[row, TEXT:]
    prefix = torch.full((count, config.num_action_tokens), -1)
    prefix[::2, : config.action_dims] = config.first_action_token + torch.arange(config.action_dims)
    return {
        "images": {c.name: torch.randint(0, 256, (frames, *c.shape), dtype=torch.uint8, generator=generator) for c in config.cameras},
        "text_NT": text,
        "proprio_BS": torch.randn(frames, config.proprio_dim, generator=generator),
        "prefix_NQ": prefix,
    }


@pytest.fixture
def tiny() -> SimpleNamespace:
    """Makers of a tiny network: `config(**changes)`, `policy(**changes)`, `inputs(config)`; `frames` and `labels` of the inputs."""
    return SimpleNamespace(config=tiny_config, policy=tiny_policy, inputs=tiny_inputs, frames=FRAMES, labels=LABELS)


@pytest.fixture(params=["step", "token"])
def policy(request) -> Policy:
    return tiny_policy(packing=request.param)
