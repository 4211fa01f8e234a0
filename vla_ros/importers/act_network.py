# SPDX-License-Identifier: Apache-2.0
"""ACT's network (arXiv 2304.13705) as LeRobot has it, for inference: the latent is zero, so that the encoder of the training is not built.

Tokens of the encoder: the latent, the state, then each place of each camera's last feature map; the decoder asks for every step of the chunk.
Axes: T tokens, H steps of a chunk, E width, S entries of the state, D dimensions of an action, N heads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vla_ros.importers.checkpoint import Checkpoint
from vla_ros.importers.graphs import Source
from vla_ros.importers.pixels import Normalize
from vla_ros.importers.resnet import ResNet, resnet_sources
from vla_ros.importers.towers import Linear

NORM_EPSILON = 1e-5
_TEMPERATURE, _POSITION_EPSILON = 10000.0, 1e-6


@dataclass(frozen=True, kw_only=True)
class ActShape:
    """What the network is made of.

    Attributes:
        cameras: height and width of each.
        state: S; 0: none.
        dims: D.
        horizon: H.
        width, heads, hidden: of the transformer.
        encoder_layers, decoder_layers: of the transformer.
        pre_norm: norms in front of the attention, and not behind it.
        activation: ``relu`` or ``gelu``.
        backbone: key of ``resnet.KINDS``.
        backbone_width: channels of its first stage.
        dilated: its last stage.
    """

    cameras: tuple[tuple[int, int], ...]
    state: int
    dims: int
    horizon: int
    width: int
    heads: int
    hidden: int
    encoder_layers: int
    decoder_layers: int
    pre_norm: bool
    activation: str
    backbone: str
    backbone_width: int
    dilated: bool


@dataclass(frozen=True, kw_only=True)
class Affine:
    """Statistics and units in one: ``scale * (x - shift)`` for what is read, ``scale * x + shift`` for what is said; float64."""

    scale: np.ndarray
    shift: np.ndarray


class Attention(nn.Module):
    """torch's MultiheadAttention, without dropout."""

    def __init__(self, shape: ActShape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.q, self.k, self.v, self.out = (Linear(shape.width, shape.width, torch.float32) for _ in range(4))

    def forward(self, query_1TE: Tensor, key_1TE: Tensor, value_1TE: Tensor) -> Tensor:
        """[1, T, E] of the query."""
        q, k, v = (
            part(x).reshape(1, x.shape[1], self.heads, -1).transpose(1, 2)
            for part, x in ((self.q, query_1TE), (self.k, key_1TE), (self.v, value_1TE))
        )
        weights = torch.softmax(torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-2, -1)), dim=-1)
        return self.out(torch.matmul(weights, v).transpose(1, 2).reshape(query_1TE.shape))


class Norm(nn.Module):
    """Layer norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = (nn.Parameter(torch.empty(width, device="meta")) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """[..., E] to the same."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, NORM_EPSILON)


class Layer(nn.Module):
    """A layer of the encoder or, with ``crosses``, of the decoder. Positions are added to queries and keys only."""

    def __init__(self, shape: ActShape, crosses: bool) -> None:
        super().__init__()
        self.shape, self.crosses = shape, crosses
        self.attention = Attention(shape)
        if crosses:
            self.cross = Attention(shape)
        self.linear1 = Linear(shape.width, shape.hidden, torch.float32)
        self.linear2 = Linear(shape.hidden, shape.width, torch.float32)
        self.norms = nn.ModuleList(Norm(shape.width) for _ in range(3 if crosses else 2))

    def forward(self, x: Tensor, positions: Tensor, memory: Tensor | None = None, memory_positions: Tensor | None = None) -> Tensor:
        """[1, T, E] to the same."""

        def attend(y: Tensor) -> Tensor:
            return self.attention(y + positions, y + positions, y)

        def look(y: Tensor) -> Tensor:
            return self.cross(y + positions, memory + memory_positions, memory)

        def think(y: Tensor) -> Tensor:
            z = self.linear1(y)
            return self.linear2(F.gelu(z) if self.shape.activation == "gelu" else F.relu(z))

        for norm, step in zip(self.norms, (attend, look, think) if self.crosses else (attend, think)):
            x = x + step(norm(x)) if self.shape.pre_norm else norm(x + step(x))
        return x


