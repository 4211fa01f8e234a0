# SPDX-License-Identifier: Apache-2.0
"""Masked autoencoder that pre-trains the vision transformer without labels (He et al., arXiv 2111.06377).

The encoder reads the visible quarter of the patches only; a small decoder gets mask tokens in the places of the others
and paints their pixels. The loss counts hidden patches only. Afterwards the decoder is thrown away.

Axes: B samples, V patches, U visible patches, X pixels of a patch times 3, E width, D decoder width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vla_ros.core.errors import ConfigError
from vla_ros.model.attention import SelfBlock
from vla_ros.model.vit import INIT_STD, Vit, VitConfig

TARGETS = ("pixels", "normed")


@dataclass(frozen=True, kw_only=True)
class MaeConfig:
    """What is hidden and how large the decoder is.

    Attributes:
        mask_ratio: share of patches that are hidden; 0.75 is the paper's best.
        target: `pixels`, or `normed`: each patch with mean 0 and deviation 1. That helped on photographs; a bare table has
            patches of one colour, in which it would only magnify noise.
    """

    mask_ratio: float = 0.75
    width: int = 96
    depth: int = 2
    heads: int = 4
    target: str = "pixels"

    def __post_init__(self) -> None:
        if not 0.0 < self.mask_ratio < 1.0:
            raise ConfigError(f"mask_ratio must lie between 0 and 1, got {self.mask_ratio}")
        if self.target not in TARGETS:
            raise ConfigError(f"target is {self.target!r}: valid are {', '.join(TARGETS)}")
        if self.width % self.heads:
            raise ConfigError(f"decoder width {self.width} is not a multiple of heads {self.heads}")


@dataclass(frozen=True, kw_only=True)
class MaeOutput:
    """`loss` over hidden patches; `painted_BVX` every patch's pixels in -1..1 (visible ones as they were); `hidden_BV` which were hidden."""

    loss: Tensor
    painted_BVX: Tensor
    hidden_BV: Tensor


class MaskedAutoencoder(nn.Module):
    """The vision transformer with a decoder that paints what it was not shown."""

    def __init__(self, vit: VitConfig, config: MaeConfig) -> None:
        super().__init__()
        self.config = config
        self.vit = Vit(vit)
        self.num_hidden = round(config.mask_ratio * vit.num_patches)
        if not 0 < self.num_hidden < vit.num_patches:
            raise ConfigError(f"mask_ratio {config.mask_ratio} of {vit.num_patches} patches hides {self.num_hidden}: leave at least one on each side")
        self.narrow = nn.Linear(vit.width, config.width)
        self.mask_D = nn.Parameter(INIT_STD * torch.randn(config.width))
        self.position_VD = nn.Parameter(INIT_STD * torch.randn(vit.num_patches, config.width))
        self.blocks = nn.ModuleList(SelfBlock(config.width, config.heads, 4, config.depth) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.paint = nn.Linear(config.width, 3 * vit.patch**2)

    def forward(self, images: dict[str, Tensor], hidden_BV: Tensor | None = None) -> MaeOutput:
        """Hides patches, paints them and compares.

        Args:
            images: as `Vit.forward`.
            hidden_BV: which patches to hide, the same number in each row; None draws them with torch's random state.
        """
        patch_BVX = self.vit.patches(images)
        if hidden_BV is None:
            hidden_BV = draw_hidden(len(patch_BVX), patch_BVX.shape[1], self.num_hidden).to(patch_BVX.device)
        predicted_BVX = self._predict(patch_BVX, hidden_BV)
        target_BVX, mean_BV1, std_BV1 = self._targets(patch_BVX)
        error_BV = (predicted_BVX - target_BVX).square().mean(-1)
        painted_BVX = torch.where(hidden_BV[..., None], predicted_BVX * std_BV1 + mean_BV1, patch_BVX)
        return MaeOutput(loss=(error_BV * hidden_BV).sum() / hidden_BV.sum(), painted_BVX=painted_BVX, hidden_BV=hidden_BV)

    def _predict(self, patch_BVX: Tensor, hidden_BV: Tensor) -> Tensor:
        """Pixels of every patch from the visible ones, [B, V, X]."""
        batch, patches = hidden_BV.shape
        order_BV = hidden_BV.to(torch.int64).argsort(dim=1, stable=True)  # visible patches first, each group in its order
        visible_BU = order_BV[:, : patches - int(hidden_BV[0].sum())]
        token_BVE = self.vit.embed(patch_BVX)
        token_BUE = token_BVE.gather(1, visible_BU[..., None].expand(-1, -1, token_BVE.shape[-1]))
        encoded_BSD = self.narrow(self.vit.encode(token_BUE))
        class_B1D, seen_BUD = encoded_BSD[:, :1], encoded_BSD[:, 1:]
        mask_BVD = self.mask_D.expand(batch, patches, -1).to(seen_BUD.dtype)
        full_BVD = mask_BVD.scatter(1, visible_BU[..., None].expand_as(seen_BUD), seen_BUD) + self.position_VD
        x_BSD = torch.cat([class_B1D, full_BVD], dim=1)
        for block in self.blocks:
            x_BSD = block(x_BSD)
        return self.paint(self.norm(x_BSD[:, 1:]))

    def _targets(self, patch_BVX: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What is to be predicted, with the mean and the deviation that turn it back into pixels."""
        if self.config.target == "pixels":
            return patch_BVX, patch_BVX.new_zeros(()), patch_BVX.new_ones(())
        mean_BV1 = patch_BVX.mean(-1, keepdim=True)
        std_BV1 = (patch_BVX.var(-1, keepdim=True) + 1e-6).sqrt()
        return (patch_BVX - mean_BV1) / std_BV1, mean_BV1, std_BV1


def draw_hidden(batch: int, patches: int, num_hidden: int, generator: torch.Generator | None = None) -> Tensor:
    """Marks exactly `num_hidden` of the patches in each row, all choices equally likely; bool [batch, patches], on the CPU."""
    rank_BV = torch.rand(batch, patches, generator=generator).argsort(1).argsort(1)
    return rank_BV < num_hidden
