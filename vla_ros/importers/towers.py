# SPDX-License-Identifier: Apache-2.0
"""Vision transformers as timm's checkpoints have them (DINOv2 with registers, SigLIP), up to the block whose patches OpenVLA reads.

OpenVLA takes the patches behind the second-to-last block, without the final norm and without class and register tokens (arXiv 2406.09246,
prismatic-vlms): what comes after that block is not built. Architectures: arXiv 2010.11929, 2304.07193, 2309.16588, 2303.15343.
Axes: B batch, P patches, T tokens (P and the prefix), E width, A heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vla_ros.core.errors import ConfigError
from vla_ros.importers.checkpoint import Checkpoint
from vla_ros.importers.graphs import Source

NORM_EPSILON = 1e-6


@dataclass(frozen=True, kw_only=True)
class TowerKind:
    """What a tower's weights do not say.

    Attributes:
        head_width: channels of one attention head.
        mean, std: of the pictures that it was trained on, per channel in [0, 1].
    """

    head_width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
KINDS = {
    "vit_small_patch14_reg4_dinov2": TowerKind(head_width=64, **_IMAGENET),
    "vit_base_patch14_reg4_dinov2": TowerKind(head_width=64, **_IMAGENET),
    "vit_large_patch14_reg4_dinov2": TowerKind(head_width=64, **_IMAGENET),
    "vit_so400m_patch14_siglip_224": TowerKind(head_width=72, **_HALF),
    "vit_so400m_patch14_siglip_384": TowerKind(head_width=72, **_HALF),
}


@dataclass(frozen=True, kw_only=True)
class TowerShape:
    """Sizes of a tower, as its weights have them."""

    width: int
    depth: int
    head_width: int
    mlp_width: int
    patch: int
    patches: int
    prefix: int
    has_class: bool
    has_scale: bool

    @property
    def side(self) -> int:
        """Pixels of one side of the picture."""
        return self.patch * round(self.patches**0.5)


def kind_of(timm_id: str) -> TowerKind:
    """Facts of a tower by timm's name for it.

    Raises:
        ConfigError: an unknown one, with the choices.
    """
    name = timm_id.partition(".")[0]
    if name not in KINDS:
        raise ConfigError(f"config.json asks for the vision tower {timm_id!r}; this release knows {sorted(KINDS)}")
    return KINDS[name]


def shape_of(checkpoint: Checkpoint, prefix: str, kind: TowerKind) -> TowerShape:
    """Reads a tower's sizes from its weights.

    Raises:
        ConfigError: a weight is missing, or sizes that do not fit each other.
    """
    width, channels, patch, _ = checkpoint.shape(f"{prefix}.patch_embed.proj.weight")
    depth = 1 + max(
        (int(name[len(prefix) :].split(".")[2]) for name in checkpoint.names if name.startswith(f"{prefix}.blocks.")), default=-1
    )
    patches = checkpoint.shape(f"{prefix}.pos_embed")[1]
    has_class, registers = f"{prefix}.cls_token" in checkpoint.names, 0
    if f"{prefix}.reg_token" in checkpoint.names:
        registers = checkpoint.shape(f"{prefix}.reg_token")[1]
    if has_class and not registers:
        raise ConfigError(
            f"'{prefix}' has a class token and no registers: its position table counts the class token, which this release does not read"
        )
    if depth < 2 or channels != 3 or width % kind.head_width or round(patches**0.5) ** 2 != patches:
        raise ConfigError(
            f"'{prefix}' has {depth} blocks of width {width} (heads are {kind.head_width} wide), {patches} patches and {channels} colours: "
            "this is no tower of the kind that config.json names"
        )
    return TowerShape(
        width=width, depth=depth, head_width=kind.head_width, mlp_width=checkpoint.shape(f"{prefix}.blocks.0.mlp.fc1.weight")[0],
        patch=patch, patches=patches, prefix=registers + has_class, has_class=has_class,
        has_scale=any(f"{prefix}.blocks.0.ls1.{name}" in checkpoint.names for name in _SCALE_NAMES),
    )  # fmt: skip


class Linear(nn.Module):
    """``x @ weight + bias`` with the weight as the product reads it: [in, out]."""

    def __init__(self, inputs: int, outputs: int, dtype: torch.dtype, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs, dtype=dtype, device="meta"))
        self.bias = nn.Parameter(torch.empty(outputs, dtype=dtype, device="meta")) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        product = torch.matmul(x, self.weight)
        return product if self.bias is None else product + self.bias


class _Norm(nn.Module):
    def __init__(self, width: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, dtype=dtype, device="meta"))
        self.bias = nn.Parameter(torch.empty(width, dtype=dtype, device="meta"))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, NORM_EPSILON)


class Block(nn.Module):
    """Attention and perceptron, each behind a norm, each scaled where the tower has layer scales."""

    def __init__(self, shape: TowerShape, dtype: torch.dtype) -> None:
        super().__init__()
        self.heads = shape.width // shape.head_width
        self.norm1, self.norm2 = _Norm(shape.width, dtype), _Norm(shape.width, dtype)
        self.qkv, self.proj = Linear(shape.width, 3 * shape.width, dtype), Linear(shape.width, shape.width, dtype)
        self.fc1, self.fc2 = Linear(shape.width, shape.mlp_width, dtype), Linear(shape.mlp_width, shape.width, dtype)
        if shape.has_scale:
            self.ls1, self.ls2 = (nn.Parameter(torch.empty(shape.width, dtype=dtype, device="meta")) for _ in range(2))
        self.has_scale = shape.has_scale

    def forward(self, x_BTE: Tensor) -> Tensor:
        """[B, T, E] to the same."""
        attended = self._attend(self.norm1(x_BTE))
        x_BTE = x_BTE + (attended * self.ls1 if self.has_scale else attended)
        thought = self.fc2(F.gelu(self.fc1(self.norm2(x_BTE))))
        return x_BTE + (thought * self.ls2 if self.has_scale else thought)

    def _attend(self, x_BTE: Tensor) -> Tensor:
        batch, tokens, width = x_BTE.shape
        q, k, v = self.qkv(x_BTE).reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        scores_BATT = torch.matmul(q * (width // self.heads) ** -0.5, k.transpose(-2, -1))
        weights_BATT = torch.softmax(scores_BATT.float(), dim=-1).to(x_BTE.dtype)
        return self.proj(torch.matmul(weights_BATT, v).transpose(1, 2).reshape(batch, tokens, width))


class Tower(nn.Module):
    """A vision transformer up to its second-to-last block."""

    def __init__(self, shape: TowerShape, dtype: torch.dtype) -> None:
        super().__init__()
        self.shape = shape
        self.patch_weight = nn.Parameter(torch.empty(shape.width, 3, shape.patch, shape.patch, dtype=dtype, device="meta"))
        self.patch_bias = nn.Parameter(torch.empty(shape.width, dtype=dtype, device="meta"))
        self.positions = nn.Parameter(torch.empty(1, shape.patches, shape.width, dtype=dtype, device="meta"))
        if shape.prefix:
            self.prefix = nn.Parameter(torch.empty(1, shape.prefix, shape.width, dtype=dtype, device="meta"))
        self.blocks = nn.ModuleList(Block(shape, dtype) for _ in range(shape.depth - 1))

    def forward(self, pixels_B3HW: Tensor) -> Tensor:
        """Normalised pictures to patches [B, P, E]."""
        x_BTE = (
            F.conv2d(pixels_B3HW, self.patch_weight, self.patch_bias, stride=self.shape.patch).flatten(2).transpose(1, 2) + self.positions
        )
        if self.shape.prefix:
            x_BTE = torch.cat([self.prefix.expand(x_BTE.shape[0], -1, -1), x_BTE], dim=1)
        for block in self.blocks:
            x_BTE = block(x_BTE)
        return x_BTE[:, self.shape.prefix :]


_SCALE_NAMES = ("scale_factor", "gamma")  # the published checkpoints renamed timm's gamma, which transformers would rewrite


def tower_sources(checkpoint: Checkpoint, prefix: str, shape: TowerShape, name: str) -> dict[str, Source]:
    """What reads each parameter of a ``Tower``.

    Args:
        checkpoint: with the weights under ``prefix``.
        prefix: such as ``vision_backbone.featurizer``.
        shape: of the tower.
        name: of the tower in the module that is exported.
    """

    def plain(key: str) -> Source:
        return lambda: checkpoint.tensor(f"{prefix}.{key}")

    def turned(key: str) -> Source:
        return lambda: checkpoint.tensor(f"{prefix}.{key}").t()

    def tokens() -> Tensor:
        keys = [*(["cls_token"] if shape.has_class else []), *(["reg_token"] if shape.prefix > shape.has_class else [])]
        return torch.cat([checkpoint.tensor(f"{prefix}.{key}") for key in keys], dim=1)

    sources = {
        "patch_weight": plain("patch_embed.proj.weight"),
        "patch_bias": plain("patch_embed.proj.bias"),
        "positions": plain("pos_embed"),
    }
    if shape.prefix:
        sources["prefix"] = tokens
    for block in range(shape.depth - 1):
        here = f"blocks.{block}"
        for own, key in (("qkv", "attn.qkv"), ("proj", "attn.proj"), ("fc1", "mlp.fc1"), ("fc2", "mlp.fc2")):
            sources |= {f"{here}.{own}.weight": turned(f"{here}.{key}.weight"), f"{here}.{own}.bias": plain(f"{here}.{key}.bias")}
        for norm in ("norm1", "norm2"):
            sources |= {f"{here}.{norm}.{part}": plain(f"{here}.{norm}.{part}") for part in ("weight", "bias")}
        for scale in ("ls1", "ls2") if shape.has_scale else ():
            key = next(f"{here}.{scale}.{word}" for word in _SCALE_NAMES if f"{prefix}.{here}.{scale}.{word}" in checkpoint.names)
            sources[f"{here}.{scale}"] = plain(key)
    return {f"{name}.{key}": source for key, source in sources.items()}
