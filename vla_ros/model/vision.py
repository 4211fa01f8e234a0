# SPDX-License-Identifier: Apache-2.0
"""From uint8 pictures to vision tokens.

Axes: B frames, H and W pixels, C channels, V vision tokens, E embedding width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vla_ros.core.observation import CameraSpec
from vla_ros.model.config import STRIDE, PolicyConfig, vision_tokens_of


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
        """Tokens [B, V, E]; `images` holds uint8 [B, H, W, 3] for each camera, named."""
        return torch.cat([encoder(images[name]) for name, encoder in self.cameras.items()], dim=1)
