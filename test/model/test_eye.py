# SPDX-License-Identifier: Apache-2.0
"""The closer look for questions: where objects are, out of pictures drawn here, and what words find among them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vla_ros.core.errors import ConfigError
from vla_ros.model import PolicyConfig
from vla_ros.model.eye import CELL, Eye, ObjectTable, TableFinder

SHAPE = {"vocab_size": 600, "first_action_token": 300, "seen_tokens": (10, 11, 12, 20, 21), "seen_colours": 3, "width": 32, "heads": 4, "answer_tokens": 6}
RGB = np.array([(220, 30, 30), (30, 200, 30), (40, 40, 230)])
OBJECTS = 6


@pytest.fixture
def eye() -> Eye:
    torch.manual_seed(0)
    return Eye(PolicyConfig(**SHAPE, answer_depth=1, answer_eye=True))


def scenes(count: int, seed: int = 0):
    """Squares (even objects) and tall bars (odd ones) of three colours: pictures, true places with NaN where absent, and the tool."""
    rng = np.random.default_rng(seed)
    picture_BHWC = np.full((count, 128, 128, 3), 120, dtype=np.uint8)
    place_BR2 = np.full((count, OBJECTS, 2), np.nan, dtype=np.float32)
    for picture, place_R2 in zip(picture_BHWC, place_BR2):
        for ref in rng.choice(OBJECTS, size=rng.integers(1, 4), replace=False):
            x, y = rng.integers(12, 116, size=2)
            w, h = (4, 4) if ref % 2 == 0 else (2, 8)
            picture[y - h : y + h, x - w : x + w] = RGB[ref // 2]
            place_R2[ref] = x / 128, y / 128
    tool_B4 = np.tile(np.float32([0.5, 0.5, 0.1, 0.02]), (count, 1))
    return torch.from_numpy(picture_BHWC), torch.from_numpy(place_BR2), torch.from_numpy(tool_B4)


def test_targets_share_a_centre_among_neighbours_so_that_their_mean_is_exact(eye):
    place_BR2 = torch.rand(5, OBJECTS, 2) * 0.9 + 0.05
    place_BR2[0, 2] = torch.nan
    place_BR2[1, 3] = torch.tensor([1.2, 0.5])
    target_BRX = eye.target_of(place_BR2)
    assert target_BRX.shape == (5, OBJECTS, (128 // CELL) ** 2 + 1)
    torch.testing.assert_close(target_BRX.sum(-1), torch.ones(5, OBJECTS))
    nowhere_BR = target_BRX[..., -1]
    assert nowhere_BR[0, 2] == 1 and nowhere_BR[1, 3] == 1 and nowhere_BR.sum() == 2
    mean_BR2 = target_BRX[..., :-1] @ eye.centre_V2
    seen_BR = nowhere_BR == 0
    torch.testing.assert_close(mean_BR2[seen_BR], place_BR2[seen_BR], atol=1e-5, rtol=0)


def test_the_policy_s_cells_lie_over_the_finer_ones_inside_them(eye):
    coarse_BVE = torch.arange(64.0).view(1, 64, 1).expand(1, 64, 32)
    fine_hw = eye._spread(coarse_BVE)[0, :, 0].view(16, 16)
    for row, column in ((0, 0), (1, 1), (5, 9), (15, 15)):
        assert fine_hw[row, column] == (row // 2) * 8 + column // 2


def test_it_learns_which_objects_there_are_and_where(eye):
    """On pictures that it was not trained on."""
    optimizer = torch.optim.AdamW(eye.parameters(), lr=3e-3)
    policy_BVE = torch.zeros(32, 64, 32)
    for step in range(150):
        picture, place, tool = scenes(8, seed=step)
        loss = eye.loss(eye(picture, policy_BVE[:8])[1], place, tool)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    picture, place, tool = scenes(32, seed=10_000)
    with torch.inference_mode():
        table = eye(picture, policy_BVE)[1]
    seen_BR = ~place.isnan().any(-1)
    found_BR = table.present_BR[:, :OBJECTS] > 0.5
    assert (found_BR == seen_BR).float().mean() > 0.85
    off = (table.place_BR2[:, :OBJECTS][seen_BR & found_BR] - place[seen_BR & found_BR]).norm(dim=-1)
    assert len(off) > 20 and off.median() < 0.03  # 4 of 128 pixels
    assert (table.tool_B2 - 1.0).abs().mean() < 0.2


def test_everything_in_it_learns(eye):
    picture, place, tool = scenes(2)
    _, table = eye(picture, torch.randn(2, 64, 32))
    (eye.loss(table, place, tool) + eye.tokens_of(table).square().mean()).backward()
    assert not [name for name, parameter in eye.named_parameters() if parameter.grad is None]


def table_of(present: list[float], x: list[float]) -> ObjectTable:
    """A table of six objects and the tool, all in the middle of the picture's height."""
    place_R2 = torch.tensor([[value, 0.5] for value in (*x, 0.5)])
    present_R = torch.tensor([*present, 1.0])
    empty = torch.zeros(1, OBJECTS + 1, 32)
    return ObjectTable(logit_BRV=empty, present_BR=present_R[None], place_BR2=place_R2[None], feature_BRE=empty, tool_B2=torch.zeros(1, 2))


