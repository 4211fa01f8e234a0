# SPDX-License-Identifier: Apache-2.0
"""Forward and inverse kinematics of the tool by Pinocchio. Frames: ``base_frame`` and ``tool_frame`` of the description."""

from __future__ import annotations

import numpy as np
import pinocchio

from vla_ros.core.errors import VlaError
from vla_ros.robot.description import RobotDescription

_MAX_ITERATIONS = 60
_DAMPING = 1e-5  # of the squared Jacobian; small against the arm's singular values of 0.1 and more
_POSITION_TOLERANCE_M = 1e-4
_ROTATION_TOLERANCE_RAD = 1e-3
_MAX_STEP_RAD = 0.3  # keeps Newton inside the region where the linear model holds


class KinematicsError(VlaError):
    """No joint position inside the limits puts the tool there."""


class Kinematics:
    """The arm's kinematics. Not thread-safe: each thread needs an instance of its own.

    Joint arrays have shape [J] in the description's order (arm joints in rad, then the gripper joint in m).
    """

    def __init__(self, description: RobotDescription) -> None:
        self._description = description
        full = pinocchio.buildModelFromUrdf(str(description.urdf_path))
        locked = [i for i, name in enumerate(full.names) if i > 0 and name not in description.arm_joints]
        self._model = pinocchio.buildReducedModel(full, locked, pinocchio.neutral(full))
        self._data = self._model.createData()
        self._tool = self._model.getFrameId(description.tool_frame)
        self._order = np.array([self._model.joints[self._model.getJointId(n)].idx_q for n in description.arm_joints])
        self._lower = description.limits.position_min[: description.num_arm_joints]
        self._upper = description.limits.position_max[: description.num_arm_joints]

    def fk(self, joint_positions_J: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the tool's position [3] in m and rotation [3, 3], ``base_from_tool``."""
        pinocchio.framesForwardKinematics(self._model, self._data, self._ordered(joint_positions_J))
        pose = self._data.oMf[self._tool]
        return pose.translation.copy(), pose.rotation.copy()

    def tool_yaw(self, joint_positions_J: np.ndarray) -> float:
        """Returns the heading of the tool's closing axis (its y axis) about base z, in (-pi, pi] rad; 0 closes along base y."""
        _, rotation = self.fk(joint_positions_J)
        return float(np.arctan2(-rotation[0, 1], rotation[1, 1]))

    def ik(self, xyz: np.ndarray, yaw: float, seed_J: np.ndarray) -> np.ndarray:
        """Finds joint positions with the tool at ``xyz`` pointing straight down with heading ``yaw``.

        Damped least squares from ``seed_J`` (Nakamura and Hanafusa 1986), clipped to the joint limits at each step.

        Args:
            xyz: tool position in ``base_frame``, m, shape [3].
            yaw: heading as in :meth:`tool_yaw`, rad.
            seed_J: where to start; its gripper value is kept.

        Raises:
            KinematicsError: no solution inside the limits was found from this seed.
        """
        target = pinocchio.SE3(tool_down(yaw), np.asarray(xyz, dtype=np.float64))
        n = self._description.num_arm_joints
        q = np.clip(np.asarray(seed_J, dtype=np.float64)[:n], self._lower, self._upper)
        for _ in range(_MAX_ITERATIONS):
            error, jacobian = self._pose_error(q, target)
            if np.linalg.norm(error[:3]) < _POSITION_TOLERANCE_M and np.linalg.norm(error[3:]) < _ROTATION_TOLERANCE_RAD:
                return np.concatenate([q, np.asarray(seed_J, dtype=np.float64)[n:]])
            step = jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + _DAMPING * np.eye(6), error)
            step *= min(1.0, _MAX_STEP_RAD / max(float(np.abs(step).max()), 1e-12))
            q = np.clip(q + step, self._lower, self._upper)
        raise KinematicsError(f"the tool cannot reach {np.round(xyz, 3).tolist()} m pointing down with yaw {yaw:.2f} rad: keep targets inside the robot's workspace")

    def _pose_error(self, q: np.ndarray, target: pinocchio.SE3) -> tuple[np.ndarray, np.ndarray]:
        """Returns the twist [6] to the target and the Jacobian [6, arm joints], both in the tool's frame."""
        ordered = np.empty(self._model.nq)
        ordered[self._order] = q
        pinocchio.framesForwardKinematics(self._model, self._data, ordered)
        jacobian = pinocchio.computeFrameJacobian(self._model, self._data, ordered, self._tool, pinocchio.LOCAL)
        error = pinocchio.log6(self._data.oMf[self._tool].actInv(target)).vector
        return error, jacobian[:, self._order]

    def _ordered(self, joint_positions_J: np.ndarray) -> np.ndarray:
        ordered = np.empty(self._model.nq)
        ordered[self._order] = np.asarray(joint_positions_J)[: self._description.num_arm_joints]
        return ordered


def tool_down(yaw: float) -> np.ndarray:
    """Rotation [3, 3] ``base_from_tool`` of a tool whose z axis points down and whose y axis has heading ``yaw``."""
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[-c, -s, 0.0], [-s, c, 0.0], [0.0, 0.0, -1.0]])
