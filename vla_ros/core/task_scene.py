# SPDX-License-Identifier: Apache-2.0
"""What the table looks like to the task language: objects with places, what stands on what, what the hand holds.

A scene comes from the policy's own vision head, or from ground truth in tests. Predicates are pure and give True or
False; they say nothing about how the arm moves. Positions are x, y, z of an object's centre in ``base_link``, m.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from vla_ros.core.errors import InputError
from vla_ros.core.task_language import BLOCK_KINDS, CONTAINER_KINDS, Thing

Point = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class TableGeometry:
    """Sizes and limits of the tabletop, m, in ``base_link``. The defaults are the embedded simulator's (a test compares them).

    Attributes:
        half_height: of a block; for a container the height of the floor that carries.
        resting_radius: how far from the centre of a target something still stands on it, by kind; blocks share ``block``.
        resting_tolerance: how far a height may be off.
        x_range, y_range, distance_range: where the hand can work; the distance is from the base's axis.
        side_line_y: beyond it is the left or right side.
        push_before_line, push_y_limit, push_height: a push needs this way before the line, starts inside this limit, on the table.
        push_lane, push_run_up, push_run_out, container_lane, margin, container_margin: what must be free about a push.
        clearance, container_clearance: least distance from other centres to put something down between open fingers.
        place_tolerance: how far the place of a plan may be from the object that it is about.
    """

    half_height: Mapping[str, float] = field(default_factory=lambda: {"cube": 0.020, "cylinder": 0.024, "brick": 0.015, "bowl": 0.003, "pad": 0.003})
    resting_radius: Mapping[str, float] = field(default_factory=lambda: {"bowl": 0.040, "pad": 0.045, "block": 0.018})
    resting_tolerance: float = 0.012
    x_range: tuple[float, float] = (0.18, 0.50)
    y_range: tuple[float, float] = (-0.28, 0.28)
    distance_range: tuple[float, float] = (0.20, 0.55)
    side_line_y: float = 0.19
    push_before_line: float = 0.04
    push_y_limit: float = 0.16
    push_height: float = 0.03
    push_lane: float = 0.052
    push_run_up: float = 0.085
    push_run_out: float = 0.07
    container_lane: float = 0.03
    margin: float = 0.03
    container_margin: float = 0.06
    clearance: float = 0.095
    container_clearance: float = 0.118
    place_tolerance: float = 0.05

    def radius(self, thing: Thing) -> float:
        """How far from its centre something still stands on ``thing``."""
        return self.resting_radius["block" if thing.is_block else thing.kind]

    def is_reachable(self, x: float, y: float) -> bool:
        """Whether the hand can work at a place of the table."""
        return self.x_range[0] < x < self.x_range[1] and self.y_range[0] < y < self.y_range[1] and self.distance_range[0] < math.hypot(x, y) < self.distance_range[1]


TABLETOP = TableGeometry()


@dataclass(frozen=True, kw_only=True)
class SceneObject:
    """One object; ``support`` is what it stands on, None for the table (or the hand)."""

    thing: Thing
    position: Point
    support: Thing | None = None


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The table at one moment.

    Raises:
        InputError: a position that is not finite, a kind that is not known, or a hand that holds what is not there or stands elsewhere (code ``bad_scene``).
    """

    objects: tuple[SceneObject, ...]
    held: Thing | None = None

    def __post_init__(self) -> None:
        for entry in self.objects:
            if entry.thing.kind not in (*BLOCK_KINDS, *CONTAINER_KINDS):
                raise InputError(f"there is no kind '{entry.thing.kind}' on a tabletop", code="bad_scene")
            if not all(map(math.isfinite, entry.position)):
                raise InputError(f"the {entry.thing}'s position must be finite, got {entry.position}", code="bad_scene")
        if self.held is not None and (not self.held.is_block or self.count(self.held) != 1):
            raise InputError(f"the hand holds the {self.held}, which is no block of the scene", code="bad_scene")
        if self.held is not None and self.find(self.held).support is not None:
            raise InputError(f"the hand holds the {self.held}, which cannot stand on something as well", code="bad_scene")

    @classmethod
    def from_positions(cls, positions: Iterable[tuple[Thing, Point]], held: Thing | None = None, geometry: TableGeometry = TABLETOP) -> Scene:
        """Reads off what stands on what: the centre near the target's and at the height that standing on it has."""
        placed = [SceneObject(thing=thing, position=tuple(map(float, position))) for thing, position in positions]
        objects = []
        for entry in placed:
            carried = entry.thing.is_block and entry.thing != held
            below = [o for o in placed if o is not entry and o.thing != held and carried and _stands_on(entry, o, geometry)]
            objects.append(replace(entry, support=below[0].thing if below else None))
        return cls(objects=tuple(objects), held=held)

    def count(self, thing: Thing) -> int:
        """How many objects the words name."""
        return sum(entry.thing == thing for entry in self.objects)

    def find(self, thing: Thing) -> SceneObject:
        """The object; raises InputError (code ``bad_scene``) where there is not exactly one."""
        found = [entry for entry in self.objects if entry.thing == thing]
        if len(found) != 1:
            raise InputError(f"there are {len(found)} objects '{thing}' on the table", code="bad_scene")
        return found[0]

    def on_top(self, thing: Thing) -> tuple[Thing, ...]:
        """What stands directly on ``thing``."""
        return tuple(entry.thing for entry in self.objects if entry.support == thing)

    def with_object(self, changed: SceneObject, held: Thing | None) -> Scene:
        """A scene in which one object is elsewhere and the hand holds ``held``."""
        return Scene(objects=tuple(changed if entry.thing == changed.thing else entry for entry in self.objects), held=held)