class ActNetwork(nn.Module):
    """Pictures and state to a chunk of actions in the robot's units.

    Args:
        shape: what it is made of.
        pixels: mean and deviation of each camera's picture in [0, 1].
        state: from the robot's units to what the network reads.
        action: from what the network says to the robot's units.
    """

    def __init__(self, shape: ActShape, pixels: list[tuple[list[float], list[float]]], state: Affine | None, action: Affine) -> None:
        super().__init__()
        self.shape = shape
        self.affines = {"action": action} | ({} if state is None else {"state": state})
        for name, affine in self.affines.items():
            for part in ("scale", "shift"):
                setattr(self, f"{name}_{part}", nn.Parameter(torch.empty(getattr(affine, part).shape, device="meta")))
        self.normalize = nn.ModuleList(Normalize(mean, std) for mean, std in pixels)
        self.backbone = ResNet(shape.backbone, shape.backbone_width, shape.dilated)
        self.picture = nn.Parameter(torch.empty(self.backbone.channels, shape.width, device="meta"))
        self.picture_bias = nn.Parameter(torch.empty(shape.width, device="meta"))
        self.latent = nn.Parameter(torch.empty(1, 1, shape.width, device="meta"))  # of a zero latent: its projection's bias
        self.state_token = Linear(shape.state, shape.width, torch.float32) if shape.state else None
        self.positions = nn.Parameter(torch.empty(1, 1 + bool(shape.state), shape.width, device="meta"))
        self.maps = [_feature_size(size, shape.dilated) for size in shape.cameras]
        for index, (rows, columns) in enumerate(self.maps):
            setattr(self, f"places_{index}", nn.Parameter(torch.empty(1, rows * columns, shape.width, device="meta")))
        self.encoder = nn.ModuleList(Layer(shape, crosses=False) for _ in range(shape.encoder_layers))
        self.encoder_norm = Norm(shape.width) if shape.pre_norm else None
        self.decoder = nn.ModuleList(Layer(shape, crosses=True) for _ in range(shape.decoder_layers))
        self.decoder_norm = Norm(shape.width)
        self.steps = nn.Parameter(torch.empty(1, shape.horizon, shape.width, device="meta"))
        self.head = Linear(shape.width, shape.dims, torch.float32)

    def forward(self, *inputs: Tensor) -> Tensor:
        """uint8 pictures [1, H, W, 3] in the order of cameras, then the state [1, S]; gives [1, H, D]."""
        images = inputs[: len(self.shape.cameras)]
        tokens, places = [self.latent], [self.positions]
        if self.state_token is not None:
            state_1S = (inputs[-1] - self.state_shift) * self.state_scale  # in this order: a joint that never moved has a scale of 1e8
            tokens.append(self.state_token(state_1S)[:, None])
        for index, (image, normalize) in enumerate(zip(images, self.normalize)):
            features = self.backbone(normalize(image.permute(0, 3, 1, 2).float())).flatten(2).transpose(1, 2)
            tokens.append(torch.matmul(features, self.picture) + self.picture_bias)
            places.append(getattr(self, f"places_{index}"))
        memory, memory_positions = torch.cat(tokens, dim=1), torch.cat(places, dim=1)
        for layer in self.encoder:
            memory = layer(memory, memory_positions)
        if self.encoder_norm is not None:
            memory = self.encoder_norm(memory)
        chunk = torch.zeros_like(self.steps)
        for layer in self.decoder:
            chunk = layer(chunk, self.steps, memory, memory_positions)
        return self.head(self.decoder_norm(chunk)) * self.action_scale + self.action_shift


def _feature_size(size: tuple[int, int], dilated: bool) -> tuple[int, int]:
    """Rows and columns of the last feature map: halved and rounded up at each of five (four) places."""
    rows, columns = size
    for _ in range(4 if dilated else 5):
        rows, columns = (rows + 1) // 2, (columns + 1) // 2
    return rows, columns


