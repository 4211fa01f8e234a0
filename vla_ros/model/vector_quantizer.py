# SPDX-License-Identifier: Apache-2.0
"""The codebook of a VQ-VAE (van den Oord et al., arXiv 1711.00937): nearest code, straight-through gradient, moving averages.

Axes: N cells, C code width, K codes.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def nearest_code(z_NC: Tensor, codebook_KC: Tensor) -> Tensor:
    """k = argmin_k ||z - e_k|| for each row, int64 [N]; the first of equal ones.

    Distances are taken as defined. The usual ||z||^2 - 2 z.e + ||e||^2 is faster and loses small distances to rounding.
    """
    if torch.compiler.is_exporting():  # ONNX has no cdist; one picture's cells are few enough to be written out
        return (z_NC[:, None] - codebook_KC).square().sum(-1).argmin(-1)
    return torch.cdist(z_NC[None], codebook_KC[None], compute_mode="donot_use_mm_for_euclid_dist")[0].argmin(-1)


def straight_through(z: Tensor, quantised: Tensor) -> Tensor:
    """`quantised` going forward, bit for bit; its gradient goes to `z` unchanged."""
    return quantised.detach() + (z - z.detach())


def code_counts(ids: Tensor, codes: int) -> Tensor:
    """How often each code was chosen, float32 [K]."""
    return torch.bincount(ids.flatten(), minlength=codes).float()


def perplexity(count_K: Tensor) -> float:
    """exp of the entropy of the codes' use: K if all are used alike, 1 if one is used alone."""
    share_K = count_K / count_K.sum()
    return math.exp(-float(torch.special.xlogy(share_K, share_K).sum()))


class VectorQuantizer(nn.Module):
    """Codebook that follows the mean of the cells that chose each code (VQ-VAE, appendix A.1).

    In training mode a pass moves the codebook, and a code that hardly any cell chooses starts anew at a random cell of the batch
    (as in Jukebox, arXiv 2005.00341). The first pass takes all codes from its batch in this way.
    """

    def __init__(self, codes: int, width: int, decay: float, dead_below: float) -> None:
        super().__init__()
        self.decay = decay
        self.dead_below = dead_below
        self.register_buffer("codebook_KC", torch.randn(codes, width))
        self.register_buffer("share_K", torch.zeros(codes))  # of the cells that chose a code; shares, so that batches of any size count alike
        self.register_buffer("sum_KC", torch.zeros(codes, width))

    def forward(self, z_NC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantised cells [N, C] with the straight-through gradient, ids [N], and the commitment loss ||z - sg(e)||^2 per entry."""
        if self.training:
            self._revive(z_NC.detach())
        id_N = nearest_code(z_NC.detach(), self.codebook_KC)
        quantised_NC = self.codebook_KC[id_N]
        if self.training:
            self._follow(z_NC.detach(), id_N)
        return straight_through(z_NC, quantised_NC), id_N, F.mse_loss(z_NC, quantised_NC)

    @torch.no_grad()
    def _follow(self, z_NC: Tensor, id_N: Tensor) -> None:
        chosen_NK = F.one_hot(id_N, len(self.share_K)).to(z_NC.dtype) / len(z_NC)
        self.share_K.lerp_(chosen_NK.sum(0), 1.0 - self.decay)
        self.sum_KC.lerp_(chosen_NK.t() @ z_NC, 1.0 - self.decay)
        self.codebook_KC.copy_(self.sum_KC / self.share_K[:, None])  # shares stay positive, since dead codes are revived first

    @torch.no_grad()
    def _revive(self, z_NC: Tensor) -> None:
        even_share = 1.0 / len(self.share_K)
        dead_K = self.share_K < self.dead_below * even_share
        number = int(dead_K.sum())
        if not number:
            return
        rows = torch.randperm(len(z_NC), device=z_NC.device)
        start_XC = z_NC[rows[torch.arange(number, device=z_NC.device) % len(rows)]]
        self.codebook_KC[dead_K] = start_XC
        self.sum_KC[dead_K] = start_XC * even_share
        self.share_K[dead_K] = even_share
