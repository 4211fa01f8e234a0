# SPDX-License-Identifier: Apache-2.0
"""Is the robot clear of itself and of the table? Pinocchio and Coal on the collision primitives of the URDF."""

from __future__ import annotations

import coal
import numpy as np
import pinocchio

from vla_ros.robot.description import RobotDescription

_FLOOR = "floor"


class CollisionModel:
    """The robot's primitives and the table's plane. Not thread-safe: each thread needs an instance of its own.

    Left out are pairs that touch by construction: a link and the one that carries it, and what the hand carries (fingers close on each
    other). The link on which the robot stands is not checked against the plane.
    """

    def __init__(self, description: RobotDescription) -> None:
        """Reads the URDF and the clearances of ``description``."""
        self._model = pinocchio.buildModelFromUrdf(str(description.urdf_path))
        self._geometry = pinocchio.buildGeomFromUrdf(self._model, str(description.urdf_path), pinocchio.GeometryType.COLLISION)
        links = list(range(self._geometry.ngeoms))
        if description.floor_height is not None:
            floor = self._add_floor(description.floor_height)
            self._add_pairs([(link, floor) for link in links if self._joint(link) > 0])
        num_floor_pairs = len(self._geometry.collisionPairs)
        self._add_pairs([(a, b) for a in links for b in links if a < b and not self._touch_by_construction(a, b, description)])
        self._data, self._geometry_data = self._model.createData(), self._geometry.createData()
        for index, request in enumerate(self._geometry_data.collisionRequests):
            request.security_margin = 0.0 if index < num_floor_pairs else description.self_clearance
        self._clearances_P = np.array([request.security_margin for request in self._geometry_data.collisionRequests])
        self._factors_QJ, self._offsets_Q = self._mapping(description)
        self._q = pinocchio.neutral(self._model)

    @property
    def pair_names(self) -> tuple[tuple[str, str], ...]:
        """Names of the two primitives of each pair that is checked."""
        names = [g.name for g in self._geometry.geometryObjects]
        return tuple((names[pair.first], names[pair.second]) for pair in self._geometry.collisionPairs)

    def depth_m(self, joint_positions_J: np.ndarray) -> float:
        """How much the worst pair lacks to its clearance, m; 0 where all is clear. The cheap question comes first."""
        np.dot(self._factors_QJ, joint_positions_J, out=self._q)
        self._q += self._offsets_Q
        if not pinocchio.computeCollisions(self._model, self._data, self._geometry, self._geometry_data, self._q, True):
            return 0.0
        pinocchio.computeDistances(self._model, self._data, self._geometry, self._geometry_data, self._q)
        distances_P = np.array([result.min_distance for result in self._geometry_data.distanceResults])
        return float(max((self._clearances_P - distances_P).max(), 0.0))

    def _add_floor(self, height_m: float) -> int:
        below = coal.Halfspace(np.array([0.0, 0.0, 1.0]), height_m)  # its distance has a closed form, that of a box is searched for
        return self._geometry.addGeometryObject(pinocchio.GeometryObject(_FLOOR, 0, 0, pinocchio.SE3.Identity(), below))

    def _add_pairs(self, pairs: list[tuple[int, int]]) -> None:
        for first, second in pairs:
            self._geometry.addCollisionPair(pinocchio.CollisionPair(first, second))

    def _joint(self, geometry: int) -> int:
        return self._geometry.geometryObjects[geometry].parentJoint

    def _touch_by_construction(self, a: int, b: int, description: RobotDescription) -> bool:
        joints = (self._joint(a), self._joint(b))
        parents = tuple(self._model.parents[j] for j in joints)
        carried = [self._model.names[j] not in description.arm_joints and j > 0 for j in joints]
        return joints[0] == joints[1] or joints[0] == parents[1] or joints[1] == parents[0] or all(carried)

    def _mapping(self, description: RobotDescription) -> tuple[np.ndarray, np.ndarray]:
        """Factors [Q, J] and offsets [Q] that give the model's positions, mimic joints too; joints that nobody names stay where they are neutral."""
        names = description.joint_names
        follows = {name: (name, 1.0, 0.0) for name in names} | dict(description.mimics)
        factors_QJ, offsets_Q = np.zeros((self._model.nq, len(names))), pinocchio.neutral(self._model)
        for joint, name in zip(self._model.joints, self._model.names):
            leader, factor, offset = follows.get(name, (None, 0.0, 0.0))
            if leader in names:
                factors_QJ[joint.idx_q, names.index(leader)], offsets_Q[joint.idx_q] = factor, offset
        return factors_QJ, offsets_Q
