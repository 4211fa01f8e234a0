# SPDX-License-Identifier: Apache-2.0
"""Weights of one policy as the beginning of another with other words or pieces: what fits is taken over, the rest starts anew.

So a policy that only acts can be taught to answer: the new vocabulary has words of questions that the old one would spell letter by letter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from vla_ros.core.errors import ConfigError
from vla_ros.model.config import PolicyConfig
from vla_ros.model.policy import Policy
from vla_ros.train.checkpoint import MISSING, restore_tokenizer

EMBEDDING = "tokens.weight"


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """What a new policy begins with: tensors taken over and left as they were made, and words of its vocabulary that the old one had."""

    taken: tuple[str, ...]
    fresh: tuple[str, ...]
    words: int


@torch.no_grad()
def transfer_weights(model: Policy, tokenizer: Tokenizer, state: dict[str, Any]) -> Transfer:
    """Copies every tensor of the checkpoint's averaged policy that has the same name and shape; embeddings follow their token, not their id.

    The first camera sees with the eyes of the old policy's first camera, whatever their names.

    Raises:
        ConfigError: nothing but embeddings fits.
    """
    known = {name: tensor for name, tensor in state["averaged"].items() if name not in state.get(MISSING, ())}
    old, old_config, old_ids = known, PolicyConfig.from_dict(state["model_config"]), restore_tokenizer(state).get_vocab()
    own = model.state_dict()
    own_eyes, old_eyes = (f"vision.cameras.{config.cameras[0].name}." for config in (model.config, old_config))
    old |= {own_eyes + name[len(old_eyes) :]: tensor for name, tensor in old.items() if name.startswith(old_eyes)}
    fitting = [name for name, tensor in own.items() if name != EMBEDDING and name in old and old[name].shape == tensor.shape]
    if not fitting or old[EMBEDDING].shape[1] != own[EMBEDDING].shape[1]:
        raise ConfigError("the checkpoint's policy has another width: nothing of it can be taken over")
    for name in fitting:
        own[name].copy_(old[name])
    shared = [(own_id, old_ids[token]) for token, own_id in tokenizer.get_vocab().items() if token in old_ids]
    pairs = torch.tensor(shared)
    own[EMBEDDING][pairs[:, 0]] = old[EMBEDDING][pairs[:, 1]]
    if model.config.num_bins == old_config.num_bins:
        first, old_first = model.config.first_action_token, old_config.first_action_token
        own[EMBEDDING][first : first + model.config.num_bins] = old[EMBEDDING][old_first : old_first + old_config.num_bins]
    fresh = sorted(set(own) - set(fitting) - {EMBEDDING})
    return Transfer(taken=tuple(fitting), fresh=tuple(fresh), words=len(shared))


@torch.no_grad()
def settle_batch_norm(model: Policy, images: Mapping[str, Tensor]) -> None:
    """Measures what every batch norm of the cameras' stems gets, and moves its scale and shift so that it does what it did.

    A norm that only shifts (from a bundle, where the convolution has its scale) would scale by every batch's own variance in training,
    and the weights behind it would not fit. So this comes before the first step; in eval mode it changes nothing.

    Args:
        images: uint8 [B, H, W, 3] by camera; some dozen frames are enough.
    """

    def settle(norm: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
        variance_C, mean_C = torch.var_mean(inputs[0], dim=(0, 2, 3))
        scale_C = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        norm.bias += scale_C * (mean_C - norm.running_mean)
        norm.weight.copy_(scale_C * torch.sqrt(variance_C + norm.eps))
        norm.running_mean.copy_(mean_C)
        norm.running_var.copy_(variance_C)

    hooks = [module.register_forward_pre_hook(settle) for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    was_training = model.training
    try:
        model.eval().vision(dict(images))
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
