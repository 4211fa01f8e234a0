# SPDX-License-Identifier: Apache-2.0
"""The pieces that a policy may be built of, by configuration."""

from __future__ import annotations

import pytest
import torch

from vla_ros.core.errors import ConfigError
from vla_ros.model.config import PolicyConfig
from vla_ros.model.cross_attention import CrossModalPolicy, make_policy
from vla_ros.model.image_tokens import ImageTokenizerConfig
from vla_ros.model.moe import record_routing
from vla_ros.model.policy import Policy

EQUAL = {"rtol": 0, "atol": 0}
CLOSE = {"rtol": 1e-4, "atol": 1e-4}  # float32 sums of a few hundred terms of size one, in another order
TOKENIZER = ImageTokenizerConfig(stride=16, channels=8, codes=8, code_width=4).to_dict()
LATER = (
    "fusion", "frames", "vit_depth", "image_tokens", "feed_forward", "experts", "experts_top_k", "expert_capacity", "action_head", "touch_dim", "answer_tokens",
)  # fmt: skip
PIECES = {
    "vit": {"stem": "vit", "vit_depth": 1},
    "frames": {"stem": "vit", "vit_depth": 1, "frames": 2},
    "tokens": {"stem": "tokens", "image_tokens": TOKENIZER, "vocab_size": 40 + 16 + 8},
    "dvae": {"stem": "tokens", "image_tokens": {**TOKENIZER, "kind": "dvae"}, "vocab_size": 40 + 16 + 8},
    "cross": {"fusion": "cross", "depth": 4},
    "moe": {"feed_forward": "moe", "experts": 2},
    "l1": {"action_head": "l1"},
    "flow": {"action_head": "flow"},
    "touch": {"touch_dim": 2},
    "answers": {"answer_tokens": 5},
    "cross_answers": {"fusion": "cross", "depth": 4, "answer_tokens": 5},
}


def build(tiny, piece: str) -> Policy:
    torch.manual_seed(3)
    policy = make_policy(tiny.config(**PIECES[piece]))
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return policy.eval()


def inputs_of(tiny, config: PolicyConfig) -> dict:
    inputs = tiny.inputs(config)
    if config.frames > 1:
        inputs["images"] = {name: torch.stack([image, 255 - image], dim=1) for name, image in inputs["images"].items()}
    return inputs


def asked(tiny, policy: Policy) -> tuple[dict, torch.Tensor, torch.Tensor]:
    """The first camera's picture only, questions, and answers."""
    inputs = tiny.inputs(policy.config)
    answer = torch.randint(1, policy.config.first_action_token, (len(inputs["text_NT"]), policy.config.answer_tokens), generator=torch.Generator().manual_seed(1))
    return {"front": inputs["images"]["front"]}, inputs["text_NT"], answer


@pytest.mark.parametrize("piece", PIECES)
def test_each_piece_has_the_policys_inputs_and_outputs(piece, tiny):
    policy = build(tiny, piece)
    with torch.inference_mode():
        output = policy(**inputs_of(tiny, policy.config))
    count = tiny.frames * tiny.labels
    assert output.action_NQA.shape == (count, 30, 16) and output.vision_BVC.shape == (tiny.frames, 4, 4) and output.step_NHE.shape == (count, 5, 32)
    assert all(tensor.isfinite().all() for tensor in vars(output).values())


@pytest.mark.parametrize("piece", PIECES)
def test_every_parameter_of_each_piece_learns(piece, tiny):
    policy = build(tiny, piece).train()
    inputs = inputs_of(tiny, policy.config)
    inputs["withheld_B"] = torch.tensor([True, False])
    if policy.config.touch_dim:
        inputs["touch_BP"] = torch.ones(tiny.frames, policy.config.touch_dim)
    with record_routing(policy) as routings:
        output = policy(**inputs)
        loss = sum(tensor.square().sum() for tensor in vars(output).values())
        if policy.action_head is not None:
            loss = loss + policy.action_head.loss(output.step_NHE, torch.zeros(len(output.step_NHE), 5, 6))
        if policy.answers is not None:
            loss = loss + policy.answer(*asked(tiny, policy)).square().sum()
    (loss + sum(routing.balance_loss for routing in routings)).backward()
    without = [name for name, parameter in policy.named_parameters() if parameter.requires_grad and (parameter.grad is None or not parameter.grad.any())]
    assert not without, without
    assert all(name.startswith("vision.ids") for name, parameter in policy.named_parameters() if not parameter.requires_grad)


