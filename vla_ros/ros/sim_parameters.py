# SPDX-License-Identifier: Apache-2.0
"""Parameters of the simulator node. Must not import rclpy or a simulator."""

from __future__ import annotations

from dataclasses import dataclass

from vla_ros.ros.parameters import ALWAYS, NEVER, Parameterized, parameter

SIMULATORS = ("mujoco", "gazebo", "gazebo-classic")
SIM_COMMAND_INTERFACES = ("JointTrajectory", "Float64MultiArray")


@dataclass(frozen=True, kw_only=True)
class SimParameters(Parameterized):
    """Parameters of ``vla_sim``."""

    simulator: str = parameter(
        "mujoco",
        "where the robot moves: embedded; in a running gz sim; or in a gzserver that this node starts (docs/gazebo.md)",
        choices=SIMULATORS,
        change=NEVER,
    )
    env: str = parameter("tabletop", "tabletop, or a task of Meta-World such as metaworld:drawer-open-v3 (docs/metaworld.md)", change=NEVER)
    seed: int = parameter(0, "scene: objects, their places, colours and light", low=0, high=2**31 - 1, change=ALWAYS)
    task: str = parameter("", "instruction that is judged from the start; empty judges the one drawn with the scene", change=NEVER)
    realtime_factor: float = parameter(1.0, "simulated seconds a second", low=0.01, high=100.0, change=NEVER)
    publish_clock: bool = parameter(
        False, "publish simulated time on /clock and stamp messages with it; nodes then need use_sim_time", change=NEVER
    )
    image_rate_hz: float = parameter(
        15.0, "pictures of each camera a second of simulated time", unit="Hz", low=0.1, high=100.0, change=NEVER
    )
    external_cameras: bool = parameter(False, "pictures come from elsewhere, such as ros_gz_bridge: publish none", change=NEVER)
    command_interface: str = parameter(
        "JointTrajectory", "type of the topic command", choices=SIM_COMMAND_INTERFACES, name="command.interface", change=NEVER
    )
    command_timeout_s: float = parameter(
        0.5, "without a command for this long: decelerate and hold", unit="s", low=0.02, high=60.0, name="command.timeout_s", change=NEVER
    )
