# SPDX-License-Identifier: Apache-2.0
"""A Meta-World task as an environment: the benchmark's physics, scenes, horizon and success flag behind the tabletop's interface.

The robot is a hand on three axes (``config/robots/metaworld_hand.yaml``). Its joints are commanded in metres; ``step`` turns them into the
benchmark's actions, end-effector steps and an effort in [-1, 1], so that nothing moves that the benchmark would not move.

Not thread-safe, and the camera must be used in one thread only (it owns an OpenGL context).
"""

from __future__ import annotations

import mujoco
import numpy as np

from vla_ros.core.embodiment import METAWORLD, METAWORLD_GRIPPER_OPEN_M, METAWORLD_HORIZON_STEPS, METAWORLD_STEP_S
from vla_ros.core.paths import robot_config_path
from vla_ros.robot.description import RobotDescription
from vla_ros.sim.env import SimObservation
from vla_ros.sim.metaworld import camera as camera_module
from vla_ros.sim.metaworld.benchmark import ACTION_SCALE_M, make_benchmark, scene_seed
from vla_ros.sim.metaworld.tasks import TASKS, MetaWorldTask, phrasings

_STEP_NS = round(METAWORLD_STEP_S * 1e9)


class MetaWorldEnv:
    """One of the fifty tasks at a time.

    Args:
        task: the first one; ``reset`` may change it.
        horizon_steps: steps of an episode within which success counts; None: at any time, for a scene that waits for an instruction.
    """

    cameras = tuple(camera.name for camera in METAWORLD.cameras)

    def __init__(self, task: str = TASKS[0], horizon_steps: int | None = METAWORLD_HORIZON_STEPS) -> None:
        self.robot = RobotDescription.load(robot_config_path(METAWORLD.robot))
        self.task = MetaWorldTask(task)
        self._horizon_steps = horizon_steps
        self.instruction = phrasings(self.task)[0]
        self._camera: camera_module.WindowCamera | None = None
        self._load(self.task.family)

    # ---- episodes ----

    def reset(self, seed: int, task: MetaWorldTask | None = None, split: str = "seen", family: str | None = None) -> SimObservation:
        """Draws the scene of ``seed`` for ``task`` (or the one named ``family``, or the present one) and an instruction of ``split``."""
        task = task or MetaWorldTask(family or self.task.family)
        if task.family != self._loaded:
            self._load(task.family)
        words = phrasings(task, split)
        self.task, self.instruction = task, words[np.random.default_rng([seed, 0]).integers(len(words))]
        self.benchmark.seed(scene_seed(task.family, seed))
        observation, _ = self.benchmark.reset()
        mujoco.mj_forward(self.benchmark.model, self.benchmark.data)  # the reset leaves the goal's marker where it was before
        self.privileged = np.asarray(observation)
        self._steps, self._achieved = 0, False
        return self.observe(cameras=False)

    def set_task(self, task: MetaWorldTask | None, instruction: str = "") -> None:
        """Judges ``task`` under another instruction; any other than the scene's own, or None, never succeeds."""
        self.task, self.instruction = task, instruction

    def feasible_tasks(self) -> list[MetaWorldTask]:
        """The one task that the scene was drawn for."""
        return [MetaWorldTask(self._loaded)]

    def success(self) -> bool:
        """Whether the benchmark's success flag has been set within the horizon."""
        return self._achieved and self.task is not None and self.task.family == self._loaded

    # ---- motion ----

    def step(self, joint_targets_J: np.ndarray) -> None:
        """Advances 12.5 ms with the hand's target moved towards ``joint_targets_J`` (m), at most by 10 mm an axis.

        Raises:
            ValueError: a wrong number of targets, or one that is not finite.
        """
        targets = np.asarray(joint_targets_J, dtype=np.float64)
        if targets.shape != self.robot.home.shape or not np.isfinite(targets).all():
            raise ValueError(f"expected {len(self.robot.home)} finite joint targets, got {joint_targets_J}")
        self.act(action_towards(self.hand_target(), targets))

    def act(self, action: np.ndarray) -> None:
        """Advances 12.5 ms with one of the benchmark's own actions, [4] in [-1, 1]."""
        self.benchmark.curr_path_length = 0  # steps are counted here: a simulated robot goes on after its episode
        self.privileged, _, _, _, info = self.benchmark.step(np.asarray(action, dtype=np.float64))
        self._steps += 1
        in_time = self._horizon_steps is None or self._steps <= self._horizon_steps
        self._achieved = self._achieved or (bool(info["success"]) and in_time)

    def hand_target(self) -> np.ndarray:
        """Where the hand is commanded to be, [3] m."""
        return self.benchmark.data.mocap_pos[0].copy()

    # ---- sensing ----

    @property
    def time_ns(self) -> int:
        """Simulated time since the reset."""
        return self._steps * _STEP_NS

    def observe(self, cameras: bool = True) -> SimObservation:
        """Reads the hand and the fingers, and renders the camera unless told not to. Nothing else of the scene."""
        data = self.benchmark.data
        fingers = np.linalg.norm(data.body("rightclaw").xpos - data.body("leftclaw").xpos)
        positions = np.array([*data.body("hand").xpos, min(0.5 * float(fingers), METAWORLD_GRIPPER_OPEN_M)])
        velocity = np.zeros(6)
        hand = self.benchmark.model.body("hand").id
        mujoco.mj_objectVelocity(self.benchmark.model, data, mujoco.mjtObj.mjOBJ_BODY, hand, velocity, 0)
        return SimObservation(
            stamp_ns=self.time_ns,
            images={name: self.render(name) for name in self.cameras} if cameras else {},
            joint_positions_J=positions,
            joint_velocities_J=np.array([*velocity[3:], 0.0]),
            joint_efforts_J=np.zeros(len(positions)),
        )

    def render(self, camera: str) -> np.ndarray:
        """Returns ``camera``'s picture, uint8 [256, 256, 3]."""
        self.aim(camera)
        return self._camera.draw()

    def aim(self, camera: str) -> None:
        """Copies what ``camera`` sees now, to be drawn later."""
        if camera not in self.cameras:
            raise KeyError(f"no camera '{camera}': there is {', '.join(self.cameras)}")
        if self._camera is None:
            self._camera = camera_module.WindowCamera(self.benchmark.model)
        self._camera.aim(self.benchmark.data)

    def camera_info(self, camera: str) -> dict:
        """Pinhole intrinsics in pixels: width, height, fx, fy, cx, cy, frame_id."""
        return camera_module.camera_info()

    def project(self, camera: str, point: np.ndarray) -> np.ndarray:
        """Where ``point`` (m, [3]) appears in the picture, [2], 0..1 with u right and v down."""
        return camera_module.project(self.benchmark.model, self.benchmark.data, point)

    def close(self) -> None:
        """Frees the camera."""
        if self._camera is not None:
            self._camera.close()
            self._camera = None

    # ---- inside ----

    def _load(self, name: str) -> None:
        self.close()
        self.benchmark, self._loaded = make_benchmark(name), name
        camera_module.aim_camera(self.benchmark.model)
        self.privileged = np.zeros(39)
        self._steps, self._achieved = 0, False


def action_towards(hand_target: np.ndarray, joint_targets_J: np.ndarray) -> np.ndarray:
    """The benchmark's action, [4] in [-1, 1], that moves the hand's target towards ``joint_targets_J`` (m)."""
    steps = (joint_targets_J[:3] - hand_target) / ACTION_SCALE_M
    return np.clip([*steps, effort(joint_targets_J[3])], -1.0, 1.0)


def effort(gripper_m: float) -> float:
    """The effort, 1 closes and -1 opens, that a commanded gripper position (m) stands for."""
    return 1.0 - 2.0 * gripper_m / METAWORLD_GRIPPER_OPEN_M


def gripper_position(effort_1: np.ndarray) -> np.ndarray:
    """The inverse of ``effort``, m."""
    return 0.5 * METAWORLD_GRIPPER_OPEN_M * (1.0 - effort_1)
