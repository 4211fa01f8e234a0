# SPDX-License-Identifier: Apache-2.0
"""Vision transformer (Dosovitskiy et al., arXiv 2010.11929) for several cameras and several past frames.

Each picture is cut into patches; a patch becomes a token by one linear layer. A token's place is the sum of a learned
position in its camera's picture (which tells the cameras apart as well) and a learned embedding of its frame's age.
Tokens come newest frame first, then cameras in the order of the config, then rows: the newest frame of the first camera leads.

Axes: B samples, R frames (newest first), H and W pixels, C channels, V patches of all cameras and frames, X pixels of a
patch times 3, E width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vla_ros.core.errors import ConfigError
from vla_ros.core.observation import CameraSpec
from vla_ros.core.tabletop import CAMERAS
from vla_ros.model.attention import SelfBlock

GREY = 128  # about 0 of -1..1
INIT_STD = 0.02  # of learned tables, as in the ViT paper's code


@dataclass(frozen=True, kw_only=True)
class VitConfig:
    """Shape of a `Vit`.

    Attributes:
        cameras: their pictures' sizes, multiples of `patch`.
        patch: side of a square patch, pixels.
        frames: pictures of each camera, the newest and `frames` - 1 past ones.
        width, depth, heads, mlp_ratio: of the blocks.
    """

    cameras: tuple[CameraSpec, ...] = CAMERAS
    patch: int = 16
    frames: int = 1
    width: int = 192
    depth: int = 6
    heads: int = 6
    mlp_ratio: int = 4

    def __post_init__(self) -> None:
        if not self.cameras:
            raise ConfigError("a vision transformer needs at least one camera: set cameras")
        if self.frames < 1:
            raise ConfigError(f"frames must be at least 1, got {self.frames}")
        if self.width % self.heads:
            raise ConfigError(f"width {self.width} is not a multiple of heads {self.heads}")
        for camera in self.cameras:
            if camera.height % self.patch or camera.width % self.patch:
                raise ConfigError(f"camera {camera.name} is {camera.width}x{camera.height}: use multiples of {self.patch} pixels")

    @property
    def patches_of_frame(self) -> int:
        """Patches of all cameras in one frame."""
        return sum((camera.height // self.patch) * (camera.width // self.patch) for camera in self.cameras)

    @property
    def num_patches(self) -> int:
        """V: patches of all cameras and frames."""
        return self.frames * self.patches_of_frame


def patchify(image_BHWC: Tensor, patch: int) -> Tensor:
    """Patches row by row, [B, V, patch * patch * C]; inside a patch pixels row by row, channels last."""
    batch, height, width, channels = image_BHWC.shape
    grid = image_BHWC.reshape(batch, height // patch, patch, width // patch, patch, channels)
    return grid.transpose(2, 3).reshape(batch, -1, patch * patch * channels)


def unpatchify(patch_BVX: Tensor, patch: int, height: int, width: int) -> Tensor:
    """The inverse of `patchify` for 3 channels, [B, H, W, 3]."""
    grid = patch_BVX.reshape(len(patch_BVX), height // patch, width // patch, patch, patch, 3)
    return grid.transpose(2, 3).reshape(len(patch_BVX), height, width, 3)


class Vit(nn.Module):
    """The encoder. `forward` gives the class token and the patches; `patches`, `embed` and `encode` are its three parts."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.patch_embedding = nn.Linear(3 * config.patch**2, width)
        self.position_VE = nn.Parameter(INIT_STD * torch.randn(config.patches_of_frame, width))
        self.frame_RE = nn.Parameter(INIT_STD * torch.randn(config.frames, width))
        self.class_E = nn.Parameter(INIT_STD * torch.randn(width))
        self.blocks = nn.ModuleList(SelfBlock(width, config.heads, config.mlp_ratio, config.depth) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width)
        nn.init.xavier_uniform_(self.patch_embedding.weight)
        nn.init.zeros_(self.patch_embedding.bias)

    def forward(self, images: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Class token [B, E] and patch tokens [B, V, E].

        Args:
            images: for each camera's name uint8 [B, H, W, 3], or [B, R, H, W, 3] with the newest frame first.

        Raises:
            ConfigError: a camera is missing or its pictures have another shape.
        """
        encoded_BSE = self.encode(self.embed(self.patches(images)))
        return encoded_BSE[:, 0], encoded_BSE[:, 1:]

    def patches(self, images: dict[str, Tensor]) -> Tensor:
        """Pixels of every patch in -1..1, [B, V, X]."""
        config = self.config
        by_frame = [[] for _ in range(config.frames)]
        for camera in config.cameras:
            image_BRHWC = self._pictures(images, camera)
            for frame, parts in enumerate(by_frame):
                parts.append(patchify(image_BRHWC[:, frame], config.patch))
        pixel_BVX = torch.cat([part for parts in by_frame for part in parts], dim=1)
        return pixel_BVX.to(self.class_E.dtype) * (1 / 127.5) - 1.0

    def embed(self, patch_BVX: Tensor) -> Tensor:
        """Patch tokens with their place, [B, V, E]; the class token is not among them."""
        place_VE = (self.frame_RE[:, None] + self.position_VE).flatten(0, 1)
        return self.patch_embedding(patch_BVX) + place_VE

    def encode(self, token_BVE: Tensor) -> Tensor:
        """Class token, then the given tokens (all, or the visible ones of a masked autoencoder), [B, 1 + V, E]."""
        class_B1E = self.class_E.expand(token_BVE.shape[0], 1, -1)
        x_BSE = torch.cat([class_B1E, token_BVE], dim=1)
        for block in self.blocks:
            x_BSE = block(x_BSE)
        return self.norm(x_BSE)

    def _pictures(self, images: dict[str, Tensor], camera: CameraSpec) -> Tensor:
        """One camera's pictures with the axis of frames."""
        if camera.name not in images:
            raise ConfigError(f"no picture of camera {camera.name}; there are {', '.join(images)}")
        image = images[camera.name]
        image_BRHWC = image[:, None] if image.dim() == 4 else image
        expected = (self.config.frames, *camera.shape)
        if tuple(image_BRHWC.shape[1:]) != expected:
            raise ConfigError(f"camera {camera.name}: expected pictures [B, R, H, W, C] with R, H, W, C = {list(expected)}, got {list(image.shape)}")
        return image_BRHWC


class VitStem(nn.Module):
    """The vision transformer in the place of the policy's `VisionEncoder`: the patches, then the class token if asked for.

    The front camera's newest patches lead, as the policy's pointing expects. `project` is there only where widths differ.
    """

    def __init__(self, config: VitConfig, width: int, class_token: bool = False) -> None:
        super().__init__()
        self.vit = Vit(config)
        self.class_token = class_token
        self.project: nn.Module = nn.Linear(config.width, width) if config.width != width else nn.Identity()

    @property
    def num_tokens(self) -> int:
        """Tokens of one sample."""
        return self.vit.config.num_patches + int(self.class_token)

    def forward(self, images: dict[str, Tensor]) -> Tensor:
        """Tokens [B, V, E] (or V + 1, the class token last). A camera that gave no picture is grey."""
        first = next(iter(images.values()))
        absent = [camera for camera in self.vit.config.cameras if camera.name not in images]
        grey = {camera.name: first.new_full((*first.shape[:-3], *camera.shape), GREY) for camera in absent}
        class_BE, patch_BVE = self.vit({**images, **grey})
        if self.class_token:
            patch_BVE = torch.cat([patch_BVE, class_BE[:, None]], dim=1)
        return self.project(patch_BVE)
