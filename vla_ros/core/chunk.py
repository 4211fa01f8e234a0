# SPDX-License-Identifier: Apache-2.0
"""Action chunks, and the newest-wins buffer that the control loop samples at its own rate.

A chunk is indexed by the stamp of the observation that it answers: step k is due at
``obs_stamp_ns + (k + 1) * dt_ns``, so that the delay of the inference is measured and never estimated.
Axes: H steps, D action dimensions, J joints, K knots of the interpolated reference.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import numpy as np

from vla_ros.core.errors import DecodeError


@dataclass(frozen=True, kw_only=True)
class ActionChunk:
    """What the policy answered to one observation.

    Attributes:
        obs_stamp_ns: stamp of the observation, ROS clock.
        generation: the control loop's generation when it asked.
        dt_ns: time between two steps.
        actions_HD: float64, in each dimension's unit, as the action specification says.
        tokens_HD: int32 vocabulary ids behind the actions.
        confidence_HD: float32, probability of the chosen bin and its two neighbours.
        joint_positions_HJ: float64, absolute waypoints, rad or m.
        terminate_H: bool, "the task is done at this step".
        plan: the policy's words, may be empty.
        inference_ns: time from the observation taken up to the answer, monotonic clock.
        committed: how many leading steps repeat what the robot was doing anyway (prefix forcing).
    """

    obs_stamp_ns: int
    generation: int
    dt_ns: int
    actions_HD: np.ndarray
    tokens_HD: np.ndarray
    confidence_HD: np.ndarray
    joint_positions_HJ: np.ndarray
    terminate_H: np.ndarray
    plan: str = ""
    inference_ns: int = 0
    committed: int = 0

    @property
    def horizon(self) -> int:
        """H."""
        return len(self.joint_positions_HJ)

    def due_ns(self, step: int) -> int:
        """When ``step`` is due, ROS clock."""
        return self.obs_stamp_ns + (step + 1) * self.dt_ns

    def steps_elapsed(self, now_ns: int) -> int:
        """How many steps were due at or before ``now_ns``, in [0, H]."""
        return min(max((now_ns - self.obs_stamp_ns) // self.dt_ns, 0), self.horizon)

    def next_free_step(self, now_ns: int) -> int:
        """The first step that is neither over at ``now_ns`` nor committed, at most H - 1: what the policy itself says next."""
        return min(max(self.steps_elapsed(now_ns), self.committed), self.horizon - 1)

    def validate(self, num_joints: int) -> None:
        """Checks shapes and finiteness.

        Raises:
            DecodeError: naming the field, what was expected and what came.
        """
        steps, dims = self.actions_HD.shape if self.actions_HD.ndim == 2 else (0, 0)
        if steps < 1 or self.dt_ns <= 0:
            raise DecodeError(f"chunk needs actions [H, D] and dt_ns > 0, got {list(self.actions_HD.shape)} and {self.dt_ns}")
        expected = {
            "tokens_HD": (steps, dims),
            "confidence_HD": (steps, dims),
            "joint_positions_HJ": (steps, num_joints),
            "terminate_H": (steps,),
        }
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                raise DecodeError(f"chunk's {name} must have shape {list(shape)}, got {list(getattr(self, name).shape)}")
        for name in ("actions_HD", "confidence_HD", "joint_positions_HJ"):
            if not np.isfinite(getattr(self, name)).all():
                raise DecodeError(f"chunk's {name} is not finite")


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A motion through knots: between them a cubic with the given velocities, outside them at rest at the nearest one.

    Attributes:
        knots_ns: K times, ROS clock, increasing.
        positions_KJ: float64, rad or m.
        velocities_KJ: float64, rad/s or m/s.
    """

    knots_ns: tuple[int, ...]
    positions_KJ: np.ndarray
    velocities_KJ: np.ndarray

    @classmethod
    def at_rest(cls, now_ns: int, position_J: np.ndarray) -> Reference:
        """Stays at ``position_J``."""
        position_J = np.array(position_J, dtype=np.float64)
        return cls(knots_ns=(now_ns,), positions_KJ=position_J[None], velocities_KJ=np.zeros((1, len(position_J))))

    @property
    def end_ns(self) -> int:
        """When the last knot is due."""
        return self.knots_ns[-1]

    def sample(self, now_ns: int) -> tuple[np.ndarray, np.ndarray]:
        """Position [J] and velocity [J] at ``now_ns``."""
        if now_ns >= self.end_ns or len(self.knots_ns) == 1:
            return self.positions_KJ[-1], np.zeros_like(self.positions_KJ[-1])
        knot = min(max(bisect_right(self.knots_ns, now_ns) - 1, 0), len(self.knots_ns) - 2)
        start_ns, end_ns = self.knots_ns[knot], self.knots_ns[knot + 1]
        s = max(now_ns - start_ns, 0) / (end_ns - start_ns)
        ends = (self.positions_KJ[knot], self.positions_KJ[knot + 1], self.velocities_KJ[knot], self.velocities_KJ[knot + 1])
        return _hermite(s, (end_ns - start_ns) * 1e-9, *ends)


class PutResult(Enum):
    """What became of a chunk that was offered to the buffer."""

    TAKEN = "taken"
    OLD_GENERATION = "answers an older generation"
    NOT_NEWER = "answers an observation that is not newer"
    TOO_LATE = "all its steps have elapsed"
    NOT_CONFIDENT = "its next step is below the least confidence"


class Ensemble(Protocol):
    """``takeover.TemporalEnsemble``."""

    def forget(self) -> None:
        """A new generation begins."""

    def waypoints(self, chunk: ActionChunk) -> np.ndarray:
        """The waypoints [H, J] of a new chunk, averaged with what older ones say."""


