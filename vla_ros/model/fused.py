# SPDX-License-Identifier: Apache-2.0
"""The policy's block as an exported graph has it: attention is one operator (ONNX Attention, operator set 23) over keys and values side by side.

Training writes attention out, so that one picture serves many labels. A graph has one label: there the operator saves about twenty nodes a
block, which cost more on a CPU than the attention itself. Weights, names and answers are the block's own.

Axes: as in `vla_ros.model.transformer`; B = N.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.onnx import ops

from vla_ros.model.transformer import Block, Source

OPSET = 23
MASKED = -60.0
"""Added to a score that must not count. A weight of e^-60 beside one of about one is far below float32's resolution, and unlike a larger mask's
is not denormal, with which processors are ten times slower. It hides a token as long as its score is less than 40 above the best visible one;
`vla export` compares graph and network on held-out frames."""


class FusedBlock(Block):
    """A `Block` that shares its layers with another; what it hands on of keys and values is [N, S, E], heads side by side."""

    def __init__(self, block: Block) -> None:
        self.__dict__.update(block.__dict__)

    def vision(self, x_BVE: Tensor, update: bool) -> tuple[Tensor, Tensor, Tensor]:
        """As `Block.vision`, with keys and values [B, V, E]."""
        normed_BVE = self.norm_attention(x_BVE)
        key_BVE, value_BVE = self._keys_values(normed_BVE)
        if update:
            x_BVE = self._residual(x_BVE, self._attend(normed_BVE, key_BVE, value_BVE))
        return x_BVE, key_BVE, value_BVE

    def label(self, x_NLE: Tensor, key_BVE: Tensor, value_BVE: Tensor, mask_N1LL: Tensor, start: int = 0) -> Tensor:
        """As `Block.label`."""
        normed_NLE = self.norm_attention(x_NLE)
        key_NLE, value_NLE = self._keys_values(normed_NLE)
        mask_N1QL = mask_N1LL[:, :, start:].clamp_min(MASKED)
        mask_N1QS = torch.cat([mask_N1QL.new_zeros(*mask_N1QL.shape[:3], key_BVE.shape[1]), mask_N1QL], dim=-1)
        keys_NSE, values_NSE = torch.cat([key_BVE, key_NLE], dim=1), torch.cat([value_BVE, value_NLE], dim=1)
        return self._residual(x_NLE[:, start:], self._attend(normed_NLE[:, start:], keys_NSE, values_NSE, mask_N1QS))

    def extend(self, x_N1E: Tensor, sources: Sequence[Source]) -> tuple[Tensor, Source]:
        """As `Block.extend`."""
        normed_N1E = self.norm_attention(x_N1E)
        own = Source(**dict(zip(("key", "value"), self._keys_values(normed_N1E))))
        everything = (*sources, own)
        masks = [
            x_N1E.new_zeros(len(x_N1E), 1, 1, source.key.shape[1]) if source.mask_N11S is None else source.mask_N11S.clamp_min(MASKED)
            for source in everything
        ]
        keys_NSE, values_NSE = (torch.cat([getattr(source, name) for source in everything], dim=1) for name in ("key", "value"))
        return self._residual(x_N1E, self._attend(normed_N1E, keys_NSE, values_NSE, torch.cat(masks, dim=-1))), own

    def _split(self, x_NLE: Tensor) -> Tensor:
        return x_NLE

    def _attend(self, normed_NQE: Tensor, keys_NSE: Tensor, values_NSE: Tensor, mask_N1QS: Tensor | None = None) -> Tensor:
        query_NQE = self.query(normed_NQE)
        return ops.attention(query_NQE, keys_NSE, values_NSE, mask_N1QS, q_num_heads=self.heads, kv_num_heads=self.heads, scale=self.scale)[0]
