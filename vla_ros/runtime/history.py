# SPDX-License-Identifier: Apache-2.0
"""Past pictures for policies that see several. Only what came before is shown; where nothing did, the oldest picture stands for it.

Axes: R pictures, newest first, an action step apart as in training; H, W pixels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from vla_ros.core.observation import CameraSpec, Observation


class PictureHistory:
    """The pictures of earlier observations. One thread only; keeps references, so that nobody may write to a picture.

    A policy is asked when it has answered, not at the pace of its training data: of the pictures that it was asked with before, the one nearest to
    the wanted time is shown. What is older than the oldest wanted picture by more than half a step is forgotten, and so is everything when
    stamps go back (a simulation was reset).

    Args:
        cameras: of the policy.
        frames: R, at least 1.
        step_ns: between two pictures.
    """

    def __init__(self, cameras: Sequence[CameraSpec], frames: int, step_ns: int) -> None:
        self._frames, self._step_ns = frames, step_ns
        self._seen: dict[str, deque[tuple[int, np.ndarray]]] = {camera.name: deque() for camera in cameras}

    def add(self, observation: Observation) -> dict[str, np.ndarray]:
        """Takes an observation and returns each camera's pictures: uint8 [R, H, W, 3], or [H, W, 3] where R is 1."""
        if self._frames == 1:
            return {name: observation.images[name] for name in self._seen}
        return {name: self._add(name, observation.images[name], observation.image_stamp_ns.get(name, observation.stamp_ns)) for name in self._seen}

    def _add(self, name: str, picture: np.ndarray, stamp_ns: int) -> np.ndarray:
        seen = self._seen[name]
        if seen and stamp_ns < seen[-1][0]:
            seen.clear()
        if seen and stamp_ns == seen[-1][0]:
            seen.pop()
        oldest_ns = stamp_ns - (self._frames - 1) * self._step_ns - self._step_ns // 2
        while seen and seen[0][0] < oldest_ns:
            seen.popleft()
        seen.append((stamp_ns, picture))
        chosen, index = [picture], len(seen) - 1
        for age in range(1, self._frames):
            wanted_ns = stamp_ns - age * self._step_ns
            earlier = range(index)
            index = min(earlier, key=lambda i: abs(seen[i][0] - wanted_ns)) if earlier else index
            chosen.append(seen[index][1])
        return np.stack(chosen)
