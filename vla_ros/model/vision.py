# SPDX-License-Identifier: Apache-2.0
"""From uint8 pictures to vision tokens.

Axes: B frames, H and W pixels, C channels, V vision tokens, E embedding width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vla_ros.core.errors import ConfigError
from vla_ros.core.observation import CameraSpec
from vla_ros.model.config import STRIDE, PolicyConfig, vision_tokens_of
from vla_ros.model.image_tokens import ImageTokenIds, ImageTokenizerConfig, make_tokenizer
from vla_ros.model.vit import VitConfig, VitStem


class ConvStem(nn.Module):
    """A 4x4 patch embedding, two stride-2 convolutions and a residual one: 16 pixels a token, each of which sees 60.

    Early convolutions help transformers see better (arXiv 2106.14881). The first layer's large maps are what costs on a CPU, so it is
    one matrix product with no normalisation behind it.
    """

    def __init__(self, channels: tuple[int, ...], width: int) -> None:
        super().__init__()
        first, second = channels
        self.embed = nn.Sequential(nn.Conv2d(3, first, 4, stride=4), nn.ReLU(inplace=True))
        self.shrink = nn.Sequential(*_conv(first, second, stride=2), nn.ReLU(inplace=True), *_conv(second, width, stride=2), nn.ReLU(inplace=True))
        self.around = nn.Sequential(*_conv(width, width, stride=1), nn.ReLU(inplace=True))

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Features [B, E, H/16, W/16]."""
        feature_BEhw = self.shrink(self.embed(image_BCHW))
        return feature_BEhw + self.around(feature_BEhw)


def _conv(incoming: int, outgoing: int, stride: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(incoming, outgoing, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(outgoing)


class CameraEncoder(nn.Module):
    """One camera's stem with its learned position and camera embedding."""

    def __init__(self, camera: CameraSpec, config: PolicyConfig) -> None:
        super().__init__()
        if config.stem == "conv":
            self.stem: nn.Module = ConvStem(config.stem_channels, config.width)
        else:
            self.stem = nn.Conv2d(3, config.width, STRIDE, stride=STRIDE)
        # Positions of one camera are its own, so the camera embedding is part of them.
        self.position_VE = nn.Parameter(torch.randn(vision_tokens_of(camera), config.width) * 0.02)

    def absent(self, frames: int) -> Tensor:
        """Tokens [frames, V, E] where this camera gave no picture: their places alone."""
        return self.position_VE.expand(frames, -1, -1)

    def forward(self, image_BHWC: Tensor) -> Tensor:
        """Tokens [B, V, E], row-major over the picture, from uint8 pixels [B, H, W, 3]."""
        image_BCHW = image_BHWC.permute(0, 3, 1, 2).contiguous().to(self.position_VE.dtype) * (1 / 127.5) - 1.0
        feature_BEhw = self.stem(image_BCHW)
        return feature_BEhw.flatten(2).transpose(1, 2) + self.position_VE


class VisionEncoder(nn.Module):
    """All cameras' tokens in the order of `config.cameras`."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.cameras = nn.ModuleDict({camera.name: CameraEncoder(camera, config) for camera in config.cameras})

    def forward(self, images: dict[str, Tensor]) -> Tensor:
        """Tokens [B, V, E]; `images` holds uint8 [B, H, W, 3] for each camera, named; all but the first may be absent."""
        frames = len(next(iter(images.values())))
        tokens = [encoder(images[name]) if name in images else encoder.absent(frames) for name, encoder in self.cameras.items()]
        return torch.cat(tokens, dim=1)


class TokenVision(nn.Module):
    """Ids of a frozen image tokenizer, embedded from the policy's own vocabulary, with learned positions."""

    def __init__(self, config: PolicyConfig, embed: nn.Embedding) -> None:
        super().__init__()
        self.ids = ImageTokenIds(make_tokenizer(ImageTokenizerConfig.from_dict(config.image_tokens)), config.cameras)
        if self.ids.num_tokens != config.num_vision_tokens:
            raise ConfigError(f"the image tokenizer's stride must be {STRIDE}, as the policy's: got {config.image_tokens['stride']}")
        self.position_VE = nn.Parameter(torch.randn(config.num_vision_tokens, config.width) * 0.02)
        self._first = config.first_image_token
        self._embed = [embed]  # in a list: the embedding belongs to the policy and must not appear twice in its state

    def forward(self, images: dict[str, Tensor]) -> Tensor:
        """Tokens [B, V, E]; absent cameras have their places alone."""
        id_BV = self.ids(images)
        seen_BVE = self._embed[0](self._first + id_BV)
        missing = self.position_VE.shape[0] - id_BV.shape[1]
        return nn.functional.pad(seen_BVE, (0, 0, 0, missing)) + self.position_VE


def make_vision(config: PolicyConfig, embed: nn.Embedding) -> nn.Module:
    """The encoder that `config.stem` names; each gives tokens [B, V, E], those of the first camera's newest picture first."""
    if config.stem == "tokens":
        return TokenVision(config, embed)
    if config.stem == "vit":
        shape = VitConfig(
            cameras=config.cameras, patch=STRIDE, frames=config.frames, width=config.width, depth=config.vit_depth,
            heads=config.heads, mlp_ratio=config.mlp_ratio,
        )
        return VitStem(shape, config.width)
    return VisionEncoder(config)
