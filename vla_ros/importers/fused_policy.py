# SPDX-License-Identifier: Apache-2.0
"""OpenVLA's network (arXiv 2406.09246) as the two graphs of a bundle: fused vision towers, a projector and Llama.

One sequence: begin, the picture's patches, the text, the special empty token, then the action. The channels of the towers' patches are put
side by side before the projector.
Axes: T text ids, P patches, E the language model's width, V ids, L places of the cache.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vla_ros.importers.checkpoint import Checkpoint
from vla_ros.importers.graphs import Source
from vla_ros.importers.llama import Llama, LlamaConfig, llama_sources
from vla_ros.importers.pixels import Normalize, Resize
from vla_ros.importers.towers import Linear, Tower, TowerShape, tower_sources


@dataclass(frozen=True, kw_only=True)
class FusedShape:
    """What the network is made of.

    Attributes:
        towers: shape, mean and std of each.
        llama: of the language model.
        projector: widths from the patches to the language model.
        text_tokens: T, with begin and empty token.
        action_tokens: N.
        pad_token: fills the text.
    """

    towers: tuple[tuple[TowerShape, tuple[float, ...], tuple[float, ...]], ...]
    llama: LlamaConfig
    projector: tuple[int, ...]
    text_tokens: int
    action_tokens: int
    pad_token: int

    @property
    def image_tokens(self) -> int:
        """P."""
        return self.towers[0][0].patches

    @property
    def length(self) -> int:
        """L, the whole context window."""
        return self.image_tokens + self.text_tokens + self.action_tokens


class FusedPolicy(nn.Module):
    """The network's parts; ``Prefill`` and ``Decode`` are its graphs.

    Args:
        shape: what it is made of.
        camera: height and width of the picture.
        crop_area: see ``Resize``.
        dtype: of weights, cache and most of the computing.
    """

    def __init__(self, shape: FusedShape, camera: tuple[int, int], crop_area: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.shape, self.dtype = shape, dtype
        self.resize = Resize(*camera, shape.towers[0][0].side, crop_area)
        self.normalize = nn.ModuleList(Normalize(mean, std) for _, mean, std in shape.towers)
        self.towers = nn.ModuleList(Tower(tower, dtype) for tower, _, _ in shape.towers)
        self.projector = nn.ModuleList(Linear(a, b, dtype) for a, b in zip(shape.projector, shape.projector[1:]))
        self.llama = Llama(shape.llama, shape.length, dtype)

    def patches(self, image_1HW3: Tensor) -> Tensor:
        """A uint8 picture to embeddings [1, P, E]."""
        pixels = self.resize(image_1HW3.float())
        seen = [tower(normalize(pixels).to(self.dtype)) for tower, normalize in zip(self.towers, self.normalize)]
        x_1PE = torch.cat(seen, dim=2)
        for index, layer in enumerate(self.projector):
            x_1PE = layer(x_1PE if index == 0 else F.gelu(x_1PE))
        return x_1PE


class Prefill(nn.Module):
    """The graph that reads an observation."""

    def __init__(self, policy: FusedPolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, image_1HW3: Tensor, text_1T: Tensor) -> tuple[Tensor, ...]:
        """Picture and padded text to logits [1, V], how many places are filled [1], and the cache."""
        shape = self.policy.shape
        text_1TE = self.policy.llama.embed(text_1T)
        sequence = torch.cat([text_1TE[:, :1], self.policy.patches(image_1HW3), text_1TE[:, 1:]], dim=1)
        filled_1 = (text_1T != shape.pad_token).sum(dim=1) + shape.image_tokens
        logits, *cache = self.policy.llama.read(sequence, filled_1)
        return (logits, filled_1, *cache)


class Decode(nn.Module):
    """The graph that adds a token."""

    def __init__(self, policy: FusedPolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, token_11: Tensor, position_1: Tensor, *cache: Tensor) -> tuple[Tensor, ...]:
        """A token, its place and the cache to logits [1, V] and the cache with it."""
        return self.policy.llama.add(token_11, position_1, cache)


def fused_sources(checkpoint: Checkpoint, policy: FusedPolicy, prefixes: tuple[str, ...]) -> dict[str, Source]:
    """What reads each parameter of ``Prefill`` and ``Decode``.

    Args:
        checkpoint: OpenVLA's, in the names of its published conversion.
        policy: the network.
        prefixes: of each tower in the checkpoint.
    """
    shape = policy.shape
    sources = llama_sources(checkpoint, "language_model", shape.llama, shape.length, "policy.llama")
    for index, (prefix, (tower, _, _)) in enumerate(zip(prefixes, shape.towers)):
        sources |= tower_sources(checkpoint, prefix, tower, f"policy.towers.{index}")
    for index in range(len(shape.projector) - 1):
        key = f"projector.fc{index + 1}"
        sources[f"policy.projector.{index}.weight"] = lambda key=key: checkpoint.tensor(f"{key}.weight").t()
        sources[f"policy.projector.{index}.bias"] = lambda key=key: checkpoint.tensor(f"{key}.bias")
    for name, matrix in policy.resize.matrices.items():
        sources[f"policy.resize.{name}"] = lambda matrix=matrix: matrix
    return sources
