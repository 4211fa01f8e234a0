# SPDX-License-Identifier: Apache-2.0
"""The tabletop in a Gazebo that runs by itself: what the simulator node puts ROS's topics around. Must not import rclpy.

Time, pictures and poses are Gazebo's. Where it is paused, slowed down or set back to zero, that is what the robot's drivers then show.
"""

from __future__ import annotations

import threading

import numpy as np

from vla_ros.core.errors import ConfigError
from vla_ros.sim.env import CONTROL_PERIOD_S, SimObservation
from vla_ros.sim.gazebo.classic_server import ClassicServer
from vla_ros.sim.gazebo.classic_world import ClassicWorld
from vla_ros.sim.gazebo.judged import JudgedScene
from vla_ros.sim.gazebo.newest import Picture
from vla_ros.sim.gazebo.plan import object_name
from vla_ros.sim.gazebo.sdf import WORLD_NAME, world_sdf
from vla_ros.sim.gazebo.sim_world import SimWorld
from vla_ros.sim.tasks import Task

CLASSIC, SIM = "gazebo-classic", "gazebo"
_ANSWER_S = 60.0


class FollowedTabletop(JudgedScene):
    """For one physics thread and one camera thread. Hold ``lock`` around everything but ``draw``.

    Args:
        simulator: ``gazebo-classic``: a server of Gazebo Classic 11 is started for each scene; ``gazebo``: a ``gz sim`` that is running.
        image_rate_hz: of the cameras, where the server is ours.
        realtime_factor: likewise.

    Raises:
        ConfigError: Gazebo, or what its client needs, is not there.
    """

    runs_by_itself = True

    def __init__(self, simulator: str, *, image_rate_hz: float, realtime_factor: float = 1.0) -> None:
        super().__init__(randomize_look=1.0 if simulator == CLASSIC else 0.0)
        self.lock = threading.RLock()
        self.simulator = simulator
        self._image_rate_hz, self._realtime_factor = image_rate_hz, realtime_factor
        self._server = ClassicServer() if simulator == CLASSIC else None
        self._shown: dict[str, Picture] = {}
        self._checked_ns = 0

    @property
    def elapsed_ns(self) -> int:
        """Gazebo's simulated time."""
        return 0 if self._world is None else max(self._world.time_ns, 0)

    def restart(self, seed: int, task: Task | None = None) -> None:
        """Classic: a new world with the scene of ``seed``. Sim: judges the running world anew, which must show that scene.

        Raises:
            GazeboError: Gazebo does not answer.
            ConfigError: the running Gazebo shows another scene.
        """
        self.plan.reset(seed, task)
        if self._server is not None:
            self._start_classic()
        elif self._world is None:
            self._world = SimWorld(self.robot)
        world = self._world
        world.wait_for(lambda: world.time_ns >= 0, "time", _ANSWER_S)
        if self._server is not None:
            self._command(self.robot.home)  # nothing holds the arm before
        world.wait_for(lambda: world.joints()[0] >= 0, "joint states", _ANSWER_S)
        if self._server is None:
            self._check_scene(seed)
        self._joints.clear()
        self._joints.append(world.joints())
        self._checked_ns = self.elapsed_ns
        self._note_objects()
        self.set_task(self.plan.task, self.plan.instruction)

    def advance(self, joint_targets_J: np.ndarray) -> None:
        """Sends the servos' targets (rad, the gripper in m), takes the newest joints, and judges what has happened since."""
        self._command(np.asarray(joint_targets_J, dtype=np.float64))
        stamp_ns, positions = self._world.joints()
        if stamp_ns < self._joints[-1][0]:
            self._begin_again()
        if stamp_ns != self._joints[-1][0]:
            self._joints.append((stamp_ns, positions))
        elapsed_s = (self._joints[-1][0] - self._checked_ns) * 1e-9
        if elapsed_s >= CONTROL_PERIOD_S - 1e-9:
            if self._check is not None:
                self._check.update(self.world_state(), elapsed_s)
            self._note_objects()
            self._checked_ns = self._joints[-1][0]

    def observe(self, cameras: bool = False) -> SimObservation:
        """The newest joints; pictures come from ``aim`` and ``draw``."""
        return self._observation(self._joints[-1][0], {})

    def aim(self, camera: str) -> bool:
        """Whether ``camera`` has a picture that ``draw`` has not given yet."""
        picture, shown = self._world.picture(camera), self._shown.get(camera)
        if picture is None or picture is shown:
            return False
        self._shown[camera] = picture
        return True

    def draw(self, camera: str) -> np.ndarray:
        """The picture that was aimed at, uint8 [height, width, 3]."""
        return self._shown[camera].rgb_HWC

    def picture_age_ns(self, camera: str) -> int:
        """How long ago, in simulated time, the aimed picture was taken."""
        return max(self.elapsed_ns - self._shown[camera].stamp_ns, 0)

    def close(self) -> None:
        """Ends the connections, and the server where it is ours."""
        if self._world is not None:
            self._world.close()
        if self._server is not None:
            self._server.close()
        self.plan.close()

    # ---- inside ----

    def _start_classic(self) -> None:
        if self._world is not None:
            self._world.close()
        text = world_sdf(self.plan, "classic", self._image_rate_hz, self._realtime_factor)
        connection = self._server.start(text, name=WORLD_NAME, paused=False, lockstep=True)
        self._shown.clear()
        self._world = ClassicWorld(connection, self._server.partition, self.robot, self._servos, self._server.is_running)

    def _begin_again(self) -> None:
        """Gazebo's time was set back: the scene is as at the start, and so is the judgement."""
        self._joints.clear()
        self._joints.append(self._world.joints())
        self._checked_ns = self._joints[-1][0]
        self._note_objects()
        self.set_task(self.task, self.instruction)

    def _check_scene(self, seed: int) -> None:
        """Compares names only: places change as the robot works."""
        wanted = {object_name(ref) for ref in self.plan.objects()}
        self._world.wait_for(lambda: bool(self._world.objects()), "poses", _ANSWER_S)
        missing = wanted - set(self._world.objects())
        if missing:
            raise ConfigError(
                f"the running Gazebo has no {', '.join(sorted(missing))}: it shows another scene than seed {seed}. "
                f"Write that one with `vla sim export-sdf --seed {seed} --output FOLDER` and start it"
            )
