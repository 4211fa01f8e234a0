# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from vla_ros.model import Policy
from vla_ros.model.policy import MASKED, keep_committed

# float32 sums of a few hundred terms of size one, in another order
CLOSE = {"rtol": 1e-4, "atol": 1e-4}
EQUAL = {"rtol": 0, "atol": 0}


def outputs_of(policy: Policy, inputs: dict) -> dict[str, torch.Tensor]:
    with torch.inference_mode():
        return dict(vars(policy(**inputs)))


@pytest.mark.parametrize("stem", ["conv", "patch"])
@pytest.mark.parametrize("packing", ["step", "token"])
@pytest.mark.parametrize("activation", ["relu", "relu2", "gelu"])
def test_every_output_has_its_shape(stem, packing, activation, tiny):
    policy = tiny.policy(stem=stem, packing=packing, activation=activation)
    output = outputs_of(policy, tiny.inputs(policy.config))
    count = tiny.frames * tiny.labels
    assert {name: tuple(tensor.shape) for name, tensor in output.items()} == {
        "action_NQA": (count, 30, 16),
        "phase_NC": (count, 4),
        "point_N2A": (count, 2, 16),
        "pointed_N2": (count, 2),
        "vision_BVC": (tiny.frames, 4, 4),
        "offset_BV2": (tiny.frames, 4, 2),
        "step_NHE": (count, 5, 32),
        "shift_NHD": (count, 5, 6),
    }
    assert all(tensor.isfinite().all() for tensor in output.values())


def test_every_parameter_gets_a_gradient(policy, tiny):
    policy.train()
    inputs = tiny.inputs(policy.config)
    output = policy(**inputs, withheld_B=torch.tensor([True, False]))
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


def test_text_does_not_change_what_vision_sees(policy, tiny):
    inputs = tiny.inputs(policy.config)
    before = outputs_of(policy, inputs)
    after = outputs_of(policy, {**inputs, "text_NT": inputs["text_NT"] % 9 + 1})
    torch.testing.assert_close(before["vision_BVC"], after["vision_BVC"], **EQUAL)
    torch.testing.assert_close(before["offset_BV2"], after["offset_BV2"], **EQUAL)
    assert not torch.allclose(before["action_NQA"], after["action_NQA"])


def test_padding_changes_nothing(policy, tiny):
    inputs = tiny.inputs(policy.config)
    padded = torch.nn.functional.pad(inputs["text_NT"], (0, policy.config.text_tokens - inputs["text_NT"].shape[1]))
    before, after = outputs_of(policy, inputs), outputs_of(policy, {**inputs, "text_NT": padded})
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, **CLOSE)


def test_the_embedding_of_padding_changes_nothing(tiny):
    policy = tiny.policy()
    inputs = tiny.inputs(policy.config)
    before = outputs_of(policy, inputs)
    with torch.no_grad():
        policy.tokens.weight[policy.config.pad_token] += 10.0
    after = outputs_of(policy, inputs)
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, **CLOSE)


def test_state_and_pictures_change_the_action(policy, tiny):
    inputs = tiny.inputs(policy.config)
    before = outputs_of(policy, inputs)["action_NQA"]
    assert not torch.allclose(before, outputs_of(policy, {**inputs, "proprio_BS": inputs["proprio_BS"] + 1})["action_NQA"])
    for name in inputs["images"]:
        images = {**inputs["images"], name: 255 - inputs["images"][name]}
        assert not torch.allclose(before, outputs_of(policy, {**inputs, "images": images})["action_NQA"])


def test_a_withheld_state_has_no_influence(policy, tiny):
    inputs = tiny.inputs(policy.config)
    withheld = {"withheld_B": torch.ones(tiny.frames, dtype=torch.bool)}
    before = outputs_of(policy, {**inputs, **withheld})
    after = outputs_of(policy, {**inputs, **withheld, "proprio_BS": inputs["proprio_BS"] * 5 - 1})
    torch.testing.assert_close(before["action_NQA"], after["action_NQA"], **EQUAL)


def test_committed_steps_change_the_free_ones(policy, tiny):
    inputs = tiny.inputs(policy.config)
    dims = policy.config.action_dims
    other = inputs["prefix_NQ"].clone()
    other[0, :dims] += 3
    before, after = outputs_of(policy, inputs)["action_NQA"], outputs_of(policy, {**inputs, "prefix_NQ": other})["action_NQA"]
    assert not torch.allclose(before[0, dims:], after[0, dims:])
    torch.testing.assert_close(before[1:], after[1:], **CLOSE)


