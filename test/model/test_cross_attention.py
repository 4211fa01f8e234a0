# SPDX-License-Identifier: Apache-2.0
"""Cross-modal attention: one exchange against torch's own attention, and who learns from whom."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vla_ros.core.errors import ConfigError
from vla_ros.model.attention import MASKED, Attention
from vla_ros.model.cross_attention import CrossModalPolicy, Exchange
from vla_ros.model.policy import Policy

CLOSE = {"rtol": 1e-4, "atol": 1e-4}  # float32 sums of a few hundred terms of size one, in another order
DEPTH = {"depth": 4, "vision_depth": 2}


@pytest.fixture(params=["step", "token"])
def policy(request, tiny) -> CrossModalPolicy:
    return make(tiny, packing=request.param)


def make(tiny, **changes) -> CrossModalPolicy:
    torch.manual_seed(3)
    policy = CrossModalPolicy(tiny.config(**{**DEPTH, **changes}))
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return policy.eval()


def outputs_of(policy: Policy, inputs: dict) -> dict[str, torch.Tensor]:
    with torch.inference_mode():
        return dict(vars(policy(**inputs)))


def torchs(ours: Attention, query: torch.Tensor, source: torch.Tensor, padded: torch.Tensor | None = None) -> torch.Tensor:
    """The same attention by torch's function, which has code of its own."""
    result, _ = F.multi_head_attention_forward(
        query.transpose(0, 1), source.transpose(0, 1), source.transpose(0, 1), query.shape[-1], ours.heads,
        torch.cat([ours.query.weight, ours.key_value.weight]), torch.cat([ours.query.bias, ours.key_value.bias]),
        None, None, False, 0.0, ours.project.weight, ours.project.bias, training=False, key_padding_mask=padded, need_weights=False,
    )
    return result.transpose(0, 1)


@pytest.mark.parametrize("for_action_only", [False, True])
def test_one_exchange_equals_torchs_attention(tiny, for_action_only):
    torch.manual_seed(0)
    exchange = Exchange(tiny.config(**DEPTH), for_action_only).double()
    for parameter in exchange.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    vision, text, query = (torch.randn(2, n, 32).double() for n in (5, 4, 3))
    padded = torch.tensor([[False, False, False, False], [False, False, True, True]])

    def read(part, x, source, mask=None):
        return x + torchs(part.attention, part.norm(x), part.norm_source(source), mask)

    def think(part, x):
        return x + part.feed_forward(part.norm(x))

    with torch.no_grad():
        got = exchange(vision, text, query, padded[:, None, None].double() * MASKED)
        seen, read_text = vision, text
        if not for_action_only:
            seen = think(exchange.think_vision, read(exchange.language_to_vision, vision, text, padded))
            read_text = think(exchange.think_language, read(exchange.vision_to_language, text, vision))
        action = read(exchange.vision_to_action, read(exchange.language_to_action, query, read_text, padded), seen)
        normed = exchange.action.norm_attention(action)
        action = action + torchs(exchange.action.attention, normed, normed)
        action = action + exchange.action.feed_forward(exchange.action.norm_mlp(action))
    for ours, expected in zip(got, (seen, read_text, action)):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


def test_outputs_are_the_policys(policy, tiny):
    inputs = tiny.inputs(policy.config)
    ours, theirs = outputs_of(policy, inputs), outputs_of(Policy(policy.config).eval(), inputs)
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in ours.items()} == {name: (tensor.shape, tensor.dtype) for name, tensor in theirs.items()}
    assert all(tensor.isfinite().all() for tensor in ours.values())


def test_every_parameter_gets_a_gradient(policy, tiny):
    policy.train()
    output = policy(**tiny.inputs(policy.config), withheld_B=torch.tensor([True, False]))
    sum(tensor.square().sum() for tensor in vars(output).values()).backward()
    without = [name for name, parameter in policy.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert not without


def test_labels_that_share_a_picture_equal_separate_passes(policy, tiny):
    inputs = tiny.inputs(policy.config)
    together = outputs_of(policy, inputs)
    for label in range(tiny.frames * tiny.labels):
        frame = label // tiny.labels
        alone = outputs_of(
            policy,
            {
                "images": {name: picture[frame : frame + 1] for name, picture in inputs["images"].items()},
                "text_NT": inputs["text_NT"][label : label + 1],
                "proprio_BS": inputs["proprio_BS"][frame : frame + 1],
                "prefix_NQ": inputs["prefix_NQ"][label : label + 1],
            },
        )
        for name in ("action_NQA", "phase_NC", "point_N2A", "pointed_N2"):
            torch.testing.assert_close(alone[name][0], together[name][label], **CLOSE)


def test_padding_changes_nothing(policy, tiny):
    inputs = tiny.inputs(policy.config)
    padded = F.pad(inputs["text_NT"], (0, policy.config.text_tokens - inputs["text_NT"].shape[1]))
    before, after = outputs_of(policy, inputs), outputs_of(policy, {**inputs, "text_NT": padded})
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, **CLOSE)


def test_words_change_the_action_and_not_what_is_said_of_the_picture(policy, tiny):
    inputs = tiny.inputs(policy.config)
    before, after = outputs_of(policy, inputs), outputs_of(policy, {**inputs, "text_NT": inputs["text_NT"] % 9 + 1})
    assert torch.equal(before["vision_BVC"], after["vision_BVC"])
    assert not torch.allclose(before["action_NQA"], after["action_NQA"])


def test_each_direction_carries_something(tiny):
    """Cut one arrow after the other: each of the four must change the action."""
    for arrow in ("language_to_vision", "vision_to_language", "language_to_action", "vision_to_action"):
        policy = make(tiny)
        inputs = tiny.inputs(policy.config)
        before = outputs_of(policy, inputs)["action_NQA"]
        with torch.no_grad():
            for exchange in policy.trunk.exchanges:
                read = getattr(exchange, arrow, None)
                if read is not None:
                    read.attention.project.weight.zero_()
                    read.attention.project.bias.zero_()
        assert not torch.allclose(before, outputs_of(policy, inputs)["action_NQA"], atol=1e-3), arrow


def test_overfits_one_batch(tiny):
    torch.manual_seed(0)
    policy = CrossModalPolicy(tiny.config(**DEPTH)).train()
    inputs = {**tiny.inputs(policy.config), "prefix_NQ": torch.full((6, 30), -1)}
    target = torch.randint(0, 16, (6, 30))
    optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-3)
    losses = []
    for _ in range(150):
        loss = F.cross_entropy(policy(**inputs).action_NQA.flatten(0, 1), target.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.2 * losses[0], losses[::30]


def test_a_depth_without_room_for_two_exchanges_is_refused(tiny):
    with pytest.raises(ConfigError, match="model.depth to 4"):
        CrossModalPolicy(tiny.config(depth=3, vision_depth=2))