def place_table(rows: int, columns: int, width: int) -> Tensor:
    """Sines and cosines of rows and columns [1, rows * columns, E], counted from 1 and scaled to one turn (arXiv 2005.12872)."""
    half = width // 2
    inverse = _TEMPERATURE ** (2 * (torch.arange(half, dtype=torch.float32) // 2) / half)

    def along(count: int) -> Tensor:
        angle = torch.arange(1, count + 1, dtype=torch.float32)
        angle = (angle / (count + _POSITION_EPSILON) * 2 * math.pi)[:, None] / inverse
        return torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], dim=-1).flatten(1)

    y, x = along(rows)[:, None].expand(-1, columns, -1), along(columns)[None].expand(rows, -1, -1)
    return torch.cat([y, x], dim=-1).reshape(1, rows * columns, 2 * half)


def act_sources(checkpoint: Checkpoint, network: ActNetwork, prefix: str) -> dict[str, Source]:
    """What reads each parameter of an ``ActNetwork``, from LeRobot's names under ``prefix`` (``model.``)."""
    shape = network.shape

    def plain(key: str) -> Source:
        return lambda: checkpoint.tensor(f"{prefix}{key}").float()

    def turned(key: str) -> Source:
        return lambda: checkpoint.tensor(f"{prefix}{key}").float().t()

    def table(key: str) -> Source:
        return lambda: checkpoint.tensor(f"{prefix}{key}").float()[None]

    def linear(own: str, key: str) -> dict[str, Source]:
        return {f"{own}.weight": turned(f"{key}.weight"), f"{own}.bias": plain(f"{key}.bias")}

    def norm(own: str, key: str) -> dict[str, Source]:
        return {f"{own}.{part}": plain(f"{key}.{part}") for part in ("weight", "bias")}

    def attention(own: str, key: str) -> dict[str, Source]:
        sources = linear(f"{own}.out", f"{key}.out_proj")
        for index, part in enumerate("qkv"):  # the three projections lie in one
            sources[f"{own}.{part}.weight"] = lambda i=index: checkpoint.tensor(f"{prefix}{key}.in_proj_weight").float().chunk(3)[i].t()
            sources[f"{own}.{part}.bias"] = lambda i=index: checkpoint.tensor(f"{prefix}{key}.in_proj_bias").float().chunk(3)[i]
        return sources

    sources = resnet_sources(checkpoint, f"{prefix}backbone", network.backbone, "backbone")
    sources |= {
        "picture": lambda: checkpoint.tensor(f"{prefix}encoder_img_feat_input_proj.weight").float()[:, :, 0, 0].t(),
        "picture_bias": plain("encoder_img_feat_input_proj.bias"),
        "latent": lambda: checkpoint.tensor(f"{prefix}encoder_latent_input_proj.bias").float()[None, None],
        "positions": table("encoder_1d_feature_pos_embed.weight"),
        "steps": table("decoder_pos_embed.weight"),
        **linear("head", "action_head"),
        **norm("decoder_norm", "decoder.norm"),
    }
    if shape.state:
        sources |= linear("state_token", "encoder_robot_state_input_proj")
    if shape.pre_norm:
        sources |= norm("encoder_norm", "encoder.norm")
    for side, count in (("encoder", shape.encoder_layers), ("decoder", shape.decoder_layers)):
        for layer in range(count):
            here = f"{side}.{layer}"
            there = f"{side}.layers.{layer}"
            sources |= attention(f"{here}.attention", f"{there}.self_attn")
            if side == "decoder":
                sources |= attention(f"{here}.cross", f"{there}.multihead_attn")
            sources |= linear(f"{here}.linear1", f"{there}.linear1") | linear(f"{here}.linear2", f"{there}.linear2")
            for index in range(3 if side == "decoder" else 2):
                sources |= norm(f"{here}.norms.{index}", f"{there}.norm{index + 1}")
    for index, (rows, columns) in enumerate(network.maps):
        sources[f"places_{index}"] = lambda r=rows, c=columns: place_table(r, c, shape.width)
    for name, affine in network.affines.items():
        sources |= {f"{name}_{part}": lambda a=affine, p=part: torch.from_numpy(getattr(a, p)).float() for part in ("scale", "shift")}
    return sources
