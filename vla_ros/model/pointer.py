# SPDX-License-Identifier: Apache-2.0
"""Words pick cells of the picture, and the cells say where (`Pointer`, for acting) and what, where and how many (`Finder`, for answers). Axes: as in `vla_ros.model.policy`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vla_ros.model.attention import MASKED
from vla_ros.model.config import PolicyConfig, grid_of
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


class Finder(nn.Module):
    """Every word of a question finds the cells that say it, and is told what else these say, where in the picture they are and how many.

    A word asks together with the one before it ("red cube") and with what it has understood so far. As with the `Pointer`, cells and words
    meet in the vocabulary's own embeddings.
    """

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        width = config.width
        self.gain = nn.Parameter(torch.tensor(2.0))
        self.before = nn.Linear(width, width, bias=False)
        self.understood = nn.Linear(width, width)
        self.enough = nn.Linear(2 * width, 1)
        self.waves = Waves(config.wave_count)
        self.tell = nn.Linear(width + 3 * (1 + 2 * config.wave_count), width)
        nn.init.eye_(self.before.weight)
        nn.init.zeros_(self.understood.weight)
        rows, columns = grid_of(config.cameras[0])
        corner_V2 = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).flip(1)
        self.register_buffer("corner_V2", corner_V2.float(), persistent=False)
        self.register_buffer("cells_2", torch.tensor([columns, rows], dtype=torch.float32), persistent=False)

    def forward(self, text_NTE: Tensor, word_NTE: Tensor, spoken_BVE: Tensor, offset_BV2: Tensor) -> Tensor:
        """What is added to the text's features, [N, T, E].

        Args:
            text_NTE: the text's features.
            word_NTE: its embeddings.
            spoken_BVE: what each cell of the first camera says.
            offset_BV2: where in its cell an object's centre lies, 0..1 to the right and down.
        """
        before_NTE = torch.cat([torch.zeros_like(word_NTE[:, :1]), word_NTE[:, :-1]], dim=1)
        wanted_NTE = (word_NTE + self.before(before_NTE) + self.understood(text_NTE)) * self.gain
        wanted_BRE = wanted_NTE.unflatten(0, (len(spoken_BVE), -1)).flatten(1, 2)
        score_BRV = wanted_BRE @ spoken_BVE.transpose(1, 2)
        place_BV2 = (self.corner_V2 + offset_BV2) / self.cells_2
        found_BRX = score_BRV.softmax(-1) @ torch.cat([spoken_BVE, place_BV2], dim=-1)
        needed_BR1 = self.enough(torch.cat([word_NTE, text_NTE], dim=-1)).unflatten(0, (len(spoken_BVE), -1)).flatten(1, 2)
        count_BR1 = (score_BRV - needed_BR1).sigmoid().sum(-1, keepdim=True)
        numbers_BR3 = torch.cat([PLACE_SCALE * (found_BRX[..., -2:] - 0.5), count_BR1 - 2.0], dim=-1)
        told_BRE = self.tell(torch.cat([found_BRX[..., :-2], self.waves(numbers_BR3.flatten(0, 1)).unflatten(0, numbers_BR3.shape[:2])], dim=-1))
        return told_BRE.view_as(text_NTE)
