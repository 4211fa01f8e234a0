# SPDX-License-Identifier: Apache-2.0
"""The two-stream block against one masked sequence, written out token by token."""

from __future__ import annotations

import math

import torch

from vla_ros.model.transformer import Block

V, L, B, K = 5, 4, 2, 3


def naive_attention(block: Block, x_SE: torch.Tensor, allowed_SS: torch.Tensor) -> torch.Tensor:
    """Multi-head attention of one sequence by loops over heads and queries."""
    normed = block.norm_attention(x_SE)
    query, (key, value) = block.query(normed), block.key_value(normed).chunk(2, dim=-1)
    size = query.shape[-1] // block.heads
    mixed = torch.zeros_like(x_SE)
    for head in range(block.heads):
        part = slice(head * size, (head + 1) * size)
        for row in range(len(x_SE)):
            seen = allowed_SS[row].nonzero()[:, 0]
            score = torch.stack([query[row, part] @ key[other, part] for other in seen]) / math.sqrt(size)
            weight = score.exp() / score.exp().sum()
            mixed[row, part] = sum(w * value[other, part] for w, other in zip(weight, seen))
    x_SE = x_SE + block.project(mixed)
    hidden = block.expand(block.norm_mlp(x_SE)).clamp_min(0)
    return x_SE + block.contract(hidden)


def make_block(tiny) -> Block:
    torch.manual_seed(0)
    block = Block(tiny.config()).double()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return block


def test_two_streams_equal_one_block_causal_sequence(tiny):
    block = make_block(tiny)
    vision, label = torch.randn(B, V, 32).double(), torch.randn(B * K, L, 32).double()
    hidden = torch.rand(B * K, L, L) < 0.4
    hidden[:, range(L), range(L)] = False
    mask = hidden[:, None].double() * -1e9
    with torch.no_grad():
        next_vision, key, value = block.vision(vision, update=True)
        next_label = block.label(label, key, value, mask)
        for n in range(B * K):
            allowed = torch.zeros(V + L, V + L, dtype=torch.bool)
            allowed[:V, :V] = True
            allowed[V:, :V] = True
            allowed[V:, V:] = ~hidden[n]
            whole = naive_attention(block, torch.cat([vision[n // K], label[n]]), allowed)
            torch.testing.assert_close(next_vision[n // K], whole[:V], rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(next_label[n], whole[V:], rtol=1e-9, atol=1e-9)


def test_queries_from_a_later_token_on_equal_the_full_pass(tiny):
    block = make_block(tiny)
    vision, label, mask = torch.randn(B, V, 32).double(), torch.randn(B * K, L, 32).double(), torch.zeros(B * K, 1, L, L).double()
    with torch.no_grad():
        _, key, value = block.vision(vision, update=False)
        torch.testing.assert_close(block.label(label, key, value, mask, start=2), block.label(label, key, value, mask)[:, 2:])


def test_without_update_vision_features_stay(tiny):
    block = make_block(tiny)
    vision = torch.randn(B, V, 32).double()
    with torch.no_grad():
        kept, key, value = block.vision(vision, update=False)
        _, key_updated, value_updated = block.vision(vision, update=True)
    assert kept is vision
    torch.testing.assert_close(key, key_updated)
    torch.testing.assert_close(value, value_updated)
