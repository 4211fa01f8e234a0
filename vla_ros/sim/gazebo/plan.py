# SPDX-License-Identifier: Apache-2.0
"""The scene of a seed as MuJoCo lays it out: what a Gazebo world is made from, so that both simulators show the same tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import mujoco
import numpy as np

from vla_ros.sim.env import TabletopEnv
from vla_ros.sim.tasks import ObjectRef


@dataclass(frozen=True, kw_only=True)
class Servo:
    """One joint's position servo: force = stiffness * (target - position) - damping * velocity, at most ``effort``.

    Units: N m and rad for revolute joints, N and m for prismatic ones. ``armature`` is the rotor's inertia at the joint, kg m^2 or kg.
    """

    stiffness: float
    damping: float
    effort: float
    armature: float


class ScenePlan(TabletopEnv):
    """Lays scenes out and draws tasks; nothing in it moves after that. ``model`` and ``data`` hold the scene's look and poses."""

    @property
    def model(self) -> mujoco.MjModel:
        return self._model

    @property
    def data(self) -> mujoco.MjData:
        return self._data

    def objects(self) -> dict[ObjectRef, int]:
        """The scene's objects, each with its MuJoCo body."""
        return {p.ref: self._scene.body_ids[p.ref.kind, p.slot] for p in self._placements}

    def servos(self) -> Mapping[str, Servo]:
        """Every moving joint's servo.

        MuJoCo drives both fingers by one actuator and a coupling; here each finger gets half of it.
        """
        model, found = self._model, {}
        fingers = (self.robot.gripper_joint, *self.robot.mimics)
        for joint in (model.joint(name) for name in (*self.robot.joint_names, *self.robot.mimics)):
            share = 0.5 if joint.name in fingers else 1.0
            actuator = model.actuator(self.robot.gripper_joint if joint.name in fingers else joint.name)
            found[joint.name] = Servo(
                stiffness=share * float(actuator.gainprm[0]),
                damping=share * float(-actuator.biasprm[2]) + float(joint.damping[0]),
                effort=float(model.jnt_actfrcrange[joint.id][1]),
                armature=float(joint.armature[0]),
            )
        return found


def object_name(ref: ObjectRef) -> str:
    """The Gazebo model of an object, such as ``red_cube``."""
    return f"{ref.colour}_{ref.kind}"


def gazebo_camera_pose(model: mujoco.MjModel, data: mujoco.MjData, camera: str) -> tuple[np.ndarray, np.ndarray]:
    """Position [3] in m and rotation [3, 3] of ``camera`` in base_link, with the axes of a Gazebo camera: x forward, y left, z up."""
    number = model.camera(camera).id
    x, y, z = data.cam_xmat[number].reshape(3, 3).T  # MuJoCo: x right, y up, -z forward
    return data.cam_xpos[number].copy(), np.stack([-z, -x, y], axis=1)
