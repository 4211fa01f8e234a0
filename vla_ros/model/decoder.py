# SPDX-License-Identifier: Apache-2.0
"""A chunk said position after position, each given what was said before it (RT-2, arXiv 2307.15818), with a key/value cache.

The loop over positions has a fixed length and is unrolled when the policy is exported: one graph, one session, one pool of threads, and the
cache never leaves it. Only action ids compete at a position, so that every answer is an action. Committed tokens are given as they are.

Axes: as in `vla_ros.model.policy`; one label a frame, B = N.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vla_ros.model.policy import Policy, PolicyOutput
from vla_ros.model.transformer import Source


def decode(policy: Policy, images: dict[str, Tensor], text_NT: Tensor, proprio_NS: Tensor, prefix_NQ: Tensor) -> PolicyOutput:
    """Greedy decoding of an autoregressive policy.

    Args:
        policy: its `decoding` is autoregressive.
        images: uint8 [N, H, W, 3] for each camera's name.
        text_NT: token ids, int64, padded at the end.
        proprio_NS: float32 in physical units.
        prefix_NQ: vocabulary ids of committed action tokens, -1 where free.

    Returns:
        As `Policy.forward`; the logits of a position are those given the most probable tokens before it.
    """
    config, group = policy.config, policy.config.tokens_per_position
    context_NLE, shift_ND = policy.context(text_NT, proprio_NS, prefix_NQ)
    padded_NT = text_NT == config.pad_token
    caches, seen, plan_N1E, pointed_N2 = _read(policy, images, context_NLE, text_NT, padded_NT)
    shift_NQ, first = policy.anchor.per_token(shift_ND), config.first_action_token
    said_NG = prefix_NQ.new_full((len(prefix_NQ), group), -1)
    logits, features = [], []
    for position in range(config.num_action_tokens // group):
        tokens = slice(position * group, (position + 1) * group)
        x_N1E = policy.bind(said_NG) + policy.action_position_PE[position]
        for block, sources in zip(policy.blocks, caches):
            x_N1E, own = block.extend(x_N1E, sources)
            _remember(sources, own)
        features.append(policy.norm_label(x_N1E))
        logits.append(policy.anchor.move(policy.action_logits(features[-1]), shift_NQ[:, tokens]))
        committed_NG = prefix_NQ[:, tokens]
        chosen_NG = torch.where(committed_NG >= 0, committed_NG, first + logits[-1].argmax(-1))
        said_NG = policy.relative_ids(chosen_NG, shift_NQ[:, tokens])
    return policy.answer_of(torch.cat([plan_N1E, *features], dim=1), seen, pointed_N2, shift_ND, torch.cat(logits, dim=1))


def _read(policy: Policy, images: dict[str, Tensor], label_NLE: Tensor, text_NT: Tensor, padded_NT: Tensor) -> tuple:
    """Everything before the action tokens: each block's cache, what the picture says, the plan token's features and its place."""
    config = policy.config
    mask_N1LL = policy.label_mask(text_NT)[:, :, : label_NLE.shape[1], : label_NLE.shape[1]]
    mask_N11L = mask_N1LL[:, :, -1:]  # the plan token sees all but padding, and so do the action tokens
    vision_NVE = policy.vision(images)
    caches = []
    for number, block in enumerate(policy.blocks):
        if number == config.vision_depth:
            front_NVE = policy.norm_vision(vision_NVE[:, : policy.front_tokens])
            spoken_NVE = policy.speak(front_NVE)
            label_NLE, pointed_N2 = policy.point(label_NLE, text_NT, front_NVE, spoken_NVE, None)
        vision_NVE, key, value = block.vision(vision_NVE, update=number < config.vision_depth)
        label_key, label_value = block.keys_values(label_NLE)
        caches.append([Source(key=key, value=value), Source(key=label_key, value=label_value, mask_N11S=mask_N11L)])
        label_NLE = block.label(label_NLE, key, value, mask_N1LL)
    return caches, policy.say(front_NVE, spoken_NVE), policy.norm_label(label_NLE[:, -1:]), pointed_N2


def _remember(sources: list[Source], own: Source) -> None:
    """Adds a position to a block's cache: behind vision and context, which are never copied, lie all positions so far."""
    if len(sources) == 2:
        sources.append(own)
    else:
        key, value = (torch.cat([getattr(sources[2], name), getattr(own, name)], dim=-2) for name in ("key", "value"))
        sources[2] = Source(key=key, value=value)
