# SPDX-License-Identifier: Apache-2.0
"""A recording of a made-up motion of the tabletop arm, as `ros2 bag record` writes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from mcap_ros2.writer import Writer

from vla_ros.core.paths import robot_config_path
from vla_ros.robot.description import RobotDescription
from vla_ros.robot.kinematics import Kinematics

_TIME = "int32 sec\nuint32 nanosec"
_HEADER = "builtin_interfaces/Time stamp\nstring frame_id"
_LINE = "\n" + "=" * 80 + "\n"
_STAMPED = f"{_LINE}MSG: std_msgs/Header\n{_HEADER}{_LINE}MSG: builtin_interfaces/Time\n{_TIME}"
DEFINITIONS = {  # of the messages' packages, without comments
    "sensor_msgs/msg/Image": f"std_msgs/Header header\nuint32 height\nuint32 width\nstring encoding\nuint8 is_bigendian\nuint32 step\nuint8[] data{_STAMPED}",
    "sensor_msgs/msg/JointState": f"std_msgs/Header header\nstring[] name\nfloat64[] position\nfloat64[] velocity\nfloat64[] effort{_STAMPED}",
    "std_msgs/msg/String": "string data",
    "std_msgs/msg/Float64MultiArray": "std_msgs/MultiArrayLayout layout\nfloat64[] data" + _LINE
    + "MSG: std_msgs/MultiArrayLayout\nstd_msgs/MultiArrayDimension[] dim\nuint32 data_offset" + _LINE
    + "MSG: std_msgs/MultiArrayDimension\nstring label\nuint32 size\nuint32 stride",
}  # fmt: skip
START_S = 1_700_000_000.0
ROBOT = RobotDescription.load(robot_config_path("tabletop_arm"))


def joints_at(time_s: float) -> np.ndarray:
    """How the recorded robot moves: 4 s of turning its base, then the gripper closes within a second, then it rests."""
    joints = ROBOT.home.copy()
    joints[0] += 0.1 * min(time_s, 4.0)
    joints[-1] = np.interp(time_s, [4.0, 5.0], [ROBOT.gripper_open, ROBOT.gripper_closed])
    return joints


def tool_at(time_s: float) -> np.ndarray:
    """x, y, z and yaw of the tool."""
    kinematics = Kinematics(ROBOT)
    joints = joints_at(time_s)
    return np.array([*kinematics.fk(joints)[0], kinematics.tool_yaw(joints)])


def stamped(time_s: float) -> dict:
    ns = round((START_S + time_s) * 1e9)
    return {"stamp": {"sec": ns // 10**9, "nanosec": ns % 10**9}, "frame_id": ""}


def recording() -> list[tuple[str, str, float, dict]]:
    """(topic, type, time, message) of 7 s: joints at 50 Hz, cameras at 10 Hz, an instruction after 0.5 s, the end of it after 6 s."""
    messages: list[tuple[str, str, float, dict]] = []
    for index in range(351):
        time_s = index / 50
        body = {
            "header": stamped(time_s),
            "name": [*reversed(ROBOT.joint_names)],
            "position": joints_at(time_s)[::-1].tolist(),
            "velocity": [],
            "effort": [],
        }
        messages.append(("/joint_states", "sensor_msgs/msg/JointState", time_s, body))
    for topic, side in (("/front/image_raw", 16), ("/wrist/image_raw", 8)):
        for index in range(71):
            level = bytes([3 * index]) * (side * side * 3)
            body = {
                "header": stamped(index / 10),
                "height": side,
                "width": side,
                "encoding": "rgb8",
                "is_bigendian": 0,
                "step": 3 * side,
                "data": level,
            }
            messages.append((topic, "sensor_msgs/msg/Image", index / 10, body))
    for time_s, text in ((0.5, "pick up the red cube"), (3.0, "pick up the red cube"), (6.0, "")):
        messages.append(("/instruction", "std_msgs/msg/String", time_s, {"data": text}))
    return sorted(messages, key=lambda message: message[2])


def write_recording(path: Path, messages: list[tuple[str, str, float, dict]]) -> Path:
    """Writes an MCAP file as rosbag2 does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        writer = Writer(stream)
        schemas = {}
        for topic, kind, time_s, message in messages:
            if kind not in schemas:
                schemas[kind] = writer.register_msgdef(kind, DEFINITIONS[kind])
            writer.write_message(topic, schemas[kind], message, log_time=round((START_S + time_s) * 1e9))
        writer.finish()
    return path
