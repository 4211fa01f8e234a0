# SPDX-License-Identifier: Apache-2.0
"""Residual networks (arXiv 1512.03385) as torchvision's checkpoints have them, up to the last feature map, batch norms folded in.

ACT freezes its batch norms: y = (x - mean) * weight / sqrt(var + 1e-5) + bias, which scales and shifts the convolution before it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vla_ros.core.errors import ConfigError
from vla_ros.importers.checkpoint import Checkpoint
from vla_ros.importers.graphs import Source

EPSILON = 1e-5
# Blocks of each stage, and whether a block has a bottleneck.
KINDS = {
    "resnet18": ((2, 2, 2, 2), False),
    "resnet34": ((3, 4, 6, 3), False),
    "resnet50": ((3, 4, 6, 3), True),
    "resnet101": ((3, 4, 23, 3), True),
    "resnet152": ((3, 8, 36, 3), True),
}


@dataclass(frozen=True, kw_only=True)
class Place:
    """One convolution: its shape, stride, padding and dilation."""

    shape: tuple[int, int, int, int]
    stride: int
    padding: int
    dilation: int = 1


class Conv(nn.Module):
    """A convolution that carries its batch norm."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place
        self.weight = nn.Parameter(torch.empty(place.shape, device="meta"))
        self.bias = nn.Parameter(torch.empty(place.shape[0], device="meta"))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the next."""
        return F.conv2d(x, self.weight, self.bias, self.place.stride, self.place.padding, self.place.dilation)


class Block(nn.Module):
    """Convolutions with a way around them."""

    def __init__(self, convs: list[Place], around: Place | None) -> None:
        super().__init__()
        self.convs = nn.ModuleList(Conv(place) for place in convs)
        self.around = None if around is None else Conv(around)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the next."""
        y = x
        for index, conv in enumerate(self.convs):
            y = conv(y if index == 0 else F.relu(y))
        return F.relu(y + (x if self.around is None else self.around(x)))


class ResNet(nn.Module):
    """Pictures [B, 3, H, W] to the last feature map.

    Args:
        kind: key of ``KINDS``.
        width: channels of the first stage.
        last_dilated: the last stage keeps its size and looks twice as wide.

    Raises:
        ConfigError: an unknown kind, or one that cannot be dilated.
    """

    def __init__(self, kind: str, width: int = 64, last_dilated: bool = False) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ConfigError(f"config.json asks for the picture encoder {kind!r}; this release knows {sorted(KINDS)}")
        blocks, self.is_bottleneck = KINDS[kind]
        if last_dilated and not self.is_bottleneck:
            raise ConfigError(f"config.json asks for a dilated {kind}, which torchvision itself does not build")
        self.stem = Conv(Place(shape=(width, 3, 7, 7), stride=2, padding=3))
        self.stages, channels = nn.ModuleList(), width
        for stage, count in enumerate(blocks):
            self.stages.append(nn.ModuleList())
            for index in range(count):
                block, channels = self._block(channels, width << stage, stage, index, last_dilated and stage == 3)
                self.stages[stage].append(block)
        self.channels = channels

    def _block(self, channels: int, width: int, stage: int, index: int, dilated: bool) -> tuple[Block, int]:
        stride = 2 if stage and not index and not dilated else 1
        dilation = 2 if dilated and index else 1  # torchvision: the stage's first block keeps the dilation before it
        out = 4 * width if self.is_bottleneck else width
        around = Place(shape=(out, channels, 1, 1), stride=stride, padding=0) if stride != 1 or channels != out else None
        if self.is_bottleneck:
            convs = [
                Place(shape=(width, channels, 1, 1), stride=1, padding=0),
                Place(shape=(width, width, 3, 3), stride=stride, padding=dilation, dilation=dilation),
                Place(shape=(out, width, 1, 1), stride=1, padding=0),
            ]
        else:
            convs = [Place(shape=(width, channels, 3, 3), stride=stride, padding=1), Place(shape=(width, width, 3, 3), stride=1, padding=1)]
        return Block(convs, around), out

    def forward(self, x: Tensor) -> Tensor:
        """As the class says."""
        x = F.max_pool2d(F.relu(self.stem(x)), kernel_size=3, stride=2, padding=1)
        for stage in self.stages:
            for block in stage:
                x = block(x)
        return x


def resnet_sources(checkpoint: Checkpoint, prefix: str, network: ResNet, name: str) -> dict[str, Source]:
    """What reads each parameter of a ``ResNet``, from torchvision's names under ``prefix``."""
    pairs = {"stem": ("conv1", "bn1")}
    for stage, blocks in enumerate(network.stages):
        for index, block in enumerate(blocks):
            here, there = f"stages.{stage}.{index}", f"layer{stage + 1}.{index}"
            pairs |= {f"{here}.convs.{i}": (f"{there}.conv{i + 1}", f"{there}.bn{i + 1}") for i in range(len(block.convs))}
            if block.around is not None:
                pairs[f"{here}.around"] = (f"{there}.downsample.0", f"{there}.downsample.1")
    sources: dict[str, Source] = {}
    for own, (conv, norm) in pairs.items():
        sources |= _folded(checkpoint, f"{prefix}.{conv}", f"{prefix}.{norm}", f"{name}.{own}")
    return sources


def _folded(checkpoint: Checkpoint, conv: str, norm: str, own: str) -> dict[str, Source]:
    def part(name: str) -> Tensor:
        return checkpoint.tensor(f"{norm}.{name}").double()

    def scale() -> Tensor:
        return part("weight") * (part("running_var") + EPSILON).rsqrt()

    return {
        f"{own}.weight": lambda: (checkpoint.tensor(f"{conv}.weight").double() * scale()[:, None, None, None]).float(),
        f"{own}.bias": lambda: (part("bias") - part("running_mean") * scale()).float(),
    }
