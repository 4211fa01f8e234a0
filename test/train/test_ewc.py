# SPDX-License-Identifier: Apache-2.0
"""Fisher information of models for which it is known, and linear regression, where consolidation equals learning both tasks at once."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from vla_ros.core.errors import ConfigError
from vla_ros.train.ewc import Consolidation, EwcPenalty, consolidate, diagonal_fisher, sampled_log_likelihood


def linear(width: int = 3) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(width, 1, bias=False).double()


def gaussian_log_likelihoods(model, x, y):
    """ln p of each sample with unit variance, apart from its constant."""
    for x_row, y_row in zip(x, y):
        yield -0.5 * (model(x_row)[0] - y_row).square()


def test_fisher_of_a_logistic_model():
    """Answers drawn from the model have E[((y - p) x)^2] = p (1 - p) x^2."""
    torch.manual_seed(0)
    model = linear(2)
    x = torch.randn(4, 2).double()
    draws = 4000

    def log_likelihoods():
        for index in range(draws):
            logit = model(x[index % 4])[0]
            y = torch.bernoulli(logit.detach().sigmoid())
            yield y * nn.functional.logsigmoid(logit) + (1 - y) * nn.functional.logsigmoid(-logit)

    with torch.no_grad():
        p = model(x).sigmoid()
        expected = (p * (1 - p) * x.square()).mean(0)
    got = diagonal_fisher(model, log_likelihoods())["weight"][0]
    # a squared score is at most x^2, so that the mean's deviation is below max(x^2) / 2 / sqrt(draws)
    assert ((got - expected).abs() < 5 * x.square().amax(0) / 2 / draws**0.5).all()


def test_fisher_is_the_mean_of_each_samples_squared_gradient():
    model = linear()
    x, y = torch.randn(10, 3).double(), torch.randn(10).double()
    with torch.no_grad():
        expected = ((y - model(x)[:, 0])[:, None] * x).square().mean(0)
    torch.testing.assert_close(diagonal_fisher(model, gaussian_log_likelihoods(model, x, y))["weight"][0], expected)
    assert model.weight.grad is None


def test_consolidated_regression_equals_learning_both_tasks_at_once():
    """With orthogonal inputs the Fisher information is diagonal and, for a Gaussian answer of unit variance, X^T X / n: exact."""
    torch.manual_seed(1)
    x_a = torch.linalg.qr(torch.randn(20, 3).double())[0] * torch.tensor([3.0, 1.0, 0.2])
    x_b, y_a, y_b = torch.randn(15, 3).double(), torch.randn(20).double(), torch.randn(15).double()
    model = linear()
    with torch.no_grad():
        model.weight[0] = torch.linalg.lstsq(x_a, y_a[:, None]).solution[:, 0]
    drawn = torch.randn(400, 20).double()  # answers of the model itself: its mean and noise of unit variance

    def log_likelihoods():
        for noise in drawn:
            for x_row, off in zip(x_a, noise):
                mean = model(x_row)[0]
                yield -0.5 * (mean - mean.detach() - off).square()

    memory = consolidate(model, log_likelihoods())
    exact = {"weight": (x_a.square().sum(0) / 20)[None]}
    torch.testing.assert_close(memory.fisher["weight"], exact["weight"], rtol=0.1, atol=0.0)
    penalty = EwcPenalty(Consolidation(fisher=exact, anchor=memory.anchor), strength=20.0)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=1.0, max_iter=100, tolerance_grad=1e-12, tolerance_change=1e-14)

    def closure():
        optimizer.zero_grad()
        loss = 0.5 * (model(x_b)[:, 0] - y_b).square().sum() + penalty(model)
        loss.backward()
        return loss

    optimizer.step(closure)
    joint = torch.linalg.lstsq(torch.cat([x_a, x_b]), torch.cat([y_a, y_b])[:, None]).solution[:, 0]
    torch.testing.assert_close(model.weight[0].detach(), joint, rtol=1e-6, atol=1e-8)


def test_a_network_forgets_less_with_the_penalty():
    """Two tasks that use different inputs: without the penalty the second spoils the first."""
    def trained(strength):
        torch.manual_seed(2)
        model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))
        x_a = torch.cat([torch.randn(64, 2), torch.zeros(64, 2)], dim=1)
        x_b = torch.cat([torch.zeros(64, 2), torch.randn(64, 2)], dim=1)
        y_a, y_b = x_a.sum(1, keepdim=True).sin(), 2.0 + x_b.sum(1, keepdim=True)
        _fit(model, lambda: (model(x_a) - y_a).square().mean())
        learned = float((model(x_a) - y_a).square().mean().detach())
        memory = consolidate(model, (-0.5 * (model(x)[0] - model(x)[0].detach() - torch.randn(())).square() for x in x_a))
        penalty = EwcPenalty(memory, strength)
        _fit(model, lambda: (model(x_b) - y_b).square().mean() + penalty(model))
        return learned, float((model(x_a) - y_a).square().mean().detach())

    learned, forgotten = trained(0.0)
    _, kept = trained(1000.0)
    assert learned < 0.05 and forgotten > 0.5
    assert kept < 0.3 * forgotten


def _fit(model, loss_of) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        loss_of().backward()
        optimizer.step()


def test_penalty_and_its_gradient():
    model = linear()
    memory = Consolidation(fisher={"weight": torch.tensor([[1.0, 2.0, 0.0]]).double()}, anchor={"weight": torch.zeros(1, 3).double()})
    value = EwcPenalty(memory, 3.0)(model)
    value.backward()
    weight = model.weight.detach()
    torch.testing.assert_close(value.detach(), 1.5 * (memory.fisher["weight"] * weight**2).sum())
    torch.testing.assert_close(model.weight.grad, 3.0 * memory.fisher["weight"] * weight)


def test_information_of_several_tasks_adds_up():
    first = Consolidation(fisher={"w": torch.tensor([1.0, 2.0])}, anchor={"w": torch.zeros(2)})
    second = Consolidation(fisher={"w": torch.tensor([10.0, 0.0])}, anchor={"w": torch.ones(2)})
    joined = first.joined(second, decay=0.5)
    assert joined.fisher["w"].tolist() == [10.5, 1.0] and joined.anchor["w"].tolist() == [1.0, 1.0]


def test_a_drawn_answer_has_the_score_of_its_distribution():
    """The score has mean 0 and, for each logit, variance p (1 - p)."""
    torch.manual_seed(0)
    logits, said = torch.randn(1, 1, 4, requires_grad=True), torch.randn(1, 2, 3, requires_grad=True)
    other = torch.zeros(1, 2)
    scores, said_scores = [], []
    for _ in range(3000):
        output = SimpleNamespace(action_NQA=logits, phase_NC=other, point_N2A=other[:, None], vision_BVC=said)
        score, said_score = torch.autograd.grad(sampled_log_likelihood(output), (logits, said))
        scores.append(score.flatten())
        said_scores.append(said_score.flatten())
    for drawn, p in ((torch.stack(scores), logits.detach().softmax(-1).flatten()), (torch.stack(said_scores), said.detach().sigmoid().flatten())):
        # deviations: of a mean at most 0.5 / sqrt(3000) = 0.009, of a variance no more
        assert drawn.mean(0).abs().max() < 0.045
        torch.testing.assert_close(drawn.square().mean(0), p * (1 - p), rtol=0, atol=0.045)


def test_what_cannot_be_consolidated_is_refused():
    model = linear()
    with pytest.raises(ConfigError, match="at least one sample"):
        diagonal_fisher(model, [])
    memory = Consolidation(fisher={"weight": torch.ones(1, 5)}, anchor={"weight": torch.ones(1, 5)})
    with pytest.raises(ConfigError, match=r"weight is remembered with shape \[1, 5\]"):
        EwcPenalty(memory, 1.0)(model)
    with pytest.raises(ConfigError, match="must not be negative"):
        EwcPenalty(memory, -1.0)