@pytest.fixture
def finder() -> TableFinder:
    """Accepts everything, whatever the word; what it tells is the middle part of its last layer's input."""
    torch.manual_seed(0)
    made = TableFinder(PolicyConfig(**SHAPE, answer_depth=1, answer_eye=True))
    torch.nn.init.zeros_(made.accept[2].weight)
    torch.nn.init.constant_(made.accept[2].bias, 30.0)
    return made


def told(finder: TableFinder, table: ObjectTable, name_RE: torch.Tensor) -> dict[str, torch.Tensor]:
    heard = []
    finder.tell.register_forward_hook(lambda module, inputs, output: heard.append(inputs[0][0, 0]))
    finder(torch.randn(1, 2, 32), name_RE, table)
    mean_E, left_E, right_E, numbers_X = heard[-1].split([32, 32, 32, 3 * 9])
    return {"mean": mean_E, "left": left_E, "right": right_E, "place": numbers_X[:2] / 4 + 0.5, "count": numbers_X[2] + 2}


def test_a_word_is_told_how_many_there_are_where_and_which_is_outermost(finder):
    name_RE = torch.randn(OBJECTS, 32)
    heard = told(finder, table_of([1, 0, 1, 1, 0, 0], [0.2, 0.1, 0.5, 0.8, 0.9, 0.9]), name_RE)
    torch.testing.assert_close(heard["count"], torch.tensor(3.0))
    torch.testing.assert_close(heard["place"], torch.tensor([0.5, 0.5]), atol=1e-3, rtol=0)
    torch.testing.assert_close(heard["mean"], name_RE[[0, 2, 3]].mean(0), atol=1e-3, rtol=0)
    torch.testing.assert_close(heard["left"], name_RE[0], atol=1e-3, rtol=0)
    torch.testing.assert_close(heard["right"], name_RE[3], atol=1e-3, rtol=0)
    far = told(finder, table_of([1e-3, 0, 1, 1, 0, 1e-3], [0.0, 0.1, 0.95, 0.9, 0.9, 1.0]), name_RE)  # what is not there does not lie farther out
    torch.testing.assert_close(far["left"], name_RE[3], atol=0.05, rtol=0)
    torch.testing.assert_close(far["right"], name_RE[2], atol=0.05, rtol=0)
    nothing = told(finder, table_of([0] * 6, [0.5] * 6), name_RE)
    assert nothing["count"].abs() < 1e-6 and nothing["mean"].abs().max() < 1e-6


def test_a_word_means_what_its_colours_and_its_kinds_both_accept(finder):
    """The second colour's first kind is the third object: colour by colour, all kinds of each."""
    torch.nn.init.constant_(finder.accept[2].bias, -30.0)
    with torch.no_grad():
        finder.accept[2].bias[[1, 3]] = 30.0
    name_RE = finder.names(torch.nn.Embedding(300, 32)).detach()
    heard = told(finder, table_of([1] * 6, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]), name_RE)
    torch.testing.assert_close(heard["count"], torch.tensor(1.0))
    torch.testing.assert_close(heard["place"][0], torch.tensor(0.3), atol=1e-3, rtol=0)
    torch.testing.assert_close(heard["mean"], name_RE[2], atol=1e-3, rtol=0)


def test_names_are_colour_by_colour(finder):
    embedding = torch.nn.Embedding(300, 32)
    torch.testing.assert_close(finder.names(embedding)[3], embedding(torch.tensor(11)) + embedding(torch.tensor(21)))


def test_what_it_needs_is_said():
    with pytest.raises(ConfigError, match="model.answer_depth"):
        PolicyConfig(**SHAPE, answer_eye=True)
    with pytest.raises(ConfigError, match="colours and kinds"):
        PolicyConfig(**{**SHAPE, "seen_colours": 0}, answer_depth=1, answer_eye=True)
