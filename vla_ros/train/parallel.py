# SPDX-License-Identifier: Apache-2.0
"""Several processes that train together, as `torchrun` starts them: the same global batch, shared in equal parts.

Every process prepares the whole batch (it depends on its number alone), keeps its part, and gradients are averaged. What a loss
divides by (objects, free steps, answer tokens) and what batch norm measures is shared too, so that the result is the one process's
up to the order of float32 sums. Only a mixture's capacity and a flow head's draws are each process's own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vla_ros.core.errors import ConfigError

Structure = TypeVar("Structure")


class Processes:
    """The processes of a run; alone by default."""

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank, self.count = rank, count

    @classmethod
    def join(cls, device: str) -> Processes:
        """Joins the others if `torchrun` started this process, over gloo (nccl for `cuda`)."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        dist.init_process_group("nccl" if device == "cuda" else "gloo")
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def leads(self) -> bool:
        """Whether this one measures, writes and logs."""
        return self.rank == 0

    def leave(self) -> None:
        """Ends the group, if there is one."""
        if self.count > 1:
            dist.destroy_process_group()

    def part_of(self, batch: Structure) -> Structure:
        """This process's part of all tensors of a batch; their rows are ordered by frame."""
        if self.count == 1:
            return batch

        def part(tensor: Tensor) -> Tensor:
            if len(tensor) % self.count:
                raise ConfigError(f"{self.count} processes cannot share {len(tensor)} rows: make data.frames_per_batch and data.question_frames multiples of {self.count}")
            return tensor.chunk(self.count)[self.rank]

        return map_tensors(batch, part)

    def mean(self, value: Tensor) -> Tensor:
        """Mean over the processes, without a gradient: what a loss of one part divides by, so that the average of parts is the whole's."""
        if self.count == 1:
            return value
        value = value.detach().float().clone()
        dist.all_reduce(value)
        return value / self.count

    def average_gradients(self, model: nn.Module) -> None:
        """Every gradient becomes the mean over the processes, by one exchange."""
        if self.count == 1:
            return
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.count
        for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients])):
            gradient.copy_(part.view_as(gradient))

    def agree(self, values: list[float]) -> list[float]:
        """The first process's values in all: the clock and a signal are not the same everywhere."""
        if self.count == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64)
        if dist.get_backend() == "nccl":
            tensor = tensor.cuda()
        dist.broadcast(tensor, 0)
        return tensor.tolist()


class _Sum(torch.autograd.Function):
    """Sum over the processes; so is its gradient."""

    @staticmethod
    def forward(context: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the parts of all processes; torch's `SyncBatchNorm` needs a GPU. The state is `BatchNorm2d`'s."""

    count = 1

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] to the same."""
        if not self.training:
            return super().forward(x_BCHW)
        mean_C = _Sum.apply(x_BCHW.mean((0, 2, 3))) / self.count
        centred_BCHW = x_BCHW - mean_C[:, None, None]
        variance_C = _Sum.apply(centred_BCHW.square().mean((0, 2, 3))) / self.count
        with torch.no_grad():
            cells = self.count * x_BCHW.numel() / len(mean_C)
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean_C, self.momentum)
            self.running_var.lerp_(variance_C * (cells / (cells - 1)), self.momentum)
        scale_C = (variance_C + self.eps).rsqrt() * self.weight
        return centred_BCHW * scale_C[:, None, None] + self.bias[:, None, None]


def share_batch_norm(model: nn.Module, processes: Processes) -> None:
    """Makes every batch norm of `model` measure all processes' parts."""
    if processes.count == 1:
        return
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.BatchNorm2d:
                shared = SharedBatchNorm2d(child.num_features, eps=child.eps, momentum=child.momentum, affine=child.affine)
                shared.load_state_dict(child.state_dict())
                for own, earlier in zip(shared.parameters(), child.parameters()):
                    own.requires_grad_(earlier.requires_grad)  # what is kept as it is stays so
                shared.count = processes.count
                setattr(parent, name, shared)


def map_tensors(value: Structure, change: Callable[[Tensor], Tensor]) -> Structure:
    """`value` (a tensor, a tuple, dict or dataclass of such, or something else) with every tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple):
        return tuple(map_tensors(item, change) for item in value)
    if isinstance(value, dict):
        return {name: map_tensors(item, change) for name, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: map_tensors(getattr(value, field.name), change) for field in fields(value)})
    return value
