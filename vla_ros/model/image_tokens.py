# SPDX-License-Identifier: Apache-2.0
"""Pictures as discrete tokens: VQ-VAE (van den Oord et al., arXiv 1711.00937) and dVAE (Ramesh et al., arXiv 2102.12092).

Both have a convolutional encoder to one vector per cell of `stride` pixels, a codebook, and a decoder back to pixels. The
VQ-VAE takes the nearest code and passes the gradient straight through; the dVAE draws a code by Gumbel-softmax.

Axes: B pictures, H and W pixels, h and w cells, C code width, K codes, N = B*h*w cells.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vla_ros.core.errors import ConfigError
from vla_ros.core.observation import CameraSpec
from vla_ros.model.vector_quantizer import VectorQuantizer, nearest_code

KINDS = ("vqvae", "dvae")


@dataclass(frozen=True, kw_only=True)
class ImageTokenizerConfig:
    """Shape and losses of an image tokenizer.

    Attributes:
        kind: one of `KINDS`.
        stride: pixels of a cell, both ways; a power of two.
        channels: of the convolutions.
        residual_blocks: on each side of the codebook.
        codes: size of the codebook.
        code_width: of one code.
        commitment: weight of the VQ-VAE's commitment loss; 0.25 is the paper's.
        ema_decay: of the VQ-VAE's codebook; 0.99 is the paper's.
        dead_below: a code with less than this part of an even share of the cells is dead and starts anew at a cell of the batch.
        kl_weight: of the dVAE's divergence from even use of the codes, in nats per cell.
    """

    kind: str = "vqvae"
    stride: int = 16
    channels: int = 64
    residual_blocks: int = 2
    codes: int = 512
    code_width: int = 32
    commitment: float = 0.25
    ema_decay: float = 0.99
    dead_below: float = 0.02
    kl_weight: float = 1e-5

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"kind is {self.kind!r}: valid are {', '.join(KINDS)}")
        if self.stride < 2 or self.stride & (self.stride - 1):
            raise ConfigError(f"stride must be a power of two from 2 on, got {self.stride}")
        if self.codes < 2:
            raise ConfigError(f"codes must be at least 2, got {self.codes}")
        if not 0.0 < self.dead_below < 1.0:
            raise ConfigError(f"dead_below must lie between 0 and 1, got {self.dead_below}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for YAML and checkpoints."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ImageTokenizerConfig:
        """Inverse of `to_dict`; raises ConfigError for a key that no field has."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigError(f"unknown image tokenizer setting {', '.join(unknown)}: valid are {', '.join(sorted(known))}")
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class TokenizerOutput:
    """One pass over pictures.

    painted_BHWC: reconstruction in -1..1. loss: `reconstruction` (mean squared error) and the kind's own part, weighted.
    regulariser: that part unweighted: commitment (VQ-VAE) or divergence in nats per cell (dVAE). ids_Bhw: chosen codes.
    """

    painted_BHWC: Tensor
    loss: Tensor
    reconstruction: Tensor
    regulariser: Tensor
    ids_Bhw: Tensor


def psnr(painted: Tensor, true: Tensor, span: float = 2.0) -> Tensor:
    """Peak signal-to-noise ratio of each picture in dB, 10 log10(span^2 / MSE), [B]; `span` is the range of values (2 for -1..1)."""
    error_B = (painted - true).square().flatten(1).mean(1)
    return 10.0 * torch.log10(span**2 / error_B.clamp_min(1e-12))


def to_range(image_BHWC: Tensor) -> Tensor:
    """uint8 pixels as float32 in -1..1."""
    return image_BHWC.float() * (1 / 127.5) - 1.0


