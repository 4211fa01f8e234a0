# SPDX-License-Identifier: Apache-2.0
"""What one training step minimises: lambda_lang L_lang + lambda_vision L_vision + lambda_action L_action (RT-2's co-training).

L_lang are the plan's words and place (`loss.plan`) and the answers to questions (`loss.language`), L_vision what the cells of the
picture show (`loss.vision`), L_action the action tokens (`loss.action`) and the continuous head (`loss.continuous`). A mixture
of experts adds its load balance (`loss.balance`).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vla_ros.model.moe import balance_loss, record_routing, utilisation
from vla_ros.model.policy import Policy, PolicyOutput
from vla_ros.train.config import LossConfig
from vla_ros.train.data import Batch
from vla_ros.train.losses import PolicyLoss
from vla_ros.train.parallel import Processes
from vla_ros.train.questions import answer_loss


def forward_policy(model: Policy, batch: Batch, told_N2: Tensor | None = None) -> PolicyOutput:
    """The policy's output for a batch."""
    return model(batch.images, batch.text_NT, batch.proprio_BS, batch.prefix_NQ, batch.withheld_B, told_N2, batch.touch_BP, batch.given_NQ)


def policy_objective(
    model: Policy, loss: PolicyLoss, config: LossConfig, batch: Batch, told_N2: Tensor | None, processes: Processes
) -> tuple[Tensor, dict[str, Any]]:
    """The weighted sum for a batch, and its parts by name, unweighted."""
    further: dict[str, Tensor] = {}
    with record_routing(model) as routings:
        output = forward_policy(model, batch, told_N2)
        total, parts = loss(output, batch)
        if model.action_head is not None:
            further["continuous"] = continuous_loss(model, output, batch, processes)
        if batch.questions is not None:
            answered = answer_loss(model, batch.questions, processes)
            further["language"] = answered.language
            if model.eye is not None:
                further["objects"] = answered.objects
    if routings:
        further["balance"] = balance_loss(routings)
        parts |= utilisation(routings)
    for name, part in further.items():
        total = total + getattr(config, name) * part
        parts[name] = part.detach()
    return total, {**parts, "total": total.detach()}


def continuous_loss(model: Policy, output: PolicyOutput, batch: Batch, processes: Processes) -> Tensor:
    """The continuous head's loss over free steps; it answers relative to where the committed ones end, as the tokens do."""
    free_NH = (~batch.committed_NH).float()
    part = model.action_head.loss(output.step_NHE, batch.actions_NHD - output.shift_NHD, free_NH)
    return part * free_NH.sum() / processes.mean(free_NH.sum())
