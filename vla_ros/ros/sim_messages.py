# SPDX-License-Identifier: Apache-2.0
"""Messages that the simulator's drivers publish. Builds them, publishes nothing."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from sensor_msgs.msg import CameraInfo, Image, JointState

_NS = 1_000_000_000


def time_message(stamp_ns: int) -> Time:
    """Integer nanoseconds to builtin_interfaces/Time."""
    seconds, nanoseconds = divmod(stamp_ns, _NS)
    return Time(sec=seconds, nanosec=nanoseconds)


def image_message(rgb_HWC: np.ndarray, stamp: Time, frame_id: str) -> Image:
    """rgb8 picture, uint8 [height, width, 3]."""
    height, width, _ = rgb_HWC.shape
    message = Image(height=height, width=width, encoding="rgb8", is_bigendian=0, step=3 * width)
    message.header.stamp, message.header.frame_id = stamp, frame_id
    data = array("B")  # rclpy copies an array of bytes whole, and anything else item by item
    data.frombytes(rgb_HWC.tobytes())
    message.data = data
    return message


def camera_info_message(info: dict[str, Any], stamp: Time) -> CameraInfo:
    """Pinhole without distortion from width, height, fx, fy, cx, cy (pixels) and frame_id."""
    fx, fy, cx, cy = (float(info[k]) for k in ("fx", "fy", "cx", "cy"))
    message = CameraInfo(height=info["height"], width=info["width"], distortion_model="plumb_bob", d=[0.0] * 5)
    message.header.stamp, message.header.frame_id = stamp, info["frame_id"]
    message.k = [fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0]
    message.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    message.p = [fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0]
    return message


def joint_state_message(
    names: tuple[str, ...], position_J: np.ndarray, velocity_J: np.ndarray, effort_J: np.ndarray, stamp: Time
) -> JointState:
    """Joints in the order of ``names``: rad or m, per second, N m or N."""
    message = JointState(name=list(names))
    message.header.stamp = stamp
    message.position, message.velocity, message.effort = (array("d", values) for values in (position_J, velocity_J, effort_J))
    return message
