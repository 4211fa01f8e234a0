# SPDX-License-Identifier: Apache-2.0
"""Draws a scene from a seed: which objects, where, and how it looks (domain randomisation)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vla_ros.sim.scene import BLOCK_HALF_SIZE, BLOCK_KINDS, COLOURS, CONTAINER_KINDS, CONTAINER_RADIUS_M, POOL_PER_KIND
from vla_ros.sim.tasks import ObjectRef

X_RANGE = (0.21, 0.46)
Y_RANGE = (-0.15, 0.15)
CONTAINER_Y_RANGE = (-0.24, 0.24)
Ranges = tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
_FINGER_ROOM_M = 0.056  # from the tool's axis to the outside of an open finger
_MAX_YAW_RAD = 0.7
_ATTEMPTS = 200


@dataclass(frozen=True, kw_only=True)
class Placement:
    """One object of a scene: ``slot`` is its index in the pool of its kind; position in m and yaw in rad in ``base_link``."""

    ref: ObjectRef
    slot: int
    x: float
    y: float
    yaw: float


@dataclass(frozen=True, kw_only=True)
class Look:
    """Appearance of a scene. ``colours`` are RGB in 0..1; camera offsets in m and rad; ``pattern`` of the table as in ``sim.patterns``."""

    colours: dict[ObjectRef, np.ndarray]
    table: np.ndarray
    floor: np.ndarray
    light_position: np.ndarray
    light_strength: float
    ambient: float
    camera_shift: np.ndarray
    camera_turn: np.ndarray
    pattern: str | None = None


def draw_layout(
    rng: np.random.Generator, *, blocks: int | None = None, ranges: Ranges | None = None, accept: Callable[[ObjectRef, float, float], bool] | None = None
) -> list[Placement]:
    """Draws three or four blocks and two containers that leave the fingers room. Always succeeds.

    Args:
        blocks: another number of blocks.
        ranges: of x, of a block's y and of a container's y, m; None: those of demonstrations.
        accept: whether an object may lie at x, y.
    """
    while True:
        refs = _draw_refs(rng, blocks)
        placements = _place(rng, refs, ranges or (X_RANGE, Y_RANGE, CONTAINER_Y_RANGE), accept)
        if placements is not None:
            return placements


def _draw_refs(rng: np.random.Generator, count: int | None) -> list[ObjectRef]:
    blocks = _distinct(rng, BLOCK_KINDS, int(rng.integers(3, 5)) if count is None else count)
    containers = _distinct(rng, CONTAINER_KINDS, 2)
    return containers + blocks


def _distinct(rng: np.random.Generator, kinds: tuple[str, ...], count: int) -> list[ObjectRef]:
    """Draws ``count`` different colour-and-kind pairs, at most POOL_PER_KIND of a kind."""
    pairs = [ObjectRef(c, k) for c in COLOURS for k in kinds]
    chosen: list[ObjectRef] = []
    for i in rng.permutation(len(pairs)):
        if len(chosen) < count and sum(r.kind == pairs[i].kind for r in chosen) < POOL_PER_KIND:
            chosen.append(pairs[i])
    return chosen


def _place(
    rng: np.random.Generator, refs: list[ObjectRef], ranges: Ranges, accept: Callable[[ObjectRef, float, float], bool] | None
) -> list[Placement] | None:
    x_range, block_y_range, container_y_range = ranges
    placed: list[Placement] = []
    for ref in refs:
        for _ in range(_ATTEMPTS):
            y_range = container_y_range if ref.kind in CONTAINER_KINDS else block_y_range
            x, y = rng.uniform(*x_range), rng.uniform(*y_range)
            if (accept is None or accept(ref, x, y)) and all(np.hypot(x - p.x, y - p.y) > _clearance(ref, p.ref) for p in placed):
                slot = sum(p.ref.kind == ref.kind for p in placed)
                placed.append(Placement(ref=ref, slot=slot, x=x, y=y, yaw=rng.uniform(-_MAX_YAW_RAD, _MAX_YAW_RAD)))
                break
        else:
            return None
    return placed


def _clearance(a: ObjectRef, b: ObjectRef) -> float:
    """Least distance of two centres, m: an open finger fits between a block and its neighbour."""
    radii = [_radius(r) for r in (a, b)]
    if a.kind in CONTAINER_KINDS and b.kind in CONTAINER_KINDS:
        return sum(radii) + 0.01
    return max(_FINGER_ROOM_M + max(radii), sum(radii) + 0.01)


def _radius(ref: ObjectRef) -> float:
    if ref.kind in CONTAINER_KINDS:
        return CONTAINER_RADIUS_M
    half = BLOCK_HALF_SIZE[ref.kind]
    return half[0] if ref.kind == "cylinder" else float(np.hypot(half[0], half[1]))


def draw_look(rng: np.random.Generator, refs: list[ObjectRef], strength: float = 1.0) -> Look:
    """Draws an appearance; ``strength`` 0 is the nominal one, 1 the range that training covers."""
    def around(base: np.ndarray | float, spread: float) -> np.ndarray:
        base = np.asarray(base, dtype=np.float64)
        return base + strength * rng.uniform(-spread, spread, base.shape)

    return Look(
        colours={r: np.clip(around(np.array(COLOURS[r.colour]), 0.05), 0, 1) for r in refs},
        table=np.clip(around(np.array([0.62, 0.52, 0.40]), 0.05) + strength * rng.uniform(-0.12, 0.12), 0, 1),
        floor=np.clip(np.array([0.45, 0.45, 0.47]) + strength * rng.uniform(-0.15, 0.15), 0, 1),
        light_position=around(np.array([0.6, 0.5, 1.8]), 0.5),
        light_strength=float(around(0.55, 0.12)),
        ambient=float(around(0.35, 0.07)),
        camera_shift=around(np.zeros(3), 0.004),
        camera_turn=around(np.zeros(3), 0.006),
    )