def _stands_on(upper: SceneObject, lower: SceneObject, geometry: TableGeometry) -> bool:
    distance = math.hypot(upper.position[0] - lower.position[0], upper.position[1] - lower.position[1])
    expected = lower.position[2] + geometry.half_height[lower.thing.kind] + geometry.half_height[upper.thing.kind]
    return distance < geometry.radius(lower.thing) and abs(upper.position[2] - expected) < geometry.resting_tolerance


def is_upright(entry: SceneObject, geometry: TableGeometry = TABLETOP) -> bool:
    """Whether a block's height is one that standing has: on something, on the table or on a container's floor."""
    floors = (0.0, 2 * geometry.half_height["pad"])
    return entry.support is not None or any(
        abs(entry.position[2] - floor - geometry.half_height[entry.thing.kind]) < geometry.resting_tolerance for floor in floors
    )


def side_sign(direction: str) -> float:
    """Sign of y towards ``left`` or ``right``."""
    return -1.0 if direction == "left" else 1.0


def is_beyond_line(entry: SceneObject, direction: str, geometry: TableGeometry = TABLETOP) -> bool:
    """Whether the object already is on that side."""
    return side_sign(direction) * entry.position[1] > geometry.side_line_y


def can_start_push(entry: SceneObject, direction: str, geometry: TableGeometry = TABLETOP) -> bool:
    """Whether the block lies on the table where a push can begin: not almost at the line, and with room behind it for the hand."""
    along = side_sign(direction) * entry.position[1]
    return -geometry.push_y_limit <= along <= geometry.side_line_y - geometry.push_before_line and entry.position[2] <= geometry.push_height


def in_push_lane(scene: Scene, thing: Thing, direction: str, geometry: TableGeometry = TABLETOP) -> tuple[Thing, ...]:
    """Objects between the place where the hand sets down behind the block and the block's end beyond the line."""
    x, y, _ = scene.find(thing).position
    sign = side_sign(direction)
    start, end = sign * y - geometry.push_run_up, geometry.side_line_y + geometry.push_run_out
    blocking = []
    for other in scene.objects:
        if other.thing in (thing, scene.held):
            continue
        lane = geometry.push_lane + (0.0 if other.thing.is_block else geometry.container_lane)
        margin = geometry.margin if other.thing.is_block else geometry.container_margin
        if abs(other.position[0] - x) < lane and start - margin < sign * other.position[1] < end + margin:
            blocking.append(other.thing)
    return tuple(blocking)


def is_free_place(scene: Scene, x: float, y: float, geometry: TableGeometry = TABLETOP) -> bool:
    """Whether the hand can set down there what it holds, without touching anything else."""
    others = [entry for entry in scene.objects if entry.thing != scene.held]
    room = [geometry.clearance if entry.thing.is_block else geometry.container_clearance for entry in others]
    return geometry.is_reachable(x, y) and all(math.dist((x, y), entry.position[:2]) >= least for entry, least in zip(others, room))


def free_place(scene: Scene, near: tuple[float, float], geometry: TableGeometry = TABLETOP, step: float = 0.02) -> tuple[float, float] | None:
    """The place nearest to ``near`` where what is held can be set down; None where there is none.

    Candidates lie on a grid of ``step`` m between the side lines, beyond which a place would mean something.
    """
    columns = math.floor((geometry.x_range[1] - geometry.x_range[0]) / step)
    rows = math.floor(geometry.push_y_limit / step)
    grid = [(geometry.x_range[0] + (column + 0.5) * step, row * step) for column in range(columns) for row in range(-rows, rows + 1)]
    free = [(round(x, 6), round(y, 6)) for x, y in grid if is_free_place(scene, x, y, geometry)]
    return min(free, key=lambda place: (math.dist(place, near), place), default=None)