def test_a_plain_policy_has_none_of_the_pieces(tiny):
    """Checkpoints from before the pieces keep loading: no parameter of theirs, and the config's defaults."""
    names = set(tiny.policy().state_dict())
    assert not any(name.startswith(("answers.", "touch", "action_head.", "vision.vit", "vision.ids")) or ".mixture." in name for name in names)
    old = {key: value for key, value in tiny.config().to_dict().items() if key not in LATER}
    assert PolicyConfig.from_dict(old) == tiny.config()


@pytest.mark.parametrize("piece", PIECES)
def test_a_config_with_pieces_survives_a_round_trip(piece, tiny):
    config = tiny.config(**PIECES[piece])
    assert PolicyConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stem": "conv", "frames": 2}, "model.stem vit"),
        ({"stem": "tokens"}, "run.image_tokens"),
        ({"image_tokens": TOKENIZER, "vocab_size": 64}, "run.image_tokens"),
        ({"feed_forward": "moe", "fusion": "cross", "depth": 4}, "fusion sequence"),
        ({"fusion": "both"}, "sequence, cross"),
        ({"answer_tokens": -1}, "answer_tokens"),
    ],
)
def test_pieces_that_do_not_go_together_are_refused(changes, words, tiny):
    with pytest.raises(ConfigError, match=words):
        tiny.config(**changes)


def test_the_past_and_touch_change_the_action(tiny):
    policy = build(tiny, "frames")
    inputs = inputs_of(tiny, policy.config)
    other = {**inputs, "images": {name: torch.stack([image[:, 0], image[:, 0]], dim=1) for name, image in inputs["images"].items()}}
    touching = build(tiny, "touch")
    plain = tiny.inputs(touching.config)
    with torch.inference_mode():
        assert not torch.allclose(policy(**inputs).action_NQA, policy(**other).action_NQA)
        soft, hard = (touching(**plain, touch_BP=torch.full((tiny.frames, 2), force)).action_NQA for force in (0.1, 20.0))
        unknown, none = (touching(**plain, touch_BP=touch).action_NQA for touch in (torch.full((tiny.frames, 2), torch.nan), None))
    assert not torch.allclose(soft, hard)
    torch.testing.assert_close(unknown, none, **EQUAL)


@pytest.mark.parametrize("piece", ["answers", "cross_answers"])
def test_an_answer_token_reads_only_what_comes_before_it(piece, tiny):
    policy = build(tiny, piece)
    images, text, answer = asked(tiny, policy)
    with torch.inference_mode():
        before = policy.answer(images, text, answer)
        assert before.shape == (len(text), 5, policy.config.first_action_token)  # no action can be said
        changed = answer.clone()
        changed[:, 2] = changed[:, 2] % 30 + 1
        after = policy.answer(images, text, changed)
        other_question = policy.answer(images, text % 9 + 1, answer)
        other_picture = policy.answer({"front": 255 - images["front"]}, text, answer)
    torch.testing.assert_close(after[:, :3], before[:, :3], **EQUAL)
    assert not torch.allclose(after[:, 3:], before[:, 3:])
    assert not torch.allclose(other_question, before) and not torch.allclose(other_picture, before)


def test_padding_of_a_question_changes_nothing(tiny):
    policy = build(tiny, "answers")
    images, text, answer = asked(tiny, policy)
    with torch.inference_mode():
        padded = policy.answer(images, torch.nn.functional.pad(text, (0, 3)), answer)
        torch.testing.assert_close(padded, policy.answer(images, text, answer), **CLOSE)


def test_a_policy_that_was_not_taught_answers_says_so(tiny):
    policy = tiny.policy()
    with pytest.raises(ConfigError, match="model.answer_tokens"):
        policy.answer({}, torch.ones(1, 2, dtype=torch.int64), torch.ones(1, 2, dtype=torch.int64))


def test_fusion_chooses_the_network(tiny):
    assert type(build(tiny, "cross")) is CrossModalPolicy and type(make_policy(tiny.config())) is Policy
