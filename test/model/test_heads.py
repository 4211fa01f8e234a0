# SPDX-License-Identifier: Apache-2.0
"""Continuous heads against the analytic flow between Gaussians, the median, and the action tokens' own bins; touch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vla_ros.core.action import ActionDim, ActionSpec
from vla_ros.core.action_tokens import ActionTokenizer
from vla_ros.core.errors import ConfigError
from vla_ros.core.tabletop import ACTION_SPEC
from vla_ros.model.heads import HEADS, FlowHead, RegressionHead, TouchEncoder, integrate, logits_of_actions, make_action_head, weighted_mean

WIDTH = 24


def spec_of(low: float = -2.0, high: float = 2.0, horizon: int = 1) -> ActionSpec:
    dim = ActionDim(name="x", kind="translation", unit="m", frame="base_link", relative=True, low=low, high=high)
    return ActionSpec(dims=(dim,), horizon=horizon, dt_s=0.2)


def random_actions(count: int, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.uniform(ACTION_SPEC.low_D, ACTION_SPEC.high_D, (count, *ACTION_SPEC.shape)).astype(np.float32))


@pytest.mark.parametrize("kind", HEADS)
def test_shapes_bounds_and_gradients(kind):
    torch.manual_seed(0)
    head = make_action_head(kind, ACTION_SPEC, WIDTH)
    feature = torch.randn(7, ACTION_SPEC.horizon, WIDTH, requires_grad=True)
    answer = head(3.0 * feature)
    assert answer.shape == (7, *ACTION_SPEC.shape)
    for row in answer.detach().double().numpy():
        assert (row >= ACTION_SPEC.low_D - 1e-6).all() and (row <= ACTION_SPEC.high_D + 1e-6).all()
    head.loss(feature, random_actions(7)).backward()
    assert feature.grad.any()
    without = [name for name, parameter in head.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert not without


@pytest.mark.parametrize("kind", HEADS)
def test_units_survive_the_scaling(kind):
    head, actions = make_action_head(kind, ACTION_SPEC, WIDTH), random_actions(20)
    torch.testing.assert_close(head.denormalise(head.normalise(actions)), actions, rtol=1e-5, atol=1e-6)
    assert head.normalise(torch.tensor(ACTION_SPEC.low_D)).tolist() == pytest.approx([-1.0] * 6)
    assert head.normalise(torch.tensor(ACTION_SPEC.high_D)).tolist() == pytest.approx([1.0] * 6)


@pytest.mark.parametrize("kind", HEADS)
def test_overfits_one_batch(kind):
    torch.manual_seed(0)
    head, feature, actions = make_action_head(kind, ACTION_SPEC, 64), torch.randn(4, ACTION_SPEC.horizon, 64), random_actions(4)
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
    before = (head.normalise(head(feature)) - head.normalise(actions)).abs().mean()
    for _ in range(600):
        optimizer.zero_grad()
        head.loss(feature, actions).backward()
        optimizer.step()
    after = (head.normalise(head(feature)) - head.normalise(actions)).abs().mean()
    assert after < 0.25 * before, (float(before), float(after))


def test_regression_answers_the_median():
    """Two thirds of the demonstrations say 1, one third says -1: the mean absolute error is least at 1, the mean is 1/3."""
    torch.manual_seed(0)
    head, feature = RegressionHead(spec_of(), WIDTH), torch.zeros(3, 1, WIDTH)
    actions = torch.tensor([1.0, 1.0, -1.0]).view(3, 1, 1)
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    for _ in range(400):
        optimizer.zero_grad()
        head.loss(feature, actions).backward()
        optimizer.step()
    assert float(head(feature).mean().detach()) == pytest.approx(1.0, abs=0.05)


def test_flow_answers_with_one_of_two_ways_and_not_between():
    torch.manual_seed(0)
    head = FlowHead(spec_of(), 64, steps=20)
    actions = torch.tensor([1.0, -1.0]).repeat(64).view(128, 1, 1)
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
    for _ in range(500):
        optimizer.zero_grad()
        head.loss(torch.zeros(128, 1, 64), actions).backward()
        optimizer.step()
    with torch.no_grad():
        drawn = head.sample(torch.zeros(500, 1, 64), torch.randn(500, 1, 1)).flatten()
    assert ((drawn.abs() - 1.0).abs() < 0.35).float().mean() > 0.85
    assert 0.35 < (drawn > 0).float().mean() < 0.65


def test_integration_follows_the_analytic_flow_between_gaussians():
    """For actions N(m, s^2) and noise N(0, 1) the best velocity is known, and it carries noise z to m + s z exactly.

    x_t has mean t m and variance v = (1-t)^2 + t^2 s^2; E[action - noise | x_t] = m + (t s^2 - (1 - t)) (x - t m) / v.
    """
    mean, deviation = 0.7, 0.3

    def velocity(x, time):
        t = time[:, None, None]
        variance = (1 - t) ** 2 + (t * deviation) ** 2
        return mean + (t * deviation**2 - (1 - t)) * (x - t * mean) / variance

    noise = torch.linspace(-2, 2, 9).double().view(9, 1, 1)
    coarse, fine = ((integrate(velocity, noise, steps) - (mean + deviation * noise)).abs().max() for steps in (100, 200))
    assert coarse < 0.05
    assert 0.4 < fine / coarse < 0.6  # Euler's error halves with the step


def test_flow_starts_from_noise_that_is_saved_with_the_weights():
    torch.manual_seed(0)
    head = FlowHead(ACTION_SPEC, WIDTH)
    other = FlowHead(ACTION_SPEC, WIDTH)
    other.load_state_dict(head.state_dict())
    feature = torch.randn(3, ACTION_SPEC.horizon, WIDTH)
    assert torch.equal(head(feature), head(feature))
    assert torch.equal(head(feature), other(feature))


def test_committed_steps_carry_no_loss():
    torch.manual_seed(0)
    head, feature, actions = RegressionHead(ACTION_SPEC, WIDTH), torch.randn(3, 5, WIDTH), random_actions(3)
    weight = torch.ones(3, 5)
    weight[:, :2] = 0
    other = actions.clone()
    other[:, :2] = random_actions(3, seed=9)[:, :2]
    torch.testing.assert_close(head.loss(feature, actions, weight), head.loss(feature, other, weight))
    torch.testing.assert_close(head.loss(feature, actions, weight), head.loss(feature[:, 2:], actions[:, 2:]))
    assert float(weighted_mean(torch.ones(2, 3), torch.zeros(2, 3))) == 0.0


@given(st.integers(0, 10_000))
def test_logits_choose_the_bin_of_the_action_tokens(seed):
    actions = random_actions(2, seed).double()
    spec = ACTION_SPEC
    logits = logits_of_actions(actions, torch.tensor(spec.low_D), torch.tensor(spec.high_D), spec.num_bins)
    assert logits.shape == (2, spec.num_tokens, spec.num_bins)
    expected = ActionTokenizer(spec, 100).actions_to_bins(actions.numpy()).reshape(2, -1)
    np.testing.assert_array_equal(logits.argmax(-1).numpy(), expected)


def test_logits_at_the_bounds_are_the_outer_bins():
    spec = ACTION_SPEC
    bounds = torch.tensor(np.stack([spec.low_D, spec.high_D]))[:, None].expand(-1, spec.horizon, -1)
    bins = logits_of_actions(bounds, torch.tensor(spec.low_D), torch.tensor(spec.high_D), spec.num_bins).argmax(-1)
    assert bins[0].unique().tolist() == [0] and bins[1].unique().tolist() == [spec.num_bins - 1]


def test_touch_that_was_not_measured_or_is_withheld_gets_the_stand_in():
    torch.manual_seed(0)
    touch = TouchEncoder(2, WIDTH)
    force = torch.tensor([[0.0, 3.0], [math.nan, 3.0], [5.0, 5.0]])
    token = touch(force, torch.tensor([False, False, True]))
    assert token.shape == (3, WIDTH) and token.isfinite().all()
    assert torch.equal(token[1], touch.none_E) and torch.equal(token[2], touch.none_E)
    assert not torch.equal(token[0], touch.none_E)
    token.square().sum().backward()
    assert all(parameter.grad.isfinite().all() and parameter.grad.any() for parameter in touch.parameters())


def test_touch_reads_a_signed_logarithm_of_newtons():
    torch.manual_seed(0)
    touch = TouchEncoder(2, WIDTH, unit_n=0.5)
    force = torch.tensor([[-4.0, 0.25]])
    expected = touch.layers(torch.tensor([[-math.log(9.0), math.log(1.5)]]))
    torch.testing.assert_close(touch(force), expected)


def test_touch_overfits_one_batch():
    """A soft touch, a grip and none must be told apart, two decades of force."""
    torch.manual_seed(0)
    touch, read = TouchEncoder(2, WIDTH), torch.nn.Linear(WIDTH, 3)
    force, wanted = torch.tensor([[0.0, 0.0], [0.2, 0.1], [20.0, 18.0]]), torch.arange(3)
    optimizer = torch.optim.Adam([*touch.parameters(), *read.parameters()], lr=1e-2)
    for _ in range(200):
        loss = torch.nn.functional.cross_entropy(read(touch(force)), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.05


@pytest.mark.parametrize(
    ("make", "words"),
    [(lambda: make_action_head("mse", ACTION_SPEC, 8), "l1, flow"), (lambda: FlowHead(ACTION_SPEC, 8, steps=0), "at least 1 step"), (lambda: TouchEncoder(0, 8), "at least 1 entry")],
)
def test_wrong_settings_are_refused(make, words):
    with pytest.raises(ConfigError, match=words):
        make()
