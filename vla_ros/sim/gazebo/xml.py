# SPDX-License-Identifier: Apache-2.0
"""Small pieces of SDFormat: elements, numbers, poses."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable
from typing import Any

import mujoco
import numpy as np


def add(parent: ET.Element, path: str, value: Any = None, **attributes: str) -> ET.Element:
    """Appends an element; ``a/b/c`` goes through existing or new ``a`` and ``b``. Returns the last one."""
    *way, tag = path.split("/")
    for step in way:
        found = parent.find(step)
        parent = found if found is not None else ET.SubElement(parent, step)
    element = ET.SubElement(parent, tag, attributes)
    if value is not None:
        element.text = text_of(value)
    return element


def text_of(value: Any) -> str:
    """As SDFormat writes it: lower-case booleans, numbers of nine digits apart by spaces."""
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    values: Iterable[float] = np.atleast_1d(np.asarray(value, dtype=np.float64)).ravel()
    return " ".join(f"{0.0 if abs(v) < 5e-10 else v:.9g}" for v in values)


def add_pose(parent: ET.Element, position: np.ndarray, rotation: np.ndarray | None = None, tag: str = "pose") -> ET.Element:
    """Position in m and rotation [3, 3] as x y z roll pitch yaw."""
    return add(parent, tag, np.concatenate([position, roll_pitch_yaw(np.eye(3) if rotation is None else rotation)]))


def roll_pitch_yaw(rotation: np.ndarray) -> np.ndarray:
    """Fixed axes x, y, z (URDF and SDFormat) of a rotation [3, 3], rad [3]."""
    pitch = np.arctan2(-rotation[2, 0], np.hypot(rotation[0, 0], rotation[1, 0]))
    if abs(np.cos(pitch)) < 1e-9:
        return np.array([np.arctan2(-rotation[1, 2], rotation[1, 1]), pitch, 0.0])
    return np.array([np.arctan2(rotation[2, 1], rotation[2, 2]), pitch, np.arctan2(rotation[1, 0], rotation[0, 0])])


def rotation_of_rpy(rpy: np.ndarray) -> np.ndarray:
    """Inverse of ``roll_pitch_yaw``, [3, 3]."""
    (cr, cp, cy), (sr, sp, sy) = np.cos(rpy), np.sin(rpy)
    return np.array(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
            [-sp, cp * sr, cp * cr],
        ]
    )


def rotation_of_quaternion(wxyz: np.ndarray) -> np.ndarray:
    """[3, 3] of a unit quaternion."""
    rotation = np.zeros(9)
    mujoco.mju_quat2Mat(rotation, np.asarray(wxyz, dtype=np.float64))
    return rotation.reshape(3, 3)


def add_inertial(link: ET.Element, mass: float, centre: np.ndarray, inertia: np.ndarray) -> None:
    """``inertia`` [3, 3] about the centre of mass in the link's axes, kg m^2."""
    inertial = add(link, "inertial")
    add_pose(inertial, centre)
    add(inertial, "mass", mass)
    for row, column, name in ((0, 0, "ixx"), (0, 1, "ixy"), (0, 2, "ixz"), (1, 1, "iyy"), (1, 2, "iyz"), (2, 2, "izz")):
        add(inertial, f"inertia/{name}", inertia[row, column])


def write(root: ET.Element) -> str:
    """The document with its licence line."""
    ET.indent(root)
    return '<?xml version="1.0"?>\n<!-- SPDX-License-Identifier: Apache-2.0 -->\n' + ET.tostring(root, encoding="unicode") + "\n"
