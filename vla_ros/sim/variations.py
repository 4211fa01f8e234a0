# SPDX-License-Identifier: Apache-2.0
"""Scenes beyond what demonstrations show: places, crowds, light and surfaces that training never draws. For measuring generalisation.

Without a variation a seed gives the scene that it always gave.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vla_ros.sim.layout import X_RANGE, Y_RANGE, Look, Placement, draw_layout, draw_look
from vla_ros.sim.patterns import PATTERNS
from vla_ros.sim.scene import BLOCK_KINDS
from vla_ros.sim.tasks import ObjectRef

NONE, POSITIONS, DISTRACTORS, LIGHT, TEXTURES = VARIATIONS = ("none", "positions", "distractors", "light", "textures")

_WIDE_X, _WIDE_Y, _WIDE_CONTAINER_Y = (0.185, 0.495), (-0.22, 0.22), (-0.26, 0.26)  # inside the arm's reach (sim.world), m
_OUTSIDE_M = 0.01  # a block lies at least so far outside the places that training draws
_CROWD = 6  # blocks; demonstrations show three or four
_SPREAD = {"light_position": 0.5, "light_strength": 0.12, "ambient": 0.07, "table": 0.12, "floor": 0.15}  # of sim.layout.draw_look
_FAR_LOOK = (2.0, 3.0)  # in spreads of what training draws, of which none exceeds 1


def vary_layout(rng: np.random.Generator, variation: str) -> list[Placement]:
    """Draws a layout of the variation."""
    if variation == DISTRACTORS:
        return draw_layout(rng, blocks=_CROWD)
    if variation != POSITIONS:
        return draw_layout(rng)
    return draw_layout(rng, ranges=(_WIDE_X, _WIDE_Y, _WIDE_CONTAINER_Y), accept=is_unseen_place)


def is_unseen_place(ref: ObjectRef, x: float, y: float) -> bool:
    """Whether a block lies outside the rectangle in which training lays blocks out, m. Bowls and pads may lie anywhere."""
    if ref.kind not in BLOCK_KINDS:
        return True
    return not (X_RANGE[0] - _OUTSIDE_M < x < X_RANGE[1] + _OUTSIDE_M and Y_RANGE[0] - _OUTSIDE_M < y < Y_RANGE[1] + _OUTSIDE_M)


def vary_look(rng: np.random.Generator, refs: list[ObjectRef], strength: float, variation: str) -> Look:
    """Draws an appearance: light, or the colours of table and floor, two to three spreads from the nominal one."""
    look, nominal = draw_look(rng, refs, strength), draw_look(np.random.default_rng(0), refs, 0.0)

    def beyond(name: str, low: float, high: float) -> np.ndarray:
        """Each entry so far up or down from its nominal value."""
        base = np.asarray(getattr(nominal, name), dtype=np.float64)
        away = _SPREAD[name] * rng.choice([-1.0, 1.0], base.shape) * rng.uniform(*_FAR_LOOK, base.shape)
        return np.clip(base + away, low, high)

    if variation == LIGHT:
        position = beyond("light_position", -2.0, 3.0)
        position[2] = max(position[2], 0.8)  # above what stands on the table
        return replace(look, light_position=position, light_strength=float(beyond("light_strength", 0.1, 1.0)), ambient=float(beyond("ambient", 0.1, 0.7)))
    if variation == TEXTURES:
        return replace(look, table=beyond("table", 0.05, 0.95), floor=beyond("floor", 0.05, 0.95), pattern=str(rng.choice(PATTERNS)))
    return look
