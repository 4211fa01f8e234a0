# SPDX-License-Identifier: Apache-2.0
"""Words pick cells of the picture, and the cells say where. Axes: as in `vla_ros.model.policy`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vla_ros.model.attention import MASKED
from vla_ros.model.config import PolicyConfig
from vla_ros.model.state import Waves

PLACE_SCALE = 4.0  # parts of the plan's bounds (about 0.6 m) to about standard deviations of the tool's place (0.1 m)


class Pointer(nn.Module):
    """The plan token picks words of the instruction, the words pick cells of the picture, the cells say where.

    Vision tokens are taught to say colours and kinds in the vocabulary's own embeddings (`spoken`), so that the words of
    an instruction match the cells that show what they name almost from the first steps on. The result is a place, whose
    regression tells a young network where to look, which the cross-entropy of a far-away bin does not.
    """

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        width = config.width
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.gain = nn.Parameter(torch.tensor(2.0))
        self.place = nn.Linear(width, 2)
        self.waves = Waves(config.wave_count)
        self.tell = nn.Linear(width + 2 * (1 + 2 * config.wave_count), width)
        self.scale = width**-0.5

    def forward(
        self,
        plan_NE: Tensor,
        text_NTE: Tensor,
        word_NTE: Tensor,
        padded_NT: Tensor,
        front_BVE: Tensor,
        spoken_BVE: Tensor,
        told_N2: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The plan token's change [N, E] and the place [N, 2] in parts of its bounds.

        `text_NTE` are the text's features, `word_NTE` its embeddings; `spoken_BVE` what each cell says.
        """
        score_NT = (self.key(text_NTE) @ self.query(plan_NE)[..., None])[..., 0] * self.scale
        weight_NT = (score_NT + padded_NT * MASKED).softmax(-1)
        wanted_NE = (weight_NT[:, None] @ word_NTE)[:, 0] * self.gain
        wanted_BKE = wanted_NE.unflatten(0, (front_BVE.shape[0], -1))
        weight_BKV = (wanted_BKE @ spoken_BVE.transpose(1, 2)).softmax(-1)
        place_BV2 = self.place(front_BVE) + 0.5
        mixed_NX = (weight_BKV @ torch.cat([front_BVE, place_BV2], dim=-1)).flatten(0, 1)
        mixed_NE, place_N2 = mixed_NX[:, :-2], mixed_NX[:, -2:]
        # Bounds are some standard deviations of the state wide: scaled alike, place and state can be compared.
        used_N2 = place_N2 if told_N2 is None else torch.where(told_N2.isnan(), place_N2, told_N2)
        waves_NX = self.waves(PLACE_SCALE * (used_N2 - 0.5))
        return self.tell(torch.cat([mixed_NE, waves_NX], dim=1)), place_N2