def test_swapping_two_committed_dimensions_is_noticed(tiny):
    """Packed tokens are summed: without the binding to their dimension the order would be lost."""
    policy = tiny.policy(packing="step")
    inputs = tiny.inputs(policy.config)
    swapped = inputs["prefix_NQ"].clone()
    swapped[0, [1, 2]] = swapped[0, [2, 1]]
    before, after = outputs_of(policy, inputs)["action_NQA"], outputs_of(policy, {**inputs, "prefix_NQ": swapped})["action_NQA"]
    assert not torch.allclose(before[0, 6:], after[0, 6:], atol=1e-3)


def test_free_steps_go_on_from_where_the_committed_ones_end(tiny):
    """The state is moved by the last committed step: relative dimensions are added, the gripper is replaced."""
    config = tiny.config()
    anchor = tiny.policy().anchor
    proprio = torch.randn(2, config.proprio_dim)
    prefix = torch.full((2, config.num_action_tokens), -1)
    bins = torch.tensor([0, 3, 9, 8, 14, 11])
    prefix[1, :12] = config.first_action_token + torch.cat([torch.zeros(6, dtype=torch.int64), bins])
    moved, shift, count = anchor(prefix, proprio)
    torch.testing.assert_close(moved[0], proprio[0], **EQUAL)
    assert count.tolist() == [0, 2] and not shift[0].any()
    width = 0.5 / 16
    expected = proprio[1].clone()
    expected[7:10] += -0.25 + (bins[1:4] + 0.5) * width
    expected[10] += -1.0 + (14 + 0.5) * 2.0 / 16
    expected[6] = (11 + 0.5) * 0.042 / 16
    torch.testing.assert_close(moved[1], expected, **CLOSE)
    assert shift[1].tolist() == [0, 3 - 8, 9 - 8, 8 - 8, 14 - 8, 0]


def test_logits_relative_to_the_anchor_are_moved_by_whole_bins(tiny):
    config = tiny.config()
    logits = torch.randn(1, config.num_action_tokens, 16)
    moved = tiny.policy().anchor.move(logits, torch.tensor([[0, 3, -2, 0, 0, 0] * 5])).view(5, 6, 16)
    plain = logits.view(5, 6, 16)
    torch.testing.assert_close(moved[:, [0, 3, 4, 5]], plain[:, [0, 3, 4, 5]], **EQUAL)
    torch.testing.assert_close(moved[:, 1, 3:], plain[:, 1, :-3], **EQUAL)
    torch.testing.assert_close(moved[:, 2, :-2], plain[:, 2, 2:], **EQUAL)
    assert moved[:, 1, :3].max() < -20 and moved[:, 2, -2:].max() < -20


def test_decoding_returns_the_committed_tokens(tiny):
    config = tiny.config()
    logits = torch.randn(2, config.num_action_tokens, config.num_bins)
    prefix = torch.full((2, config.num_action_tokens), -1)
    prefix[0, :3] = config.first_action_token + torch.tensor([0, 9, 15])
    kept = keep_committed(logits, prefix, config.first_action_token)
    assert kept[0, :3].argmax(-1).tolist() == [0, 9, 15]
    assert kept[0, :3].softmax(-1).amax(-1).min() > 0.999
    torch.testing.assert_close(kept[0, 3:], logits[0, 3:], **EQUAL)
    torch.testing.assert_close(kept[1], logits[1], **EQUAL)


def test_mask_lets_each_part_see_what_it_should(tiny):
    policy = tiny.policy(packing="step")
    text = torch.tensor([[3, 4, 0]])
    allowed = policy.label_mask(text)[0, 0] == 0
    t, q = [True, True, False], 1 + 5
    assert allowed.tolist() == [[*t, False, *[False] * q]] * 3 + [[*t, True, *[False] * q]] + [[*t, True, *[True] * q]] * q
    assert (policy.label_mask(text)[0, 0][~allowed] == MASKED).all()


def test_bins_are_the_action_ids_of_the_vocabulary(tiny):
    policy = tiny.policy()
    hidden = torch.randn(3, policy.config.width)
    first = policy.config.first_action_token
    torch.testing.assert_close(policy.bin_logits(hidden), policy.vocabulary_logits(hidden)[:, first : first + 16], **CLOSE)
