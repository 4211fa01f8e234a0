# SPDX-License-Identifier: Apache-2.0
"""Training loss and validation metrics.

L = w_action * L_action + w_plan * L_plan + w_vision * L_vision. Axes as in `vla_ros.train.data`; A bins.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from vla_ros.core.action import ActionSpec
from vla_ros.model.policy import PolicyOutput, Seen
from vla_ros.train.config import LossConfig
from vla_ros.train.data import Batch
from vla_ros.train.parallel import Processes
from vla_ros.train.shards import DatasetMeta

SHARP_KINDS = ("terminate", "gripper")  # two-valued in practice: a smoothed target would only blur the decision


def smooth_targets(position: Tensor, sigma_bins: float, num_bins: int) -> Tensor:
    """Probabilities of the bins under a Gaussian around `position`, cut at the bounds (HL-Gauss, arXiv 2403.03950).

    Args:
        position: any shape; in bins from the lower bound, 0..num_bins.
        sigma_bins: standard deviation in bins.

    Returns:
        [..., num_bins], rows sum to 1.
    """
    edge_A = torch.arange(num_bins + 1, dtype=position.dtype, device=position.device)
    cumulative = torch.erf((edge_A - position[..., None]) / (math.sqrt(2.0) * sigma_bins))
    mass = cumulative[..., 1:] - cumulative[..., :-1]
    return mass / mass.sum(-1, keepdim=True)


class PolicyLoss:
    """The weighted sum of all parts for one batch; holds no trained state.

    `processes` train together; each counts its part of the batch in parts of the whole.
    """

    def __init__(self, meta: DatasetMeta, config: LossConfig, processes: Processes | None = None, device: str = "cpu") -> None:
        self.config = config
        self._processes = processes or Processes()
        spec = meta.action
        self.num_bins = spec.num_bins
        self._low_D = torch.tensor(spec.low_D, dtype=torch.float32, device=device)
        self._bins_per_unit_D = torch.tensor(spec.num_bins / (spec.high_D - spec.low_D), dtype=torch.float32, device=device)
        sharp = [dim.kind in SHARP_KINDS for dim in spec.dims]
        self._sharp = [index for index, flag in enumerate(sharp) if flag]
        self._smooth = [index for index, flag in enumerate(sharp) if not flag]

    def __call__(self, output: PolicyOutput, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss, and its parts (detached) by name."""
        parts = {"action": self.action(output, batch), "plan": self.plan(output, batch), "vision": self.vision(output, batch)}
        config = self.config
        total = config.action * parts["action"] + config.plan * parts["plan"] + config.vision * parts["vision"]
        return total, {"total": total.detach(), **{name: part.detach() for name, part in parts.items()}}

    def action(self, output: PolicyOutput, batch: Batch) -> Tensor:
        """Mean cross-entropy in nats per free action token; committed steps carry none."""
        labels, horizon, dims = batch.actions_NHD.shape
        log_NHDA = output.action_NQA.view(labels, horizon, dims, -1).log_softmax(-1)
        position_NHD = ((batch.actions_NHD - self._low_D) * self._bins_per_unit_D).clamp(0, self.num_bins)
        entropy_NH = position_NHD.new_zeros(labels, horizon)
        if self._smooth:
            target = smooth_targets(position_NHD[..., self._smooth], self.config.sigma_bins, self.num_bins)
            entropy_NH = entropy_NH - (target * log_NHDA[:, :, self._smooth]).sum((-1, -2))
        if self._sharp:
            bin_NHX = position_NHD[..., self._sharp].long().clamp_max(self.num_bins - 1)
            entropy_NH = entropy_NH - log_NHDA[:, :, self._sharp].gather(-1, bin_NHX[..., None]).sum((-1, -2))
        weight_NH = self._step_weights(batch.committed_NH)
        return (weight_NH * entropy_NH).sum() / (self._processes.mean(weight_NH.sum()).clamp_min(1.0) * dims)

    def _step_weights(self, committed_NH: Tensor) -> Tensor:
        """0 for committed steps, more for the first free ones than for the rest."""
        after_NH = torch.arange(committed_NH.shape[1], device=committed_NH.device) - committed_NH.sum(1, keepdim=True)
        early_NH = after_NH < self.config.early_steps
        return torch.where(early_NH, self.config.early_weight, 1.0) * (~committed_NH)

    def plan(self, output: PolicyOutput, batch: Batch) -> Tensor:
        """Mean cross-entropy of the plan's three tokens, and how far off the pointed place is."""
        phase = F.cross_entropy(output.phase_NC, batch.phase_N)
        target_N2A = smooth_targets(batch.point_N2 * self.num_bins, self.config.sigma_bins, self.num_bins)
        point = -(target_N2A * output.point_N2A.log_softmax(-1)).sum(-1).mean()
        pointed = (output.pointed_N2 - batch.point_N2).abs().sum(-1).mean()
        return (phase + 2.0 * point) / 3.0 + self.config.pointing * pointed

    def vision(self, seen: PolicyOutput | Seen, batch: Batch) -> Tensor:
        """Binary cross-entropy of colours and kinds per object in the picture, and how far its centre is off."""
        objects = self._processes.mean(batch.occupied_BV.sum()).clamp_min(1)
        said = F.binary_cross_entropy_with_logits(seen.vision_BVC, batch.seen_BVC, reduction="sum") / objects
        distance_BV = (seen.offset_BV2 - batch.offset_BV2).abs().sum(-1)
        return said + self.config.offset * (distance_BV * batch.occupied_BV).sum() / objects


