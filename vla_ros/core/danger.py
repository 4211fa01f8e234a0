# SPDX-License-Identifier: Apache-2.0
"""What a motion would lead into: out of the workspace, into the robot itself or the table.

Axes: N positions of a path, K positions that a chunk still leads to, J joints.

Only a state from which a stop stays clear is ever commanded, so that the way is free whatever makes the robot stop later. A robot that
was put somewhere dangerous may move out of it, never deeper into it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vla_ros.core.safety import StatusCode

#: From joint positions [J] to how deep the robot is in a danger, m; 0 where it is clear.
Depth = Callable[[np.ndarray], float]


class PathCheck:
    """Judges stopping paths. One thread only.

    The workspace has a margin that no command leaves. A motion that leads out is stopped at half of it. The other half is for a way back,
    which may begin with a small detour: a chunk that ends nearer to the workspace and never leads beyond the margin. A robot that was put
    outside by more than that has half the margin for its detour.

    Args:
        workspace_excess_m: the tool's distance outside its workspace; None: unchecked.
        collision_depth_m: how deep the robot is in itself or in the table; None: unchecked.
        workspace_margin_m: how far a command may leave the workspace.
    """

    def __init__(self, workspace_excess_m: Depth | None, collision_depth_m: Depth | None, workspace_margin_m: float) -> None:
        self._workspace_excess_m = workspace_excess_m
        self._collision_depth_m = collision_depth_m
        self._margin_m = workspace_margin_m
        self._start_excess_m = 0.0

    def start_at(self, position_J: np.ndarray) -> None:
        """Notes where a motion begins that did not lead there: the robot may have been put anywhere."""
        self._start_excess_m = 0.0 if self._workspace_excess_m is None else self._workspace_excess_m(position_J)

    def of(self, path_NJ: np.ndarray, now_J: np.ndarray, ahead_KJ: np.ndarray) -> StatusCode | None:
        """What a path leads into, or None.

        Args:
            path_NJ: the next command and the positions on the way of a stop from it, the last one at rest. The whole way counts: joints
                that come to rest one after the other follow no line.
            now_J: the present command.
            ahead_KJ: where the chunk still leads, its end last.
        """
        if self._leaves_workspace(path_NJ, now_J, ahead_KJ):
            return StatusCode.WORKSPACE
        return StatusCode.COLLISION if self._collides(path_NJ, now_J) else None

    def _leaves_workspace(self, path_NJ: np.ndarray, now_J: np.ndarray, ahead_KJ: np.ndarray) -> bool:
        excess_m = self._workspace_excess_m
        if excess_m is None:
            return False
        worst_m = max(map(excess_m, path_NJ))
        if worst_m <= 0.5 * self._margin_m:
            self._start_excess_m = 0.0
            return False
        now_m = excess_m(now_J)
        if worst_m <= now_m:
            return False
        allowed_m = max(self._margin_m, self._start_excess_m + 0.5 * self._margin_m)
        ahead_m = [excess_m(position_J) for position_J in ahead_KJ]
        leads_back = ahead_m[-1] < now_m and max(ahead_m) <= allowed_m
        return not leads_back or worst_m > allowed_m

    def _collides(self, path_NJ: np.ndarray, now_J: np.ndarray) -> bool:
        depth_m = self._collision_depth_m
        if depth_m is None:
            return False
        # A path that is not clear is most often so at its end.
        found = next(((row, deep_m) for row in range(len(path_NJ) - 1, -1, -1) if (deep_m := depth_m(path_NJ[row])) > 0.0), None)
        if found is None:
            return False
        row, deep_m = found
        now_m = depth_m(now_J)
        return deep_m > now_m or any(depth_m(position_J) > now_m for position_J in path_NJ[:row])


class BlockedChunk:
    """How long a chunk whose path is blocked is waited for. Counts control periods; one thread only.

    The robot brakes along a way that was found clear before it went there. Trying again in each period would make it shake at the edge: it
    brakes for a while first. What it loses it has to make good before it is patient again.

    Args:
        brake_periods: how many periods it brakes before the chunk is tried again.
        max_periods: how many it may lose before the chunk is given up.
    """

    def __init__(self, brake_periods: int, max_periods: int) -> None:
        self._brake_periods = brake_periods
        self._max_periods = max_periods
        self.forget()

    def forget(self) -> None:
        """The chunk is gone."""
        self._lost = self._braking = 0

    def try_again(self) -> None:
        """A newer chunk has come."""
        self._braking = 0

    def brakes(self) -> bool:
        """Whether this period is for braking. Call once a period."""
        is_braking = self._braking > 0
        self._braking -= is_braking
        self._lost += is_braking
        return is_braking

    def went_on(self) -> None:
        """The chunk could be followed in this period."""
        self._lost = max(self._lost - 1, 0)

    def is_given_up(self) -> bool:
        """Its path is blocked in this period: whether to wait no longer."""
        self._lost += 1
        self._braking = self._brake_periods - 1
        return self._lost >= self._max_periods
