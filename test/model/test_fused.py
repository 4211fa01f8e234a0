# SPDX-License-Identifier: Apache-2.0
"""The exported block answers as the trained one, in PyTorch and as a graph."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from vla_ros.export import ExportedPolicy, fuse_attention, write_graph
from vla_ros.model.attention import MASKED
from vla_ros.model.fused import FusedBlock
from vla_ros.model.fused import MASKED as FUSED_MASKED
from vla_ros.model.transformer import Block, Source

onnx = pytest.importorskip("onnx")

V, L = 7, 5
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture
def pair(tiny):
    """A block with large weights, and the fused one."""
    torch.manual_seed(0)
    block = Block(tiny.config())
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return block, FusedBlock(block)


@pytest.fixture
def streams():
    torch.manual_seed(1)
    hidden_LL = torch.rand(L, L) < 0.4
    hidden_LL[range(L), range(L)] = False
    return torch.randn(1, V, 32), torch.randn(1, L, 32), hidden_LL[None, None].float() * MASKED


@pytest.mark.parametrize("start", [0, 3])
@pytest.mark.parametrize("update", [True, False])
def test_both_streams_are_the_same(pair, streams, start, update):
    vision, label, mask = streams
    with torch.no_grad():
        (vision_a, *kept_a), (vision_b, *kept_b) = (block.vision(vision, update) for block in pair)
        label_a, label_b = (block.label(label, *kept, mask, start) for block, kept in zip(pair, (kept_a, kept_b)))
    torch.testing.assert_close(vision_b, vision_a, **CLOSE)
    torch.testing.assert_close(label_b, label_a, **CLOSE)


def test_one_more_token_is_the_same(pair, streams):
    vision, label, mask = streams
    answers = []
    with torch.no_grad():
        for block in pair:
            _, key, value = block.vision(vision, update=False)
            own = block.keys_values(label)
            sources = [Source(key=key, value=value), Source(key=own[0], value=own[1], mask_N11S=mask[:, :, -1:])]
            answers.append(block.extend(label[:, :1], sources)[0])
    torch.testing.assert_close(answers[1], answers[0], **CLOSE)


def test_a_masked_token_changes_nothing_even_if_its_score_is_large(pair, streams):
    """The mask is small so that no weight is denormal; it must still leave nothing of what is masked, where its score is 30 above all others."""
    vision, label, _ = streams
    fused, rows = pair[1], [0, 1, 3, 4]
    hidden = torch.zeros(1, 1, L, L)
    hidden[..., 2] = MASKED
    with torch.no_grad():
        _, key, value = fused.vision(vision, update=False)
        query = fused.query(fused.norm_attention(label))[0, rows].unflatten(-1, (fused.heads, -1))
        keys, values = fused.keys_values(label)
        towards = torch.linalg.pinv(query.transpose(0, 1)) @ torch.ones(fused.heads, len(rows), 1)  # a key that all of them like equally
        best = max(float((query.flatten(1) @ x[0].T).abs().max()) for x in (key, keys))
        strong = keys.clone()
        strong[0, 2] = ((best + 30.0) / fused.scale * towards[..., 0]).flatten()
        assert float((query.flatten(1) @ strong[0, 2]).min()) * fused.scale > 30.0
        answers = []
        for changed in (keys, strong):
            fused._keys_values = lambda _, k=changed: (k, 100.0 * values)
            answers.append(fused.label(label, key, value, hidden)[:, rows])
    torch.testing.assert_close(answers[1], answers[0], rtol=1e-6, atol=1e-5)
    assert np.float32(np.exp(FUSED_MASKED)) > np.finfo(np.float32).tiny * 1e10


@pytest.mark.parametrize("model", [{}, {"decoding": "autoregressive"}, {"feed_forward": "moe", "experts": 2}])
def test_a_graph_attends_by_one_operator_and_answers_as_the_policy(tiny, tmp_path, model):
    import onnxruntime as ort

    policy = tiny.policy(**model).eval()
    inputs = tiny.inputs(policy.config, frames=1, labels=1)
    arrays = {f"image_{name}": picture.numpy() for name, picture in inputs["images"].items()}
    text_1T = np.zeros((1, policy.config.text_tokens), np.int64)
    text_1T[:, : inputs["text_NT"].shape[1]] = inputs["text_NT"].numpy()
    arrays |= {"text_ids": text_1T, "proprio": inputs["proprio_BS"].numpy(), "prefix_tokens": inputs["prefix_NQ"].numpy()}
    write_graph(ExportedPolicy(fuse_attention(copy.deepcopy(policy))).eval(), arrays, ["action_logits", "plan_tokens"], tmp_path / "policy.onnx")
    kinds = [node.op_type for node in onnx.load(tmp_path / "policy.onnx").graph.node]
    positions = policy.config.num_action_tokens // policy.config.tokens_per_position
    steps = 0 if policy.config.decoding == "parallel" else positions
    assert kinds.count("Attention") == policy.config.vision_depth + policy.config.depth * (1 + steps)
    with torch.inference_mode():
        logits, plan = ExportedPolicy(policy)(*map(torch.from_numpy, arrays.values()))
    answer = ort.InferenceSession(tmp_path / "policy.onnx", providers=["CPUExecutionProvider"]).run(None, arrays)
    np.testing.assert_allclose(answer[0], logits.numpy(), atol=2e-3)
    np.testing.assert_array_equal(answer[1], plan.numpy())


def test_the_trained_policy_stays_as_it_was(tiny):
    policy = tiny.policy()
    fused = fuse_attention(copy.deepcopy(policy))
    assert all(type(block) is Block for block in policy.blocks) and all(type(block) is FusedBlock for block in fused.blocks)
    assert list(fused.state_dict()) == list(policy.state_dict())
