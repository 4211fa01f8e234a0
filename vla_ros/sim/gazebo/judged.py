# SPDX-License-Identifier: Apache-2.0
"""A scene in Gazebo with one task to judge: ground truth, success, and what the robot's drivers would report."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from vla_ros.robot.kinematics import Kinematics
from vla_ros.sim.env import SimObservation
from vla_ros.sim.gazebo.arm import ARM
from vla_ros.sim.gazebo.joints import Pose
from vla_ros.sim.gazebo.newest import Picture
from vla_ros.sim.gazebo.plan import ScenePlan, object_name
from vla_ros.sim.success import SuccessCheck
from vla_ros.sim.tasks import ObjectRef, Task, all_tasks
from vla_ros.sim.world import ObjectState, WorldState, is_feasible

FINGER_LINKS = (f"{ARM}::left_finger_link", f"{ARM}::right_finger_link")
_SHORTEST_S = 0.001


class GazeboWorld(Protocol):
    """A running Gazebo: Classic's or Sim's. All values are the newest that arrived; stamps are simulated time in ns."""

    time_ns: int

    def joints(self) -> tuple[int, np.ndarray]:
        """Stamp and positions [J], in the description's order."""

    def objects(self) -> dict[str, Pose]:
        """Pose of every movable model but the arm, in base_link; one that has not moved may be absent."""

    def contacts(self) -> list[tuple[str, str]]:
        """Pairs ``model::link`` that touch."""

    def picture(self, camera: str) -> Picture | None:
        """The newest picture, None before the first."""

    def command(self, targets: Mapping[str, float]) -> None:
        """Sets the targets of servos, rad or m."""

    def wait_for(self, condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
        """Waits until what arrives makes ``condition`` true; raises GazeboError."""

    def close(self) -> None:
        """Ends all connections."""


class JudgedScene:
    """Reads a Gazebo world against the plan of its scene. Not thread-safe."""

    def __init__(self, *, randomize_look: float = 1.0) -> None:
        self.plan = ScenePlan(randomize_look=randomize_look)
        self.robot = self.plan.robot
        self._kinematics = Kinematics(self.robot)
        self._servos = self.plan.servos()
        self._world: GazeboWorld | None = None
        self._check: SuccessCheck | None = None
        self._joints: deque[tuple[int, np.ndarray]] = deque(maxlen=20)  # stamp, positions
        self._earlier: tuple[int, dict[str, np.ndarray]] = (0, {})
        self._targets = self.robot.home
        self.task: Task | None = None
        self.instruction = ""

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

    def _object(self, ref: ObjectRef, body: int, poses: dict[str, Pose], contacts: list[tuple[str, str]]) -> ObjectState:
        name = object_name(ref)
        start = self.plan.data.xpos[body], self.plan.data.xquat[body]  # a body that never moved is not reported
        position, (w, x, y, z) = poses.get(name, start)
        before_ns, before = self._earlier
        elapsed_s = max((self._joints[-1][0] - before_ns) * 1e-9, _SHORTEST_S)
        touching = {a if b == f"{name}::link" else b for a, b in contacts if f"{name}::link" in (a, b)}
        return ObjectState(
            position=position.copy(),
            yaw=float(np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))),
            speed=float(np.linalg.norm(position - before.get(name, position))) / elapsed_s,
            touched_by=frozenset(i for i, finger in enumerate(FINGER_LINKS) if finger in touching),
        )

    def _note_objects(self) -> None:
        """Remembers where everything is now, from which the next state's speeds are taken."""
        self._earlier = (self._joints[-1][0], {name: position for name, (position, _) in self._world.objects().items()})

    def _observation(self, stamp_ns: int, pictures: dict[str, np.ndarray]) -> SimObservation:
        """Joints of the newest row not after ``stamp_ns``; efforts are what the servos' law gives for it."""
        rows = [row for row in self._joints if row[0] <= stamp_ns] or [self._joints[0]]
        (now_ns, positions), (before_ns, before) = rows[-1], rows[max(len(rows) - 2, 0)]
        velocities = (positions - before) / max((now_ns - before_ns) * 1e-9, _SHORTEST_S)
        servos = [self._servos[name] for name in self.robot.joint_names]
        errors = self._targets - positions
        efforts = [np.clip(s.stiffness * e - s.damping * v, -s.effort, s.effort) for s, e, v in zip(servos, errors, velocities)]
        return SimObservation(
            stamp_ns=stamp_ns,
            images=pictures,
            joint_positions_J=positions.copy(),
            joint_velocities_J=velocities,
            joint_efforts_J=np.array(efforts),
        )

    def _command(self, targets_J: np.ndarray) -> None:
        """Sends the targets of all joints, also of those that follow another."""
        self._targets = np.clip(targets_J, self.robot.limits.position_min, self.robot.limits.position_max)
        targets = dict(zip(self.robot.joint_names, map(float, self._targets)))
        for name, (leader, factor, offset) in self.robot.mimics.items():
            targets[name] = factor * targets[leader] + offset
        self._world.command(targets)