def to_pixels(painted_BHWC: Tensor) -> Tensor:
    """The inverse of `to_range`, rounded and clipped, uint8."""
    return ((painted_BHWC + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)


class ResidualBlock(nn.Module):
    """x + conv1x1(relu(conv3x3(relu(x))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 1)
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] to the same."""
        return x_BCHW + self.layers(x_BCHW)


class ImageTokenizer(nn.Module):
    """What both kinds share: encoder, decoder, and pictures to ids and back. Pictures are uint8 [B, H, W, 3]."""

    def __init__(self, config: ImageTokenizerConfig, encoded: int) -> None:
        super().__init__()
        self.config = config
        halvings, channels = config.stride.bit_length() - 1, config.channels
        down: list[nn.Module] = []
        for level in range(halvings):
            down += [nn.Conv2d(channels if level else 3, channels, 4, stride=2, padding=1), nn.ReLU()]
        blocks = [ResidualBlock(channels) for _ in range(config.residual_blocks)]
        self.encoder = nn.Sequential(*down[:-1], *blocks, nn.ReLU(), nn.Conv2d(channels, encoded, 1))
        up: list[nn.Module] = []
        for level in range(halvings):
            last = level == halvings - 1
            up += [nn.ReLU(), nn.ConvTranspose2d(channels, 3 if last else channels, 4, stride=2, padding=1)]
        blocks = [ResidualBlock(channels) for _ in range(config.residual_blocks)]
        self.decoder = nn.Sequential(nn.Conv2d(config.code_width, channels, 3, padding=1), *blocks, *up)

    def forward(self, image_BHWC: Tensor, temperature: float = 1.0) -> TokenizerOutput:
        """Encodes, quantises, paints and compares."""
        raise NotImplementedError

    def codes(self, id_Bhw: Tensor) -> Tensor:
        """Code vectors, [B, h, w, C]."""
        raise NotImplementedError

    def encode(self, image_BHWC: Tensor) -> Tensor:
        """Ids of the cells, int64 [B, h, w]; the same picture always has the same ids."""
        raise NotImplementedError

    def decode(self, id_Bhw: Tensor) -> Tensor:
        """Pictures of ids, float32 [B, H, W, 3] in -1..1."""
        return self._paint(self.codes(id_Bhw))

    def _cells(self, image_BHWC: Tensor) -> Tensor:
        """Encoder output [B, h, w, C]."""
        height, width = image_BHWC.shape[1:3]
        if height % self.config.stride or width % self.config.stride:
            raise ConfigError(f"pictures are {width}x{height}: use multiples of stride {self.config.stride}")
        return self.encoder(to_range(image_BHWC).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    def _paint(self, code_BhwC: Tensor) -> Tensor:
        return self.decoder(code_BhwC.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    def _output(self, image_BHWC: Tensor, code_BhwC: Tensor, id_Bhw: Tensor, regulariser: Tensor, weight: float) -> TokenizerOutput:
        painted_BHWC = self._paint(code_BhwC)
        reconstruction = F.mse_loss(painted_BHWC, to_range(image_BHWC))
        return TokenizerOutput(
            painted_BHWC=painted_BHWC, loss=reconstruction + weight * regulariser, reconstruction=reconstruction, regulariser=regulariser, ids_Bhw=id_Bhw
        )


class VqVae(ImageTokenizer):
    """Nearest code, straight-through gradient, commitment loss, codebook by moving averages."""

    def __init__(self, config: ImageTokenizerConfig) -> None:
        super().__init__(config, config.code_width)
        # Cells of fixed scale: else the encoder leaves the codes behind in its first steps, and few stay in use (arXiv 2005.08520).
        self.encoder.append(nn.BatchNorm2d(config.code_width, affine=False))
        self.quantizer = VectorQuantizer(config.codes, config.code_width, config.ema_decay, config.dead_below)

    def forward(self, image_BHWC: Tensor, temperature: float = 1.0) -> TokenizerOutput:
        """As `ImageTokenizer.forward`; there is no temperature."""
        cell_BhwC = self._cells(image_BHWC)
        code_NC, id_N, commitment = self.quantizer(cell_BhwC.flatten(0, 2))
        id_Bhw = id_N.unflatten(0, cell_BhwC.shape[:3])
        return self._output(image_BHWC, code_NC.view_as(cell_BhwC), id_Bhw, commitment, self.config.commitment)

    def codes(self, id_Bhw: Tensor) -> Tensor:
        """As `ImageTokenizer.codes`."""
        return self.quantizer.codebook_KC[id_Bhw]

    def encode(self, image_BHWC: Tensor) -> Tensor:
        """As `ImageTokenizer.encode`."""
        cell_BhwC = self._cells(image_BHWC)
        return nearest_code(cell_BhwC.flatten(0, 2), self.quantizer.codebook_KC).unflatten(0, cell_BhwC.shape[:3])


class DVae(ImageTokenizer):
    """A distribution over codes per cell; in training a soft draw by Gumbel-softmax (arXiv 1611.01144), else the likeliest."""

    def __init__(self, config: ImageTokenizerConfig) -> None:
        super().__init__(config, config.codes)
        self.codebook_KC = nn.Parameter(torch.randn(config.codes, config.code_width))

    def forward(self, image_BHWC: Tensor, temperature: float = 1.0) -> TokenizerOutput:
        """As `ImageTokenizer.forward`; a low `temperature` draws nearly one code, a high one mixes many."""
        logit_BhwK = self._cells(image_BHWC)
        id_Bhw = logit_BhwK.argmax(-1)
        if self.training:
            code_BhwC = self.draw(logit_BhwK, temperature)
        else:
            code_BhwC = self.codes(id_Bhw)
        return self._output(image_BHWC, code_BhwC, id_Bhw, divergence_from_even(logit_BhwK), self.config.kl_weight)

    def draw(self, logit_BhwK: Tensor, temperature: float) -> Tensor:
        """A mixture of codes per cell, [B, h, w, C], by a softmax of the logits with Gumbel noise, over `temperature`."""
        return F.gumbel_softmax(logit_BhwK, tau=temperature, dim=-1) @ self.codebook_KC

    def codes(self, id_Bhw: Tensor) -> Tensor:
        """As `ImageTokenizer.codes`."""
        return self.codebook_KC[id_Bhw]

    def encode(self, image_BHWC: Tensor) -> Tensor:
        """As `ImageTokenizer.encode`."""
        return self._cells(image_BHWC).argmax(-1)


def divergence_from_even(logit_BhwK: Tensor) -> Tensor:
    """KL(softmax(logits) || even) = log K - entropy, in nats, mean over cells."""
    log_BhwK = logit_BhwK.log_softmax(-1)
    return (log_BhwK.exp() * log_BhwK).sum(-1).mean() + math.log(logit_BhwK.shape[-1])


def annealed_temperature(progress: float, start: float, end: float) -> float:
    """Cosine from `start` to `end` as `progress` goes from 0 to 1 (dVAE, appendix A.2: 1 to 1/16)."""
    part = min(max(progress, 0.0), 1.0)
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * part))


def make_tokenizer(config: ImageTokenizerConfig) -> ImageTokenizer:
    """The network of `config.kind`."""
    return VqVae(config) if config.kind == "vqvae" else DVae(config)


class ImageTokenIds(nn.Module):
    """A trained, frozen tokenizer in a policy: all cameras' ids as one row, so that the policy's vocabulary can embed them."""

    def __init__(self, tokenizer: ImageTokenizer, cameras: tuple[CameraSpec, ...]) -> None:
        super().__init__()
        self.tokenizer = tokenizer.requires_grad_(False).eval()
        self.cameras = cameras

    @property
    def num_tokens(self) -> int:
        """V: cells of all cameras."""
        stride = self.tokenizer.config.stride
        return sum((camera.height // stride) * (camera.width // stride) for camera in self.cameras)

    def forward(self, images: dict[str, Tensor]) -> Tensor:
        """Ids 0..K-1 in the order of the cameras that gave pictures, row-major, int64 [B, V]."""
        return torch.cat([self.tokenizer.encode(images[camera.name]).flatten(1) for camera in self.cameras if camera.name in images], dim=1)

    def train(self, mode: bool = True) -> ImageTokenIds:
        """Stays in eval mode: training the policy must not move the codebook."""
        return super().train(False)
