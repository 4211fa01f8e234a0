# SPDX-License-Identifier: Apache-2.0
"""The mixture against a loop over tokens, and its balance against the definition."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from vla_ros.core.errors import ConfigError
from vla_ros.model.moe import MixtureFeedForward, MoeConfig, balance_loss, record_routing, utilisation, within_capacity

CLOSE = {"rtol": 1e-9, "atol": 1e-9}


def make(seed: int = 0, activation: str = "gelu", **changes) -> MixtureFeedForward:
    torch.manual_seed(seed)
    mixture = MixtureFeedForward(6, 12, MoeConfig(**{"experts": 4, "top_k": 2, "capacity_factor": 0.0, **changes}), activation).double()
    for parameter in mixture.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return mixture


def by_loop(mixture: MixtureFeedForward, x_TE: torch.Tensor, capacity: float = math.inf) -> torch.Tensor:
    """Token by token: choices first, then the experts fill up in order of choice and token."""
    config, result = mixture.config, torch.zeros_like(x_TE)
    probability = (x_TE @ mixture.router.weight.t()).softmax(-1)
    order = probability.argsort(-1, descending=True)[:, : config.top_k]
    taken = [0] * config.experts
    for choice in range(config.top_k):
        for token in range(len(x_TE)):
            expert = int(order[token, choice])
            taken[expert] += 1
            if taken[expert] > capacity:
                continue
            gate = probability[token, expert]
            if config.top_k > 1:
                gate = gate / probability[token, order[token]].sum()
            hidden = mixture.activation(x_TE[token] @ mixture.expand_XEM[expert] + mixture.expand_bias_XM[expert])
            result[token] += gate * (hidden @ mixture.contract_XME[expert] + mixture.contract_bias_XE[expert])
    return result


@pytest.mark.parametrize("top_k", [1, 2, 4])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_both_sums_equal_the_loop(top_k, activation):
    mixture, x = make(top_k=top_k, activation=activation).eval(), torch.randn(3, 7, 6).double()
    with torch.no_grad():
        expected = by_loop(mixture, x.flatten(0, 1)).view_as(x)
        torch.testing.assert_close(mixture(x), expected, **CLOSE)
        mixture.dense = True
        torch.testing.assert_close(mixture(x), expected, **CLOSE)


@pytest.mark.parametrize("top_k", [1, 2])
def test_in_training_an_expert_takes_no_more_than_its_capacity(top_k):
    mixture, x = make(top_k=top_k, capacity_factor=0.6).train(), torch.randn(21, 6).double()
    with torch.no_grad(), record_routing(mixture) as routings:
        expected = by_loop(mixture, x, mixture.capacity(21))
        torch.testing.assert_close(mixture(x), expected, **CLOSE)
        mixture.dense = True
        torch.testing.assert_close(mixture(x), expected, **CLOSE)
    assert mixture.capacity(21) == math.ceil(0.6 * top_k * 21 / 4)
    # 4 experts with 0.6 of a share each can take 0.6 and a rounding of all choices at most
    assert 1 - 4 * mixture.capacity(21) / (top_k * 21) <= float(routings[0].dropped) < 1


def test_in_evaluation_a_token_does_not_depend_on_its_neighbours():
    mixture, x = make(capacity_factor=0.3).eval(), torch.randn(9, 6).double()
    with torch.no_grad():
        together = mixture(x)
        alone = torch.cat([mixture(x[row : row + 1]) for row in range(9)])
    torch.testing.assert_close(together, alone, **CLOSE)


@given(st.integers(0, 10_000), st.integers(1, 3), st.integers(1, 12), st.integers(1, 6))
def test_first_choices_come_before_second_ones(seed, choices, tokens, capacity):
    generator = torch.Generator().manual_seed(seed)
    expert = torch.stack([torch.randperm(4, generator=generator)[:choices] for _ in range(tokens)])
    chosen = F.one_hot(expert, 4).transpose(0, 1).float()
    kept = chosen * within_capacity(chosen, capacity)
    for x in range(4):
        asked = [(choice, token) for choice in range(choices) for token in range(tokens) if expert[token, choice] == x]
        got = [(choice, token) for choice in range(choices) for token in range(tokens) if kept[choice, token, x] > 0]
        assert got == asked[:capacity]


def test_the_balance_loss_is_switchs():
    mixture, x = make(top_k=1).train(), torch.randn(50, 6).double()
    with record_routing(mixture) as routings:
        mixture(x)
    probability = (x @ mixture.router.weight.t()).softmax(-1)
    load = torch.stack([(probability.argmax(-1) == expert).double().mean() for expert in range(4)])
    torch.testing.assert_close(balance_loss(routings), 4 * (load * probability.mean(0)).sum(), **CLOSE)
    torch.testing.assert_close(routings[0].load_X, load, **CLOSE)


def test_an_even_router_has_balance_one_and_uses_every_expert():
    mixture, x = make(top_k=1, experts=2).eval(), torch.randn(400, 6).double()
    with torch.no_grad():
        mixture.router.weight.copy_(torch.stack([torch.eye(6)[0], -torch.eye(6)[0]]) * 1e-6)
    x = torch.cat([x, -x])  # exactly as many on one side as on the other
    with record_routing(mixture) as routings:
        mixture(x)
    assert float(balance_loss(routings).detach()) == pytest.approx(1.0, abs=1e-5)
    used = utilisation(routings)
    assert used["experts_used"] == pytest.approx(2.0)
    assert used["busiest_expert"] == pytest.approx(0.5)
    assert used["dropped"] == 0.0


def test_the_balance_loss_spreads_tokens_that_would_all_go_to_one_expert():
    mixture, x = make(top_k=1).train(), torch.randn(200, 6).double().abs()
    with torch.no_grad():
        mixture.router.weight.copy_(torch.tensor([2.0, 0.0, 0.0, 0.0])[:, None] + 0.1 * torch.randn(4, 6))
    optimizer = torch.optim.Adam([mixture.router.weight], lr=0.05)
    used = []
    for _ in range(150):
        with record_routing(mixture) as routings:
            mixture(x)
        used.append(utilisation(routings)["experts_used"])
        optimizer.zero_grad()
        balance_loss(routings).backward()
        optimizer.step()
    assert used[0] < 1.1 and max(used[-20:]) > 2.5, used[::25]


@pytest.mark.parametrize("top_k", [1, 2])
def test_gradients_reach_everything_and_agree_between_the_sums(top_k):
    grads = []
    for dense in (False, True):
        mixture = make(top_k=top_k, experts=2)
        mixture.dense = dense
        mixture(torch.randn(40, 6, generator=torch.Generator().manual_seed(1)).double()).square().sum().backward()
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in mixture.parameters())
        grads.append([parameter.grad for parameter in mixture.parameters()])
    for sparse, dense in zip(*grads):
        torch.testing.assert_close(sparse, dense, rtol=1e-8, atol=1e-8)


def test_an_expert_without_tokens_is_no_fault():
    mixture = make(top_k=1)
    with torch.no_grad():
        mixture.router.weight.zero_()
        mixture.router.weight[0] = 1.0
    x = torch.rand(5, 6).double()
    mixture(x).sum().backward()
    assert mixture.expand_XEM.grad[0].any() and not mixture.expand_XEM.grad[1:].any()


def test_routing_is_recorded_inside_the_with_only():
    mixture = make()
    with record_routing(torch.nn.Sequential(mixture)) as routings:
        mixture(torch.randn(2, 6).double())
    mixture(torch.randn(2, 6).double())
    assert len(routings) == 1 and mixture.routings is None


def test_overfits_one_batch():
    torch.manual_seed(0)
    mixture, x = MixtureFeedForward(6, 24, MoeConfig(experts=4, top_k=2)).train(), torch.randn(32, 6)
    target = torch.randn(32, 6)
    optimizer = torch.optim.Adam(mixture.parameters(), lr=1e-2)
    losses = []
    for _ in range(400):
        with record_routing(mixture) as routings:
            error = (mixture(x) - target).square().mean()
        optimizer.zero_grad()
        (error + 0.01 * balance_loss(routings)).backward()
        optimizer.step()
        losses.append(float(error.detach()))
    assert losses[-1] < 0.2 * losses[0], losses[::80]


@pytest.mark.parametrize(("changes", "words"), [({"experts": 1}, "at least 2 experts"), ({"top_k": 5}, "top_k"), ({"capacity_factor": -1.0}, "capacity_factor")])
def test_wrong_settings_are_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        make(**changes)