class ChunkBuffer:
    """Holds the newest chunk and interpolates it. One thread only, never sleeps.

    The reference starts at the state that is commanded when the chunk arrives and runs through the
    waypoints that are still due, so that a takeover has no jump in position or velocity. Between knots
    it is a monotone cubic (Fritsch and Butland 1984): it never overshoots a waypoint. It ends at rest.

    Args:
        ensemble: averages a new chunk with older ones; None: the newest counts alone.
    """

    def __init__(self, ensemble: Ensemble | None = None) -> None:
        self.generation = 0
        self._ensemble = ensemble
        self._newest_obs_ns: int | None = None
        self._clear()

    def _clear(self) -> None:
        self.chunk: ActionChunk | None = None
        self.reference: Reference | None = None

    def flush(self, generation: int | None = None) -> None:
        """Throws the chunk away; a new generation also forgets which observation was the newest."""
        self._clear()
        if self._ensemble is not None:
            self._ensemble.forget()
        if generation is not None:
            self.generation = generation
            self._newest_obs_ns = None

    def put(self, chunk: ActionChunk, now_ns: int, position_J: np.ndarray, velocity_J: np.ndarray) -> PutResult:
        """Takes the chunk if it belongs to this generation, is newer and still has a step due.

        Args:
            chunk: a validated chunk.
            now_ns: when the last command is due, ROS clock: the reference starts there.
            position_J: position of the last command, rad or m.
            velocity_J: its velocity, rad/s or m/s.
        """
        if chunk.generation != self.generation:
            return PutResult.OLD_GENERATION
        if self._newest_obs_ns is not None and chunk.obs_stamp_ns <= self._newest_obs_ns:
            return PutResult.NOT_NEWER
        first = chunk.steps_elapsed(now_ns)
        if first >= chunk.horizon:
            return PutResult.TOO_LATE
        # The next waypoint is at most a step away. Correcting a difference in so little time is a jerk a chunk, and where 60 to 100 ms of a step
        # were left, one episode in five failed of it. With another one after it, aim at that: `vla bench takeover`.
        if first + 1 < chunk.horizon:
            first += 1
        self.chunk, self._newest_obs_ns = chunk, chunk.obs_stamp_ns
        knots_ns = (now_ns, *(chunk.due_ns(step) for step in range(first, chunk.horizon)))
        positions_KJ = np.vstack([position_J, self._waypoints(chunk)[first:]])
        self.reference = Reference(knots_ns=knots_ns, positions_KJ=positions_KJ, velocities_KJ=_tangents(knots_ns, positions_KJ, velocity_J))
        return PutResult.TAKEN

    def _waypoints(self, chunk: ActionChunk) -> np.ndarray:
        """The chunk's waypoints [H, J]. Committed ones are taken from the motion itself: their tokens say it to within half a bin only,
        and a rounding repeated at every takeover is a drift."""
        if self._ensemble is not None:
            return self._ensemble.waypoints(chunk)
        if self.reference is None or not chunk.committed:
            return chunk.joint_positions_HJ
        kept_PJ = [self.reference.sample(chunk.due_ns(step))[0] for step in range(chunk.committed)]
        return np.vstack([kept_PJ, chunk.joint_positions_HJ[chunk.committed :]])

    def step_index(self, now_ns: int) -> int | None:
        """The step that the reference is moving towards, None when used up."""
        if self.chunk is None:
            return None
        step = self.chunk.steps_elapsed(now_ns)
        return step if step < self.chunk.horizon else None

    def ahead(self, now_ns: int) -> np.ndarray:
        """The knots [K, J] of the reference that are due at ``now_ns`` or later; at least its end, or nothing without a chunk."""
        if self.reference is None:
            return np.zeros((0, 0))
        knots_ns = self.reference.knots_ns
        return self.reference.positions_KJ[min(bisect_left(knots_ns, now_ns), len(knots_ns) - 1) :]

    def sample(self, now_ns: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Reference position [J] and velocity [J] at ``now_ns``; None without a chunk or when it is used up.

        A time before the reference's start gives its start.
        """
        if self.reference is None or now_ns > self.reference.end_ns:
            return None
        return self.reference.sample(now_ns)


def _hermite(
    s: float, span_s: float, start_J: np.ndarray, end_J: np.ndarray, start_velocity_J: np.ndarray, end_velocity_J: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Cubic Hermite position and velocity at the fraction ``s`` of a segment."""
    delta_J = end_J - start_J
    a_J, b_J = span_s * start_velocity_J, span_s * end_velocity_J
    c3_J = a_J + b_J - 2.0 * delta_J
    c2_J = 3.0 * delta_J - 2.0 * a_J - b_J
    position_J = start_J + s * (a_J + s * (c2_J + s * c3_J))
    velocity_J = (a_J + s * (2.0 * c2_J + 3.0 * s * c3_J)) / span_s
    return position_J, velocity_J


def _tangents(knots_ns: tuple[int, ...], positions_KJ: np.ndarray, start_velocity_J: np.ndarray) -> np.ndarray:
    """Velocities [K, J] at the knots: the given start, Fritsch-Butland inside, rest at the end."""
    spans_s = np.diff(knots_ns)[:, None] * 1e-9
    slopes = np.diff(positions_KJ, axis=0) / spans_s
    velocities_KJ = np.zeros_like(positions_KJ)
    velocities_KJ[0] = start_velocity_J
    before, after = slopes[:-1], slopes[1:]
    weight_before, weight_after = 2.0 * spans_s[1:] + spans_s[:-1], spans_s[1:] + 2.0 * spans_s[:-1]
    same_sign = before * after > 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = (weight_before + weight_after) / (weight_before / before + weight_after / after)
    velocities_KJ[1:-1] = np.where(same_sign, mean, 0.0)
    return velocities_KJ
