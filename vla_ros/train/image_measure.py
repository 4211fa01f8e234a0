# SPDX-License-Identifier: Apache-2.0
"""How well pictures are painted: PSNR and use of the codes on held-out pictures, and a picture of it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from vla_ros.core.errors import ConfigError
from vla_ros.model.image_tokens import ImageTokenizer, psnr, to_pixels, to_range
from vla_ros.model.mae import MaskedAutoencoder, draw_hidden
from vla_ros.model.vector_quantizer import code_counts, perplexity
from vla_ros.model.vit import unpatchify


class TokenizerMeasure:
    """Held-out PSNR of each camera, mean squared error in -1..1, and the codes' use, over all pictures together."""

    def __init__(self, codes: int) -> None:
        self._count_K = torch.zeros(codes)
        self._psnr: dict[str, list[float]] = {}
        self._errors: list[float] = []

    def add(self, model: ImageTokenizer, images: dict[str, Tensor]) -> None:
        """Takes in one batch; the model is in eval mode."""
        for name, image_BHWC in images.items():
            output = model(image_BHWC)
            self._psnr.setdefault(name, []).extend(psnr(output.painted_BHWC, to_range(image_BHWC)).tolist())
            self._errors.extend((output.painted_BHWC - to_range(image_BHWC)).square().mean((1, 2, 3)).tolist())
            self._count_K += code_counts(output.ids_Bhw, len(self._count_K))

    def result(self) -> dict[str, float]:
        """`error`, `psnr_db`, `psnr_<camera>_db`, `perplexity` (1..K) and `codes_used` (share of the codebook)."""
        by_camera = {f"psnr_{name}_db": float(np.mean(values)) for name, values in self._psnr.items()}
        return {
            "error": float(np.mean(self._errors)), "psnr_db": float(np.mean(list(by_camera.values()))), **by_camera,
            "perplexity": perplexity(self._count_K), "codes_used": float((self._count_K > 0).float().mean()),
        }


class MaskedMeasure:
    """Held-out loss and PSNR over hidden patches only; the same patches are hidden each time."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._psnr: list[float] = []
        self._errors: list[float] = []

    def add(self, model: MaskedAutoencoder, images: dict[str, Tensor]) -> None:
        """Takes in one batch; the model is in eval mode."""
        true_BVX = model.vit.patches(images)
        hidden_BV = draw_hidden(*true_BVX.shape[:2], model.num_hidden, self._generator)
        output = model(images, hidden_BV)
        painted, true = (patches[hidden_BV].unflatten(0, (len(hidden_BV), -1)) for patches in (output.painted_BVX, true_BVX))
        self._psnr.extend(psnr(painted, true).tolist())
        self._errors.extend([float(output.loss)] * len(hidden_BV))

    def result(self) -> dict[str, float]:
        """`error` (the loss) and `psnr_db`."""
        return {"error": float(np.mean(self._errors)), "psnr_db": float(np.mean(self._psnr))}


def write_pictures(path: Path, model: nn.Module, images: dict[str, Tensor]) -> None:
    """A PNG: for each camera a row of pictures above a row of what the model painted (hidden patches only, for a masked autoencoder)."""
    model.eval()
    with torch.inference_mode():
        painted = _paint(model, images)
    rows = [row for name, image_BHWC in images.items() for row in (image_BHWC, to_pixels(painted[name]))]
    strips = [np.concatenate(list(row.numpy()), axis=1) for row in rows]
    width = max(strip.shape[1] for strip in strips)
    padded = [np.pad(strip, ((0, 0), (0, width - strip.shape[1]), (0, 0))) for strip in strips]
    if not cv2.imwrite(str(path), np.concatenate(padded)[:, :, ::-1]):
        raise ConfigError(f"cannot write {path}: give --out a folder that can be written")


def _paint(model: nn.Module, images: dict[str, Tensor]) -> dict[str, Tensor]:
    if not isinstance(model, MaskedAutoencoder):
        return {name: model(image_BHWC).painted_BHWC for name, image_BHWC in images.items()}
    vit = model.vit.config
    patch_BVX = model(images, draw_hidden(len(next(iter(images.values()))), vit.num_patches, model.num_hidden, torch.Generator().manual_seed(0))).painted_BVX
    sizes = [(camera.height // vit.patch) * (camera.width // vit.patch) for camera in vit.cameras]
    return {camera.name: unpatchify(part, vit.patch, camera.height, camera.width) for camera, part in zip(vit.cameras, patch_BVX.split(sizes, dim=1))}