class Metrics:
    """Validation figures of the argmax decoding, averaged over batches.

    Mean absolute errors in mm (translation, gripper) and mrad (rotation), accuracies 0..1. `terminate_recall` is the share
    of true ends that are called; it is 1 where there are none. Committed steps count nowhere; `first` is the first free step,
    `first_mm` its distance from the demonstrated place. `token_accuracy` is the share of tokens that are exactly the demonstrated ones.
    """

    def __init__(self, meta: DatasetMeta) -> None:
        self._spec: ActionSpec = meta.action
        self._low_D = torch.tensor(meta.action.low_D, dtype=torch.float32)
        self._width_D = torch.tensor([dim.bin_width for dim in meta.action.dims], dtype=torch.float32)
        self._moves = [index for index, dim in enumerate(meta.action.dims) if dim.kind == "translation"]
        self._span_2 = torch.tensor(meta.point_high) - torch.tensor(meta.point_low)
        self._sums: dict[str, float] = {}
        self._counts: dict[str, float] = {}

    def add(self, output: PolicyOutput, batch: Batch) -> None:
        """Takes in one batch."""
        bin_NHD = output.action_NQA.argmax(-1).view_as(batch.actions_NHD)
        decoded_NHD = self._low_D + (bin_NHD + 0.5) * self._width_D
        error_NHD = (decoded_NHD - batch.actions_NHD).abs()
        free_NH = ~batch.committed_NH
        first_NH = free_NH & (torch.arange(free_NH.shape[1]) == batch.committed_NH.sum(1, keepdim=True))
        for index, dim in enumerate(self._spec.dims):
            if dim.kind == "terminate":
                self._terminate(decoded_NHD[..., index][free_NH] > 0.5, batch.actions_NHD[..., index][free_NH] > 0.5)
                continue
            unit = "mrad" if dim.unit == "rad" else "mm"
            self._mean(f"{dim.name}_{unit}", 1e3 * error_NHD[..., index][free_NH])
            self._mean(f"{dim.name}_first_{unit}", 1e3 * error_NHD[..., index][first_NH])
            if dim.kind == "gripper":
                middle = (dim.low + dim.high) / 2
                self._mean("gripper_accuracy", ((decoded_NHD[..., index] > middle) == (batch.actions_NHD[..., index] > middle))[free_NH])
        true_NHD = ((batch.actions_NHD - self._low_D) / self._width_D).floor().clamp(0, output.action_NQA.shape[-1] - 1)
        self._mean("token_accuracy", (bin_NHD == true_NHD)[free_NH])
        self._mean("first_mm", 1e3 * error_NHD[..., self._moves].norm(dim=-1)[first_NH])
        self._mean("phase_accuracy", output.phase_NC.argmax(-1) == batch.phase_N)
        place_N2 = (output.point_N2A.argmax(-1) + 0.5) / output.point_N2A.shape[-1]
        self._mean("place_mm", 1e3 * ((place_N2 - batch.point_N2) * self._span_2).norm(dim=-1))
        self._mean("pointed_mm", 1e3 * ((output.pointed_N2 - batch.point_N2) * self._span_2).norm(dim=-1))
        self._seen(output, batch)

    def result(self) -> dict[str, float]:
        """Means by name."""
        return {name: total / self._counts[name] if self._counts[name] else 1.0 for name, total in self._sums.items()}

    def _terminate(self, called: Tensor, true: Tensor) -> None:
        self._mean("terminate_accuracy", called == true)
        self._mean("terminate_recall", called[true])

    def _seen(self, output: PolicyOutput, batch: Batch) -> None:
        wanted = batch.seen_BVC > 0.5
        self._mean("seen_recall", (output.vision_BVC > 0)[wanted])
        self._mean("seen_precision", wanted[output.vision_BVC > 0])

    def _mean(self, name: str, values: Tensor) -> None:
        self._sums[name] = self._sums.get(name, 0.0) + float(values.float().sum())
        self._counts[name] = self._counts.get(name, 0.0) + values.numel()
