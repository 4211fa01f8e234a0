# SPDX-License-Identifier: Apache-2.0
"""The tabletop in wall time: short physics steps, and pictures that do not stop them. Must not import rclpy.

Drawing takes 10 ms and more on a CPU, a physics step less than one. So a picture is made in two parts: its scene is copied while physics
waits (a fraction of a millisecond), and drawn while physics goes on.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from vla_ros.core.embodiment import METAWORLD, TABLETOP, embodiment_of
from vla_ros.core.errors import ConfigError
from vla_ros.sim import scene as scene_module
from vla_ros.sim.env import CONTROL_PERIOD_S, TabletopEnv
from vla_ros.sim.rendering import new_renderer
from vla_ros.sim.tasks import Task, parse_task

import mujoco  # isort: skip  (after vla_ros.sim, which says that there is no screen)

_NS = 1_000_000_000


class RealtimeTabletop(TabletopEnv):
    """A tabletop for one physics thread and one camera thread. Hold ``lock`` around everything but :meth:`draw`."""

    runs_by_itself = False
    simulator = "mujoco"

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.RLock()
        self._since_check_s = 0.0
        self._earlier_ns = 0
        self._servo_J = self.robot.home.copy()

    @property
    def elapsed_ns(self) -> int:
        """Simulated time since the start; unlike ``time_ns`` it goes on over a reset."""
        return self._earlier_ns + self.time_ns

    def restart(self, seed: int, task: Task | None = None) -> None:
        """Begins a new episode as ``reset`` does; ``elapsed_ns`` goes on from where it was."""
        before = self.elapsed_ns
        self.reset(seed, task)
        self._earlier_ns = before - self.time_ns
        self._since_check_s = 0.0
        self._servo_J = self.robot.home.copy()

    def advance(self, joint_targets_J: np.ndarray, period_s: float) -> None:
        """Advances physics by ``period_s`` (a multiple of the time step) while the servos go to ``joint_targets_J`` (rad, the gripper in m).

        They go no faster than the joints may, as drives do: what makes up for lost time must not fling the arm.
        """
        limits = self.robot.limits
        reach_J = limits.velocity * period_s
        self._servo_J = self._servo_J + np.clip(joint_targets_J - self._servo_J, -reach_J, reach_J)
        self._data.ctrl[:] = np.clip(self._servo_J, limits.position_min, limits.position_max)
        mujoco.mj_step(self._model, self._data, nstep=round(period_s / scene_module.TIMESTEP_S))
        self._since_check_s += period_s
        if self._since_check_s >= CONTROL_PERIOD_S - 1e-9:
            if self._check is not None:
                self._check.update(self.world_state(), self._since_check_s)
            self._since_check_s = 0.0

    def aim(self, camera: str) -> bool:
        """Copies what ``camera`` sees now; True, as there is always something to draw. The camera thread only."""
        if camera not in self._renderers:
            height, width = scene_module.CAMERA_SIZE[camera]
            self._renderers[camera] = new_renderer(self._model, height, width)
        self._renderers[camera].update_scene(self._data, camera)
        return True

    def draw(self, camera: str) -> np.ndarray:
        """Draws what was aimed at, uint8 [height, width, 3], valid until the next call. The camera thread only, without the lock."""
        return self._renderers[camera].render()

    def picture_age_ns(self, camera: str) -> int:
        """0: a picture shows the present."""
        return 0


def find_task(world: Any, text: str) -> tuple[Any, str]:
    """The task that ``text`` names in ``world``, or None, and what could be said there."""
    if hasattr(world, "find_task"):
        return world.find_task(text)
    objects = world.world_state().objects
    return parse_task(text, objects), f"Objects here: {', '.join(str(o) for o in objects)}"


def make_world(simulator: str, *, image_rate_hz: float, realtime_factor: float, environment: str = TABLETOP.name) -> Any:
    """What the node is built around: the tabletop, embedded or in a Gazebo that runs by itself, or a task of Meta-World.

    Raises:
        ConfigError: there is no such environment, or not in this simulator.
    """
    if embodiment_of(environment) is METAWORLD:
        if simulator != RealtimeTabletop.simulator:
            raise ConfigError(f"{environment} runs in its own MuJoCo: leave out --simulator {simulator}")
        from vla_ros.ros.sim_metaworld import RealtimeMetaWorld

        return RealtimeMetaWorld(environment)
    if simulator == RealtimeTabletop.simulator:
        return RealtimeTabletop()
    from vla_ros.sim.gazebo.followed import FollowedTabletop

    return FollowedTabletop(simulator, image_rate_hz=image_rate_hz, realtime_factor=realtime_factor)
