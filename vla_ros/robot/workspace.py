# SPDX-License-Identifier: Apache-2.0
"""How far the tool is outside its workspace. Asked for every position of every stopping path, so that it has to be quick."""

from __future__ import annotations

import numpy as np
import pinocchio

from vla_ros.robot.description import RobotDescription


class Workspace:
    """The box of the tool in ``base_frame``. Not thread-safe: each thread needs an instance of its own."""

    def __init__(self, description: RobotDescription) -> None:
        self._model = pinocchio.buildModelFromUrdf(str(description.urdf_path))
        self._data = self._model.createData()
        self._tool = self._model.getFrameId(description.tool_frame)
        self._q = pinocchio.neutral(self._model)
        self._columns = np.array([self._model.joints[self._model.getJointId(n)].idx_q for n in description.arm_joints])
        self._min, self._max = description.workspace_min.tolist(), description.workspace_max.tolist()

    def excess_m(self, joint_positions_J: np.ndarray) -> float:
        """How far the tool lies outside the box, m, largest over the axes; 0 inside."""
        self._q[self._columns] = joint_positions_J[: len(self._columns)]
        pinocchio.forwardKinematics(self._model, self._data, self._q)
        x, y, z = pinocchio.updateFramePlacement(self._model, self._data, self._tool).translation.tolist()
        (x_min, y_min, z_min), (x_max, y_max, z_max) = self._min, self._max
        return max(x_min - x, x - x_max, y_min - y, y - y_max, z_min - z, z - z_max, 0.0)
