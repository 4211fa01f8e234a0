# SPDX-License-Identifier: Apache-2.0
"""A closer look for questions: finer cells of the first camera's picture, and a table of the objects that they show.

A policy that acts needs to see one object well; how many there are takes all of them, also two whose centres share one of its cells. Axes:
B pictures, H and W pixels, C channels, V cells, E width, R objects that a scene may have, L label tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vla_ros.model.config import STRIDE, PolicyConfig, grid_of
from vla_ros.model.state import Waves
from vla_ros.model.transformer import Block

CELL = 8  # pixels
_BLOCKS = 2
_NOWHERE = -6.0  # logit of a cell at first, against 0 for "not in the picture": about one in two together
_HEIGHT_M, _OPENING_M = 0.1, 0.02  # what the tool's height and opening are divided by
_OUTER = 100.0  # per width of the picture: of two that are 3 % apart, the farther one is taken for it with 95 %


@dataclass(frozen=True, kw_only=True)
class ObjectTable:
    """What a picture shows, object by object; the last row is the tool.

    logit_BRV: of the cell in which each object's centre lies; 0 stands for "not in the picture". present_BR: 0..1. place_BR2: the centre,
    0..1 to the right and down. feature_BRE: what its cells say. tool_B2: the tool's height in 0.1 m and half opening in 0.02 m.
    """

    logit_BRV: Tensor
    present_BR: Tensor
    place_BR2: Tensor
    feature_BRE: Tensor
    tool_B2: Tensor


class Eye(nn.Module):
    """Cells of 8 pixels, each of which also knows what the policy's own cell around it says."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        width, half = config.width, config.width // 2
        self.embed = nn.Conv2d(3, half, 4, stride=4)
        self.around = nn.Conv2d(half, half, 3, padding=1)
        self.shrink = nn.Conv2d(half, width, 3, stride=2, padding=1)
        self.policy = nn.Linear(width, width)
        self.rows, self.columns = (STRIDE // CELL * cells for cells in grid_of(config.cameras[0]))
        self.position_VE = nn.Parameter(torch.randn(self.rows * self.columns, width) * 0.02)
        self.norm_in = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(_BLOCKS))
        self.norm_out = nn.LayerNorm(width)
        objects = config.seen_colours * (len(config.seen_tokens) - config.seen_colours)
        self.which = nn.Linear(width, objects + 1)
        nn.init.constant_(self.which.bias, _NOWHERE)
        self.tool = nn.Linear(width, 2)
        self.waves = Waves(config.wave_count)
        self.tell = nn.Linear(width + 5 * (1 + 2 * config.wave_count), width)
        self.name_RE = nn.Parameter(torch.randn(objects + 1, width) * 0.02)
        row_V, column_V = torch.cartesian_prod(torch.arange(self.rows), torch.arange(self.columns)).unbind(1)
        centre_V2 = torch.stack([(column_V + 0.5) / self.columns, (row_V + 0.5) / self.rows], dim=1)
        self.register_buffer("centre_V2", centre_V2.float(), persistent=False)

    def forward(self, picture_BHWC: Tensor, policy_BVE: Tensor) -> tuple[Tensor, ObjectTable]:
        """The cells [B, V, E] and what they show.

        Args:
            picture_BHWC: uint8.
            policy_BVE: the policy's cells of the same picture, of `STRIDE` pixels.
        """
        image_BCHW = picture_BHWC.permute(0, 3, 1, 2).float() / 127.5 - 1.0
        fine_BChw = F.gelu(self.embed(image_BCHW))
        fine_BChw = fine_BChw + F.gelu(self.around(fine_BChw))
        fine_BVE = self.shrink(fine_BChw).flatten(2).transpose(1, 2)
        cell_BVE = self.norm_in(fine_BVE + self._spread(self.policy(policy_BVE)) + self.position_VE)
        for block in self.blocks:
            cell_BVE, _, _ = block.vision(cell_BVE, update=True)
        cell_BVE = self.norm_out(cell_BVE)
        return cell_BVE, self._table(cell_BVE)

    def tokens_of(self, table: ObjectTable) -> Tensor:
        """The table's rows as tokens that answers can read, [B, R, E]."""
        tool_BR2 = F.pad(table.tool_B2[:, None], (0, 0, table.present_BR.shape[1] - 1, 0))
        numbers_BR5 = torch.cat([4.0 * (table.place_BR2 - 0.5), 4.0 * table.present_BR[..., None] - 2.0, tool_BR2], dim=-1)
        waves_BRX = self.waves(numbers_BR5.flatten(0, 1)).unflatten(0, numbers_BR5.shape[:2])
        return self.tell(torch.cat([table.feature_BRE, waves_BRX], dim=-1)) + self.name_RE

    def _spread(self, policy_BVE: Tensor) -> Tensor:
        """The policy's cells, each over the finer ones inside it."""
        times = STRIDE // CELL
        coarse_BhwE = policy_BVE.unflatten(1, (self.rows // times, self.columns // times))
        fine_BhtwtE = coarse_BhwE[:, :, None, :, None].expand(-1, -1, times, -1, times, -1)
        return fine_BhtwtE.flatten(1, 4)

    def _table(self, cell_BVE: Tensor) -> ObjectTable:
        logit_BRV = self.which(cell_BVE).transpose(1, 2).float()
        share_BRV = F.pad(logit_BRV, (0, 1)).softmax(-1)[..., :-1]
        present_BR = share_BRV.sum(-1)  # one minus the last share would be all rounding where nothing is
        where_BRV = share_BRV / (present_BR[..., None] + 1e-6)
        feature_BRE = where_BRV @ cell_BVE
        return ObjectTable(
            logit_BRV=logit_BRV, present_BR=present_BR, place_BR2=(where_BRV[..., None] * self.centre_V2).sum(2), feature_BRE=feature_BRE, tool_B2=self.tool(feature_BRE[:, -1])
        )  # fmt: skip

    def loss(self, table: ObjectTable, place_BR2: Tensor, tool_B4: Tensor) -> Tensor:
        """How far the cells said are from the true ones, in nats (Kullback-Leibler), summed over the objects, and the tool's squared error.

        Args:
            table: what `forward` saw.
            place_BR2: true centres of the objects, 0..1, NaN where not in the picture.
            tool_B4: where the tool appears, 0..1; its height and half opening, m.
        """
        place_BR2 = torch.cat([place_BR2, tool_B4[:, None, :2]], dim=1)
        target_BRX = self.target_of(place_BR2)
        said_BRX = F.pad(table.logit_BRV, (0, 1)).log_softmax(-1)
        cells = F.kl_div(said_BRX, target_BRX, reduction="batchmean")
        wanted_B2 = tool_B4[:, 2:] / tool_B4.new_tensor([_HEIGHT_M, _OPENING_M])
        return cells + F.mse_loss(table.tool_B2.float(), wanted_B2)

    def target_of(self, place_BR2: Tensor) -> Tensor:
        """Shares of the cells, [B, R, V + 1]; the last one is "nowhere".

        Four neighbours share a centre so that their mean place is the true one; within half a cell of the picture's edge there are fewer, and it
        is their middle.
        """
        seen_BR = ((place_BR2 >= 0.0) & (place_BR2 <= 1.0)).all(-1)
        at_BR2 = torch.where(seen_BR[..., None], place_BR2, 0.5)
        across_BRc = (1.0 - (at_BR2[..., :1] * self.columns - 0.5 - torch.arange(self.columns, device=at_BR2.device)).abs()).clamp_min(0.0)
        down_BRr = (1.0 - (at_BR2[..., 1:] * self.rows - 0.5 - torch.arange(self.rows, device=at_BR2.device)).abs()).clamp_min(0.0)
        cell_BRV = (down_BRr[..., :, None] * across_BRc[..., None, :]).flatten(2)
        cell_BRV = cell_BRV / cell_BRV.sum(-1, keepdim=True) * seen_BR[..., None]
        return torch.cat([cell_BRV, 1.0 - seen_BR[..., None].float()], dim=-1)


class TableFinder(nn.Module):
    """Every word of a question picks objects of the table, and is told what they are, where, how many, and which is outermost.

    A word accepts colours and kinds, together with the word before it: "cube" any colour of cube, "cube" after "red" that one, "objects" all.
    What is picked is what both accept, as far as it is there.
    """

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        width = config.width
        colours, kinds = config.seen_tokens[: config.seen_colours], config.seen_tokens[config.seen_colours :]
        self.register_buffer("colours", torch.tensor(colours), persistent=False)
        self.register_buffer("kinds", torch.tensor(kinds), persistent=False)
        self.accept = nn.Sequential(nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, len(colours) + len(kinds)))
        self.waves = Waves(config.wave_count)
        self.tell = nn.Linear(3 * width + 3 * (1 + 2 * config.wave_count), width)

    def forward(self, text_NTE: Tensor, name_RE: Tensor, table: ObjectTable) -> Tensor:
        """What is added to the text's features, [N, T, E].

        Args:
            text_NTE: the text's features.
            name_RE: the words of each object, of `names`.
            table: of N // B questions about each picture.
        """
        before_NTE = F.pad(text_NTE[:, :-1], (0, 0, 1, 0))
        accepted_NTX = self.accept(torch.cat([text_NTE, before_NTE], dim=-1)).float().sigmoid()
        colour_NTC, kind_NTK = accepted_NTX.split([len(self.colours), len(self.kinds)], dim=-1)
        meant_NTR = (colour_NTC[..., None] * kind_NTK[..., None, :]).flatten(2)
        picked_BLR = meant_NTR.unflatten(0, (len(table.present_BR), -1)).flatten(1, 2) * table.present_BR[:, None, :-1]
        place_BR2 = table.place_BR2[:, :-1]
        share_BLR = _shares(picked_BLR)
        left_BLR, right_BLR = (_outermost(picked_BLR, side * place_BR2[..., 0]) for side in (1.0, -1.0))
        mean_BL2 = (share_BLR[..., None] * place_BR2[:, None]).sum(2)
        numbers_BL3 = torch.cat([4.0 * (mean_BL2 - 0.5), picked_BLR.sum(-1, keepdim=True) - 2.0], dim=-1)
        waves_BLX = self.waves(numbers_BL3.flatten(0, 1)).unflatten(0, numbers_BL3.shape[:2])
        told_BLE = self.tell(torch.cat([share_BLR @ name_RE, left_BLR @ name_RE, right_BLR @ name_RE, waves_BLX], dim=-1))
        return told_BLE.view_as(text_NTE)

    def names(self, embed: Callable[[Tensor], Tensor]) -> Tensor:
        """The words of each object, its colour and its kind, [R, E] without the tool; `embed` makes embeddings of token ids."""
        return (embed(self.colours)[:, None] + embed(self.kinds)).flatten(0, 1)


def _shares(weight_BLR: Tensor) -> Tensor:
    """Weights that sum to one, or to less where it is less than half sure that there is anything."""
    return weight_BLR / weight_BLR.sum(-1, keepdim=True).clamp_min(0.5)


def _outermost(picked_BLR: Tensor, x_BR: Tensor) -> Tensor:
    """How sure it is that an object is picked, and that none of smaller x is."""
    farther_BRR = ((x_BR[:, None, :] - x_BR[:, :, None]) * _OUTER).sigmoid()  # [other, object]: the other is farther out
    farther_BRR = farther_BRR * (1.0 - torch.eye(x_BR.shape[1], device=x_BR.device))
    none_BLR = torch.log1p(-0.9999 * picked_BLR[..., None] * farther_BRR[:, None]).sum(2).exp()
    return picked_BLR * none_BLR
