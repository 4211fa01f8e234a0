# SPDX-License-Identifier: Apache-2.0
"""What the policy knows of its body: proprioception as a token, and the state in which committed steps of a chunk end.

Axes: as in `vla_ros.model.policy`; M moved entries, F frequencies, X features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vla_ros.model.config import PolicyConfig

CERTAIN = 30.0  # margin of a committed token's logit: a probability of 1 in float32


class Waves(nn.Module):
    """Numbers of size one with their sines and cosines at doubling frequencies, from a wavelength of 8 down.

    They let a small network tell millimetres apart (Tancik et al., arXiv 2006.10739).
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.register_buffer("frequency_F", torch.pi / 4 * 2.0 ** torch.arange(count), persistent=False)

    def forward(self, x_NS: Tensor) -> Tensor:
        """[N, S] to [N, S * (1 + 2 * count)]."""
        phase_NX = (x_NS[..., None] * self.frequency_F).flatten(1)
        return torch.cat([x_NS, phase_NX.sin(), phase_NX.cos()], dim=1)


class Anchor(nn.Module):
    """Where the committed steps of a chunk end: the state from which the free ones go on.

    Free steps are told relative to it and moved by whole bins afterwards, so that a policy that starts from rest and one that
    goes on in flight are the same function of a state.
    """

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.config = config
        spec = config.action
        relative_D = torch.tensor([dim.relative for dim in spec.dims])
        width_D = torch.tensor((spec.high_D - spec.low_D) / spec.num_bins, dtype=torch.float32)
        pairs = [(spec.index(dim), config.proprio.index(entry)) for dim, entry in config.moved_state]
        self._dims, self._entries = [d for d, _ in pairs], [e for _, e in pairs]
        self.register_buffer("low_D", torch.tensor(spec.low_D, dtype=torch.float32), persistent=False)
        self.register_buffer("width_D", width_D, persistent=False)
        self.register_buffer("relative_D", relative_D.float(), persistent=False)
        self.count_HE = nn.Parameter(torch.zeros(spec.horizon + 1, config.width))

    def forward(self, prefix_NQ: Tensor, proprio_NS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The state [N, S] after the committed steps, the bins [N, D] by which free steps are moved, how many are committed [N]."""
        prefix_NHD = prefix_NQ.unflatten(1, (-1, self.low_D.shape[0]))
        count_N = (prefix_NHD[:, :, 0] >= 0).sum(1)
        last_N11 = (count_N - 1).clamp_min(0)[:, None, None]
        bin_ND = prefix_NHD.gather(1, last_N11.expand(-1, 1, prefix_NHD.shape[2]))[:, 0] - self.config.first_action_token
        moves_N1 = (count_N > 0)[:, None]
        value_ND = self.low_D + (bin_ND + 0.5) * self.width_D
        value_NM = value_ND[:, self._dims]
        state_NM = proprio_NS[:, self._entries]
        ahead_NM = value_NM + self.relative_D[self._dims] * state_NM
        moved_NS = proprio_NS.index_copy(1, torch.tensor(self._entries, device=proprio_NS.device), torch.where(moves_N1, ahead_NM, state_NM))
        shift_ND = torch.where(moves_N1, bin_ND - self.config.num_bins // 2, 0) * self.relative_D.long()
        return moved_NS, shift_ND, count_N

    def per_token(self, shift_ND: Tensor) -> Tensor:
        """The bins by which each action token is moved, [N, Q]."""
        return shift_ND[:, None].expand(-1, self.config.horizon, -1).flatten(1)

    def move(self, action_NQA: Tensor, shift_NQ: Tensor) -> Tensor:
        """Logits over bins relative to the anchor as logits over bins of the action: bin b comes from bin b - shift."""
        bins = action_NQA.shape[-1]
        from_NQA = torch.arange(bins, device=shift_NQ.device) - shift_NQ[..., None]
        known_NQA = (from_NQA >= 0) & (from_NQA < bins)
        moved_NQA = action_NQA.gather(-1, from_NQA.clamp(0, bins - 1))
        return torch.where(known_NQA, moved_NQA, -CERTAIN)


class StateEncoder(nn.Module):
    """Proprioception in physical units to one state token; a learned stand-in where it is withheld."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.register_buffer("mean_S", torch.zeros(config.proprio_dim))
        self.register_buffer("std_S", torch.ones(config.proprio_dim))
        self.waves = Waves(config.wave_count)
        inputs = config.proprio_dim * (1 + 2 * config.wave_count)
        self.layers = nn.Sequential(
            nn.Linear(inputs, config.width), nn.ReLU(), nn.Linear(config.width, config.width)
        )
        self.none_E = nn.Parameter(torch.randn(config.width) * 0.02)

    def forward(self, proprio_BS: Tensor, withheld_B: Tensor | None = None) -> Tensor:
        """State token [B, E]; rows where `withheld_B` is true get the learned `none`."""
        normed_BS = (proprio_BS - self.mean_S) / self.std_S
        state_BE = self.layers(self.waves(normed_BS))
        if withheld_B is None:
            return state_BE
        return torch.where(withheld_B[:, None], self.none_E, state_BE)
