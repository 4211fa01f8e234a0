# SPDX-License-Identifier: Apache-2.0
"""A Meta-World task in wall time. Must not import rclpy."""

from __future__ import annotations

from dataclasses import replace
import threading

import numpy as np

from vla_ros.core.embodiment import METAWORLD_GRIPPER_OPEN_M, METAWORLD_STEP_S
from vla_ros.sim.metaworld.env import MetaWorldEnv
from vla_ros.sim.metaworld.tasks import MetaWorldTask, parse_task, phrasings, tasks_of


class RealtimeMetaWorld(MetaWorldEnv):
    """One task for one physics thread and one camera thread. Hold ``lock`` around everything but :meth:`draw`.

    Success counts at any time, not within the benchmark's horizon: time goes on while nobody has said anything yet.

    Args:
        environment: such as ``metaworld:drawer-open-v3``; of a suite the first task.
    """

    runs_by_itself = False
    simulator = "mujoco"
    tick_ns = round(METAWORLD_STEP_S * 1e9)

    def __init__(self, environment: str) -> None:
        super().__init__(tasks_of(environment)[0], horizon_steps=None)
        self.lock = threading.RLock()
        self._earlier_ns = 0

    @property
    def elapsed_ns(self) -> int:
        """Simulated time since the start; unlike ``time_ns`` it goes on over a reset."""
        return self._earlier_ns + self.time_ns

    def restart(self, seed: int, task: MetaWorldTask | None = None) -> None:
        """Begins a new episode as ``reset`` does; ``elapsed_ns`` goes on from where it was. The robot's home is where the scene has its hand."""
        before = self.elapsed_ns
        self.reset(seed, task)
        self._earlier_ns = before - self.time_ns
        self.robot = replace(self.robot, home=np.array([*self.hand_target(), METAWORLD_GRIPPER_OPEN_M]))

    def advance(self, joint_targets_J: np.ndarray, period_s: float) -> None:
        """Advances physics by ``period_s`` (whole steps of 12.5 ms) towards ``joint_targets_J`` (m)."""
        for _ in range(round(period_s / METAWORLD_STEP_S)):
            self.step(joint_targets_J)

    def aim(self, camera: str) -> bool:
        """Copies what ``camera`` sees now; True, as there is always something to draw. The camera thread only."""
        super().aim(camera)
        return True

    def draw(self, camera: str) -> np.ndarray:
        """Draws what was aimed at, uint8 [height, width, 3]. The camera thread only, without the lock."""
        return self._camera.draw()

    def picture_age_ns(self, camera: str) -> int:
        """0: a picture shows the present."""
        return 0

    def find_task(self, text: str) -> tuple[MetaWorldTask | None, str]:
        """The task that ``text`` names, and what could be said in this scene."""
        return parse_task(text), f"This scene is for: {'; '.join(phrasings(self.feasible_tasks()[0]))}"
