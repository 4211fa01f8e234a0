# SPDX-License-Identifier: Apache-2.0
"""The contract of the tabletop robot that ships with the package: joints, cameras, action, proprioception.

The simulator, the data collection and the training build on it; a bundle's manifest repeats it as data and
is the only source at run time.
"""

from __future__ import annotations

from vla_ros.core.action import ActionDim, ActionSpec
from vla_ros.core.observation import CameraSpec

ROBOT = "tabletop_arm"
BASE_FRAME = "base_link"
TOOL_FRAME = "tool_link"

JOINT_NAMES = (
    "shoulder_pan_joint",
    "shoulder_lift_joint",
    "elbow_joint",
    "forearm_roll_joint",
    "wrist_pitch_joint",
    "wrist_roll_joint",
    "gripper_joint",
)
GRIPPER_OPEN_M = 0.042  # gripper_joint, half of the opening

CONTROL_RATE_HZ = 50
CONTROL_DT_S = 1.0 / CONTROL_RATE_HZ

CAMERAS = (CameraSpec(name="front", height=128, width=128), CameraSpec(name="wrist", height=64, width=64))
RENDER_SIZES = {"front": (256, 256), "wrist": (128, 128)}  # height, width that the simulator publishes

PROPRIO_NAMES = (*JOINT_NAMES, "tool_x", "tool_y", "tool_z", "tool_yaw")

PROMPT_TEMPLATE = "Robot: {instruction} Action:"
TEXT_TOKENS = 24


def _relative(name: str, kind: str, unit: str, bound: float) -> ActionDim:
    return ActionDim(name=name, kind=kind, unit=unit, frame=BASE_FRAME, relative=True, low=-bound, high=bound)


ACTION_SPEC = ActionSpec(
    dims=(
        ActionDim(name="terminate", kind="terminate", unit="1", frame="", relative=False, low=0.0, high=1.0),
        _relative("x", "translation", "m", 0.25),
        _relative("y", "translation", "m", 0.25),
        _relative("z", "translation", "m", 0.25),
        _relative("yaw", "rotation", "rad", 1.0),
        ActionDim(name="gripper", kind="gripper", unit="m", frame="gripper_joint", relative=False, low=0.0, high=GRIPPER_OPEN_M),
    ),
    horizon=5,
    dt_s=0.2,
)
