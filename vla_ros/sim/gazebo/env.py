# SPDX-License-Identifier: Apache-2.0
"""The tabletop in Gazebo Classic 11 with the interface of ``vla_ros.sim.env.TabletopEnv``: for ``vla evaluate --sim gazebo``.

Scenes and tasks are those that MuJoCo lays out for a seed. Each scene is a world of its own in a server of its own, which stays paused and
does physics steps only when told: results do not depend on the machine's speed. Pictures come at the cameras' rate; an observation holds
the newest ones and the joints of the same instant.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from vla_ros.robot.kinematics import Kinematics
from vla_ros.sim.env import CONTROL_PERIOD_S, SimObservation
from vla_ros.sim.gazebo.arm import ARM
from vla_ros.sim.gazebo.classic_server import ClassicServer
from vla_ros.sim.gazebo.classic_world import IMAGE_TOPICS, ClassicWorld
from vla_ros.sim.gazebo.joints import JointReader
from vla_ros.sim.gazebo.plan import ScenePlan, object_name
from vla_ros.sim.gazebo.sdf import TIMESTEP_S, WORLD_NAME, world_sdf
from vla_ros.sim.success import SuccessCheck
from vla_ros.sim.tasks import ObjectRef, Task, all_tasks
from vla_ros.sim.world import ObjectState, WorldState, is_feasible

LOCKSTEP_IMAGE_RATE_HZ = 25.0  # a picture every other control period
_STEP_NS = round(TIMESTEP_S * 1e9)
_SETTLE_S = 0.2
_POSES_S = 0.05
_MAX_REALTIME_FACTOR = 3.0  # a paused server goes round its loop, and tells the time, this many times a step's length
_FINGER_LINKS = (f"{ARM}::left_finger_link", f"{ARM}::right_finger_link")


class GazeboTabletop:
    """One scene after another. Not thread-safe.

    Raises:
        ConfigError: Gazebo Classic is not there.
    """

    def __init__(self, *, randomize_look: float = 1.0, image_rate_hz: float = LOCKSTEP_IMAGE_RATE_HZ) -> None:
        self.plan = ScenePlan(randomize_look=randomize_look)
        self.robot = self.plan.robot
        self._image_period_ns = round(1e9 / image_rate_hz)
        self._image_rate_hz = image_rate_hz
        self._reader = JointReader(self.robot)
        self._kinematics = Kinematics(self.robot)
        self._servos = self.plan.servos()
        self._server = ClassicServer()
        self._world: ClassicWorld | None = None
        self._check: SuccessCheck | None = None
        self._joints: deque[tuple[int, np.ndarray]] = deque(maxlen=20)  # stamp, positions
        self._earlier: tuple[int, dict[str, np.ndarray]] = (0, {})
        self._targets = self.robot.home
        self.task: Task | None = None
        self.instruction = ""

    # ---- episodes ----

    def reset(self, seed: int, task: Task | None = None, split: str = "seen", family: str | None = None) -> SimObservation:
        """Lays out the scene of ``seed`` and draws the task that the MuJoCo environment draws for it.

        Raises:
            GazeboError: the server did not come up or does not answer.
        """
        self.plan.reset(seed, task, split, family)
        self._start(world_sdf(self.plan, "classic", self._image_rate_hz, _MAX_REALTIME_FACTOR))
        self.set_task(self.plan.task, self.plan.instruction)
        return self.observe(cameras=False)

    def set_task(self, task: Task | None, instruction: str = "") -> None:
        """Starts judging ``task`` from the present state on."""
        self.task, self.instruction = task, instruction
        self._check = SuccessCheck(task, self.world_state()) if task is not None else None

    def feasible_tasks(self) -> list[Task]:
        """The tasks that words can name in this scene and that the arm can do from the present state."""
        world = self.world_state()
        return [t for t in all_tasks(world.objects) if is_feasible(t, world)]

    def success(self) -> bool:
        """Whether the present task has been achieved, by Gazebo's ground truth."""
        return self._check is not None and self._check.achieved

    # ---- motion ----

    def step(self, joint_targets_J: np.ndarray, period_s: float = CONTROL_PERIOD_S) -> None:
        """Advances by ``period_s`` with the servos at ``joint_targets_J`` (rad, the gripper in m).

        Raises:
            ValueError: a wrong number of targets, or one that is not finite.
            GazeboError: Gazebo does not answer.
        """
        targets = np.asarray(joint_targets_J, dtype=np.float64)
        if targets.shape != self.robot.home.shape or not np.isfinite(targets).all():
            raise ValueError(f"expected {len(self.robot.home)} finite joint targets, got {joint_targets_J}")
        self._advance(np.clip(targets, self.robot.limits.position_min, self.robot.limits.position_max), period_s)
        if self._check is not None:
            self._check.update(self.world_state(), period_s)

    def _advance(self, targets: np.ndarray, period_s: float) -> None:
        world = self._world
        self._targets = targets
        self._earlier = (self.time_ns, {name: position for name, (position, _) in world.objects().items()})
        world.command(self._with_mimics(targets))
        goal_ns = self.time_ns + round(period_s * 1e9)
        world.step(round(period_s / TIMESTEP_S))
        world.wait_for(lambda: world.time_ns >= goal_ns, "physics step")
        while not world.has_arm_of(goal_ns, _POSES_S):  # its poses were lost: Gazebo's publishers keep ten messages and drop the oldest
            world.step(1)
        self._remember_joints()

    # ---- sensing ----

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

    def _has_picture(self, camera: str, due_ns: int) -> bool:
        picture = self._world.picture(camera)
        return picture is not None and picture.stamp_ns >= due_ns

    def _observation(self, stamp_ns: int, pictures: dict[str, np.ndarray]) -> SimObservation:
        rows = [row for row in self._joints if row[0] <= stamp_ns] or [self._joints[0]]
        (now_ns, positions), (before_ns, before) = rows[-1], rows[max(len(rows) - 2, 0)]
        velocities = (positions - before) / max((now_ns - before_ns) * 1e-9, TIMESTEP_S)
        servos = [self._servos[name] for name in self.robot.joint_names]
        efforts = [
            np.clip(s.stiffness * e - s.damping * v, -s.effort, s.effort) for s, e, v in zip(servos, self._targets - positions, velocities)
        ]
        return SimObservation(
            stamp_ns=stamp_ns,
            images=pictures,
            joint_positions_J=positions.copy(),
            joint_velocities_J=velocities,
            joint_efforts_J=np.array(efforts),
        )

    def camera_info(self, camera: str) -> dict[str, Any]:
        """Pinhole intrinsics in pixels: width, height, fx, fy, cx, cy, frame_id."""
        return self.plan.camera_info(camera)

    def world_state(self) -> WorldState:
        """Gazebo's ground truth, for the expert and the success check; never for the policy."""
        joints = self._joints[-1][1]
        tool, _ = self._kinematics.fk(joints)
        poses, contacts = self._world.objects(), self._world.contacts()
        objects = {ref: self._object(ref, body, poses, contacts) for ref, body in self.plan.objects().items()}
        return WorldState(tool=tool, tool_yaw=self._kinematics.tool_yaw(joints), gripper=float(joints[-1]), objects=objects)

    def _object(self, ref: ObjectRef, body: int, poses: dict[str, Any], contacts: list[tuple[str, str]]) -> ObjectState:
        name = object_name(ref)
        start = self.plan.data.xpos[body], self.plan.data.xquat[body]  # a body that never moved is not reported
        position, (w, x, y, z) = poses.get(name, start)
        before_ns, before = self._earlier
        elapsed_s = max(self.time_ns - before_ns, _STEP_NS) * 1e-9
        touching = {a if b == f"{name}::link" else b for a, b in contacts if f"{name}::link" in (a, b)}
        return ObjectState(
            position=position.copy(),
            yaw=float(np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))),
            speed=float(np.linalg.norm(position - before.get(name, position))) / elapsed_s,
            touched_by=frozenset(i for i, finger in enumerate(_FINGER_LINKS) if finger in touching),
        )

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
        self._world = ClassicWorld(connection, self._server.partition, self._servos, self._server.is_running)
        self._joints.clear()
        self._joints.append((0, self.robot.home.copy()))
        self._world.wait_for(lambda: self._world.time_ns >= 0, "time")
        for _ in range(round(_SETTLE_S / CONTROL_PERIOD_S)):
            self._advance(self.robot.home, CONTROL_PERIOD_S)

    def _remember_joints(self) -> None:
        stamp_ns, poses = self._world.arm()
        self._joints.append((stamp_ns, self._reader.positions(poses)))

    def _with_mimics(self, targets_J: np.ndarray) -> dict[str, float]:
        """Targets of all joints, also of those that follow another."""
        targets = dict(zip(self.robot.joint_names, map(float, targets_J)))
        for name, (leader, factor, offset) in self.robot.mimics.items():
            targets[name] = factor * targets[leader] + offset
        return targets
