# SPDX-License-Identifier: Apache-2.0
"""Token after token with a cache gives what whole passes over the sequence give."""

from __future__ import annotations

import pytest
import torch

from vla_ros.core.errors import ConfigError
from vla_ros.model.decoder import decode

CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(params=["step", "token"])
def policy(request, tiny):
    return tiny.policy(packing=request.param, decoding="autoregressive")


def one_label(policy, tiny, frames=3):
    return tiny.inputs(policy.config, frames=frames, labels=1)


def greedy_by_whole_passes(policy, inputs):
    """The same answer without any cache: a pass over the whole sequence for each position."""
    config, group = policy.config, policy.config.tokens_per_position
    given = torch.where(inputs["prefix_NQ"] >= 0, inputs["prefix_NQ"], config.first_action_token)
    for start in range(0, config.num_action_tokens, group):
        output = policy(**inputs, given_NQ=given)
        best = config.first_action_token + output.action_NQA.argmax(-1)
        free = inputs["prefix_NQ"][:, start : start + group] < 0
        given[:, start : start + group] = torch.where(free, best[:, start : start + group], given[:, start : start + group])
    return policy(**inputs, given_NQ=given)


def test_the_cache_gives_what_whole_passes_give(policy, tiny):
    inputs = one_label(policy, tiny)
    with torch.inference_mode():
        expected = greedy_by_whole_passes(policy, inputs)
        found = decode(policy, inputs["images"], inputs["text_NT"], inputs["proprio_BS"], inputs["prefix_NQ"])
    for name, tensor in vars(expected).items():
        torch.testing.assert_close(getattr(found, name), tensor, **CLOSE)


def test_the_answer_depends_on_what_was_said_before(policy, tiny):
    inputs = one_label(policy, tiny)
    committed = inputs["prefix_NQ"].clone()
    committed[:, : policy.config.action_dims] = policy.config.first_action_token + 5
    with torch.inference_mode():
        free, told = (decode(policy, inputs["images"], inputs["text_NT"], inputs["proprio_BS"], prefix) for prefix in (torch.full_like(committed, -1), committed))
    assert not torch.allclose(free.action_NQA[:, -1], told.action_NQA[:, -1])


def test_no_position_sees_what_is_said_at_it_or_later(policy, tiny):
    inputs = tiny.inputs(policy.config)
    inputs["prefix_NQ"] = torch.full_like(inputs["prefix_NQ"], -1)
    first, group = policy.config.first_action_token, policy.config.tokens_per_position
    given = torch.full_like(inputs["prefix_NQ"], first)
    changed = given.clone()
    changed[:, 2 * group :] += 7
    with torch.inference_mode():
        before, after = policy(**inputs, given_NQ=given), policy(**inputs, given_NQ=changed)
    torch.testing.assert_close(before.action_NQA[:, : 3 * group], after.action_NQA[:, : 3 * group], rtol=0, atol=0)
    torch.testing.assert_close(before.phase_NC, after.phase_NC, rtol=0, atol=0)
    assert not torch.allclose(before.action_NQA[:, 3 * group :], after.action_NQA[:, 3 * group :])


def test_every_parameter_gets_a_gradient(policy, tiny):
    inputs = tiny.inputs(policy.config)
    given = torch.full_like(inputs["prefix_NQ"], policy.config.first_action_token + 3)
    output = policy.train()(**inputs, given_NQ=given, withheld_B=torch.tensor([True, False]))
    sum(tensor.square().sum() for tensor in vars(output).values()).backward()
    assert not [name for name, parameter in policy.named_parameters() if parameter.grad is None or not parameter.grad.any()]


def test_training_without_the_chunk_is_refused(policy, tiny):
    with pytest.raises(ConfigError, match="given_NQ"):
        policy(**tiny.inputs(policy.config))


@pytest.mark.parametrize("other", [{"fusion": "cross", "depth": 4}, {"feed_forward": "moe"}, {"action_head": "l1"}])
def test_what_cannot_be_cached_is_refused(other, tiny):
    with pytest.raises(ConfigError, match="autoregressive needs"):
        tiny.config(decoding="autoregressive", **other)
