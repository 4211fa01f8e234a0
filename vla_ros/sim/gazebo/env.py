# SPDX-License-Identifier: Apache-2.0
"""The tabletop in Gazebo Classic 11 with the interface of ``vla_ros.sim.env.TabletopEnv``: for ``vla evaluate --sim gazebo``.

Scenes and tasks are those that MuJoCo lays out for a seed. Each scene is a world of its own in a server of its own, which stays paused and
does physics steps only when told: results do not depend on the machine's speed. Pictures come at the cameras' rate; an observation holds
the newest ones and the joints of the same instant.
"""

from __future__ import annotations

import time

import numpy as np

from vla_ros.sim.env import CONTROL_PERIOD_S, SimObservation
from vla_ros.sim.gazebo.classic_server import START_S, ClassicServer
from vla_ros.sim.gazebo.classic_transport import GazeboError
from vla_ros.sim.gazebo.classic_world import IMAGE_TOPICS, ClassicWorld
from vla_ros.sim.gazebo.judged import JudgedScene
from vla_ros.sim.gazebo.sdf import TIMESTEP_S, WORLD_NAME, world_sdf
from vla_ros.sim.tasks import Task

LOCKSTEP_IMAGE_RATE_HZ = 25.0  # a picture every other control period
_SETTLE_S = 0.2
_POSES_S = 0.25  # on a busy machine they are late; steps that are added for nothing would make results depend on it
_FIRST_PICTURE_S = 1.0
_MAX_REALTIME_FACTOR = 3.0  # a paused server goes round its loop, and tells the time, this many times a step's length


class GazeboTabletop(JudgedScene):
    """One scene after another. Not thread-safe.

    Raises:
        ConfigError: Gazebo Classic is not there.
    """

    def __init__(self, *, randomize_look: float = 1.0, image_rate_hz: float = LOCKSTEP_IMAGE_RATE_HZ) -> None:
        super().__init__(randomize_look=randomize_look)
        self._image_period_ns = round(1e9 / image_rate_hz)
        self._image_rate_hz = image_rate_hz
        self._server = ClassicServer()
        self._world: ClassicWorld | None = None

    def reset(self, seed: int, task: Task | None = None, split: str = "seen", family: str | None = None) -> SimObservation:
        """Lays out the scene of ``seed`` and draws the task that the MuJoCo environment draws for it.

        Raises:
            GazeboError: the server did not come up or does not answer.
        """
        self.plan.reset(seed, task, split, family)
        self._start(world_sdf(self.plan, "classic", self._image_rate_hz, _MAX_REALTIME_FACTOR))
        self.set_task(self.plan.task, self.plan.instruction)
        return self.observe(cameras=False)

    def step(self, joint_targets_J: np.ndarray, period_s: float = CONTROL_PERIOD_S) -> None:
        """Advances by ``period_s`` with the servos at ``joint_targets_J`` (rad, the gripper in m).

        Raises:
            ValueError: a wrong number of targets, or one that is not finite.
            GazeboError: Gazebo does not answer.
        """
        targets = np.asarray(joint_targets_J, dtype=np.float64)
        if targets.shape != self.robot.home.shape or not np.isfinite(targets).all():
            raise ValueError(f"expected {len(self.robot.home)} finite joint targets, got {joint_targets_J}")
        self._advance(targets, period_s)
        if self._check is not None:
            self._check.update(self.world_state(), period_s)

    @property
    def time_ns(self) -> int:
        """Simulated time since the scene began."""
        return self._joints[-1][0]

    def observe(self, cameras: bool = True) -> SimObservation:
        """Reads the joints; with ``cameras`` the newest pictures of both, and the joints of their instant.

        Raises:
            GazeboError: a camera has gone silent.
        """
        stamp_ns, pictures = self.time_ns, {}
        if cameras:
            due_ns = stamp_ns - stamp_ns % self._image_period_ns
            self._world.wait_for(lambda: all(self._has_picture(c, due_ns) for c in IMAGE_TOPICS), "picture of each camera")
            found = {camera: self._world.picture(camera) for camera in IMAGE_TOPICS}
            stamp_ns = min(picture.stamp_ns for picture in found.values())
            pictures = {camera: picture.rgb_HWC for camera, picture in found.items()}
        return self._observation(stamp_ns, pictures)

    def close(self) -> None:
        """Ends the server."""
        if self._world is not None:
            self._world.close()
            self._world = None
        self._server.close()
        self.plan.close()

    # ---- inside ----

    def _start(self, world: str) -> None:
        """Begins a new world with the arm held at home, and lets it settle."""
        if self._world is not None:
            self._world.close()
        connection = self._server.start(world, name=WORLD_NAME, paused=True, lockstep=True)
        self._world = ClassicWorld(connection, self._server.partition, self.robot, self._servos, self._server.is_running)
        self._joints.clear()
        self._joints.append((0, self.robot.home.copy()))
        self._world.wait_for(lambda: self._world.time_ns >= 0, "time")
        for _ in range(round(_SETTLE_S / CONTROL_PERIOD_S)):
            self._advance(self.robot.home, CONTROL_PERIOD_S)
        self._wait_for_cameras()

    def _wait_for_cameras(self) -> None:
        """A camera that comes up late draws first at its next instant, which a paused world would never reach."""
        deadline = time.monotonic() + START_S
        while not self._world.comes(lambda: all(self._has_picture(c, 0) for c in IMAGE_TOPICS), _FIRST_PICTURE_S):
            if time.monotonic() > deadline:
                raise GazeboError(f"no picture from Gazebo's cameras in {START_S:g} s; the end of its log:\n{self._server.log_tail()}")
            self._advance(self.robot.home, CONTROL_PERIOD_S)

    def _advance(self, targets: np.ndarray, period_s: float) -> None:
        world = self._world
        self._note_objects()
        self._command(targets)
        goal_ns = self.time_ns + round(period_s * 1e9)
        world.step(round(period_s / TIMESTEP_S))
        world.wait_for(lambda: world.time_ns >= goal_ns, "physics step")
        while not world.has_arm_of(goal_ns, _POSES_S):  # its poses were lost: Gazebo's publishers keep ten messages and drop the oldest
            world.step(1)
        self._joints.append(world.joints())

    def _has_picture(self, camera: str, due_ns: int) -> bool:
        picture = self._world.picture(camera)
        return picture is not None and picture.stamp_ns >= due_ns
