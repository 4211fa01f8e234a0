# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_ros.core.tabletop import PROMPT_TEMPLATE
from vla_ros.model.policy import PolicyOutput
from vla_ros.train.config import DataConfig, LossConfig
from vla_ros.train.data import BatchMaker, Dataset
from vla_ros.train.losses import Metrics, PolicyLoss, smooth_targets
from vla_ros.train.tokenizer import train_tokenizer


@pytest.fixture
def setting(dataset_folder):
    dataset = Dataset([dataset_folder], val_fraction=0.3)
    config = DataConfig(frames_per_batch=3, labels_per_frame=2)
    maker = BatchMaker(dataset, train_tokenizer(dataset.instructions(), PROMPT_TEMPLATE), config, 0)
    return dataset.meta, maker.training_batch(1), PolicyLoss(dataset.meta, LossConfig())


def random_output(batch, seed=0) -> PolicyOutput:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    labels, frames = len(batch.text_NT), len(batch.proprio_BS)
    return PolicyOutput(
        action_NQA=draw(labels, 30, 256), phase_NC=draw(labels, 3), point_N2A=draw(labels, 2, 256), pointed_N2=draw(labels, 2),
        vision_BVC=draw(frames, 64, 5), offset_BV2=draw(frames, 64, 2).sigmoid(), step_NHE=draw(labels, 5, 1), shift_NHD=draw(labels, 5, 6),
    )


def perfect_output(meta, batch) -> PolicyOutput:
    """Logits that put everything on the right bins."""
    spec = meta.action
    low, width = torch.tensor(spec.low_D), torch.tensor((spec.high_D - spec.low_D) / 256)
    bins = ((batch.actions_NHD - low) / width).floor().clamp(0, 255).long()
    points = (batch.point_N2 * 256).long().clamp(0, 255)
    return PolicyOutput(
        action_NQA=50.0 * torch.nn.functional.one_hot(bins.flatten(1), 256),
        phase_NC=50.0 * torch.nn.functional.one_hot(batch.phase_N, 3),
        point_N2A=50.0 * torch.nn.functional.one_hot(points, 256),
        pointed_N2=batch.point_N2,
        vision_BVC=100.0 * batch.seen_BVC - 50.0,
        offset_BV2=batch.offset_BV2,
        step_NHE=torch.zeros(len(batch.phase_N), 5, 1),
        shift_NHD=torch.zeros_like(batch.actions_NHD),
    )


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 256), st.floats(0.5, 4))
def test_smooth_targets_are_a_gaussian_cut_at_the_bounds(position, sigma):
    target = smooth_targets(torch.tensor([position], dtype=torch.float64), sigma, 256)[0].numpy()
    assert target.sum() == pytest.approx(1.0)
    fine = np.linspace(0, 256, 256 * 50 + 1)
    middle = (fine[1:] + fine[:-1]) / 2
    density = np.exp(-0.5 * ((middle - position) / sigma) ** 2)  # midpoint rule, 50 points a bin: error below 1e-4
    assert target == pytest.approx((density / density.sum()).reshape(256, 50).sum(1), abs=2e-4)


def test_action_loss_equals_a_loop_over_tokens(setting):
    meta, batch, loss = setting
    output = random_output(batch)
    spec, total, weights = meta.action, 0.0, 0.0
    log_prob = output.action_NQA.double().log_softmax(-1).view(-1, 5, 6, 256)
    for n, h, d in np.ndindex(*batch.actions_NHD.shape):
        if batch.committed_NH[n, h]:
            continue
        weight = 1.5 if h - int(batch.committed_NH[n].sum()) < 2 else 1.0
        dim = spec.dims[d]
        position = (float(batch.actions_NHD[n, h, d]) - dim.low) / (dim.high - dim.low) * 256
        if dim.kind in ("terminate", "gripper"):
            entropy = -log_prob[n, h, d, min(int(position), 255)]
        else:
            entropy = -(smooth_targets(torch.tensor(position, dtype=torch.float64), 1.5, 256) * log_prob[n, h, d]).sum()
        total, weights = total + weight * float(entropy), weights + weight
    assert float(loss.action(output, batch)) == pytest.approx(total / weights, rel=1e-5)


def test_committed_steps_carry_no_loss(setting):
    _, batch, loss = setting
    assert batch.committed_NH.any()
    output = random_output(batch)
    logits = output.action_NQA.clone().view(-1, 5, 6, 256)
    logits[batch.committed_NH] += torch.randn(256)
    changed = replace(output, action_NQA=logits.view(-1, 30, 256))
    assert torch.equal(loss.action(output, batch), loss.action(changed, batch))


def test_a_perfect_answer_has_small_errors(setting):
    meta, batch, loss = setting
    metrics = Metrics(meta)
    output = perfect_output(meta, batch)
    metrics.add(output, batch)
    result = metrics.result()
    assert all(result[name] == 1.0 for name in result if name.endswith(("accuracy", "recall", "precision")))
    for dim in meta.action.dims[1:]:
        unit = "mrad" if dim.unit == "rad" else "mm"
        assert result[f"{dim.name}_{unit}"] <= 500 * dim.bin_width * (1 + 1e-5)  # half a bin
    assert result["place_mm"] < 2.5 and result["pointed_mm"] == 0.0
    assert float(loss.vision(output, batch)) == pytest.approx(0.0, abs=1e-5)


def test_metrics_average_over_batches_by_their_size(setting):
    meta, batch, _ = setting
    half = replace(
        batch,
        **{name: value[: len(value) // 3 * 2] for name, value in vars(batch).items() if isinstance(value, torch.Tensor)},
    )
    output = random_output(batch)
    part = PolicyOutput(**{name: value[: len(value) // 3 * 2] for name, value in vars(output).items()})
    both, one, other = Metrics(meta), Metrics(meta), Metrics(meta)
    both.add(output, batch)
    both.add(part, half)
    one.add(output, batch)
    other.add(part, half)
    weight, rest = (int((~b.committed_NH).sum()) for b in (batch, half))
    mean = (weight * one.result()["x_mm"] + rest * other.result()["x_mm"]) / (weight + rest)
    assert both.result()["x_mm"] == pytest.approx(mean)


def test_metrics_leave_out_committed_steps(setting):
    meta, batch, _ = setting
    output = random_output(batch)
    logits = output.action_NQA.clone().view(-1, 5, 6, 256)
    logits[batch.committed_NH] += torch.randn(256)
    one, other = Metrics(meta), Metrics(meta)
    one.add(output, batch)
    other.add(replace(output, action_NQA=logits.view(-1, 30, 256)), batch)
    assert one.result() == other.result()


def test_parts_add_up_with_their_weights(setting):
    meta, batch, _ = setting
    output = random_output(batch)
    total, parts = PolicyLoss(meta, LossConfig(action=2.0, plan=0.5, vision=0.25))(output, batch)
    assert float(total) == pytest.approx(2 * float(parts["action"]) + 0.5 * float(parts["plan"]) + 0.25 * float(parts["vision"]), rel=1e-6)
