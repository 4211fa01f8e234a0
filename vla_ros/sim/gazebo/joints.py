# SPDX-License-Identifier: Apache-2.0
"""Joint positions from the poses of links, as Gazebo Classic publishes poses and no joints."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vla_ros.robot.description import RobotDescription
from vla_ros.sim.gazebo.arm import read_links

Pose = tuple[np.ndarray, np.ndarray]  # position [3] in m, quaternion [4] as w x y z


@dataclass(frozen=True)
class _Joint:
    parent: str
    child: str
    axis: np.ndarray
    offset: np.ndarray  # child's origin in the parent's frame at zero; frames are parallel there or not, `turn` says
    turn: np.ndarray  # quaternion of the child in the parent's frame at zero
    is_prismatic: bool


class JointReader:
    """Computes the positions of a robot's joints, in the order of its description.

    Poses may be relative to any one frame. The fixed parts of the URDF's tree need not be there.
    """

    def __init__(self, robot: RobotDescription) -> None:
        urdf = ET.parse(robot.urdf_path).getroot()
        links = read_links(urdf)
        joints = {j.get("name"): j for j in urdf.findall("joint")}
        self._joints = [_joint(joints[name], links) for name in robot.joint_names]
        self.links = tuple(links)

    def positions(self, poses: Mapping[str, Pose]) -> np.ndarray:
        """Returns [J]: rad, the gripper in m. Revolute joints in (-pi, pi].

        Args:
            poses: of all ``links``.
        """
        return np.array([self._position(joint, poses[joint.parent], poses[joint.child]) for joint in self._joints])

    def _position(self, joint: _Joint, parent: Pose, child: Pose) -> float:
        if joint.is_prismatic:
            moved = rotate(conjugate(parent[1]), child[0] - parent[0]) - joint.offset
            return float(rotate(conjugate(joint.turn), moved) @ joint.axis)
        w, *xyz = multiply(conjugate(joint.turn), multiply(conjugate(parent[1]), child[1]))
        angle = 2.0 * np.arctan2(np.dot(xyz, joint.axis), w)
        return float(np.arctan2(np.sin(angle), np.cos(angle)))


def _joint(element: ET.Element, links: Mapping) -> _Joint:
    parent, child = (links[element.find(tag).get("link")] for tag in ("parent", "child"))
    axis = np.array([float(v) for v in element.find("axis").get("xyz").split()])
    offset = parent.rotation.T @ (child.position - parent.position)
    turn = quaternion_of(parent.rotation.T @ child.rotation)
    return _Joint(parent.name, child.name, axis, offset, turn, element.get("type") == "prismatic")


def quaternion_of(rotation: np.ndarray) -> np.ndarray:
    """Unit quaternion w x y z of a rotation [3, 3]."""
    import mujoco

    quaternion = np.zeros(4)
    mujoco.mju_mat2Quat(quaternion, np.ascontiguousarray(rotation).ravel())
    return quaternion


def conjugate(q: np.ndarray) -> np.ndarray:
    """Inverse of a unit quaternion."""
    return q * np.array([1.0, -1.0, -1.0, -1.0])


def multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Product of quaternions w x y z: first b, then a."""
    w1, x1, y1, z1 = a
    w2, x2, y2, z2 = b
    return np.array(
        [
            w1 * w2 - x1 * x2 - y1 * y2 - z1 * z2,
            w1 * x2 + x1 * w2 + y1 * z2 - z1 * y2,
            w1 * y2 - x1 * z2 + y1 * w2 + z1 * x2,
            w1 * z2 + x1 * y2 - y1 * x2 + z1 * w2,
        ]
    )


def rotate(q: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Vector [3] turned by a unit quaternion."""
    return multiply(multiply(q, np.array([0.0, *v])), conjugate(q))[1:]
