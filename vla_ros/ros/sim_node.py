# SPDX-License-Identifier: Apache-2.0
"""Entry of ``vla sim``: the simulator node ``vla_sim`` as a process."""

from __future__ import annotations

import argparse
import os
import sys

from vla_ros.ros.process import StopSignals, add_parameter_arguments, parameter_overrides, serve, split_ros_arguments
from vla_ros.ros.sim_parameters import SimParameters


def main(argv: list[str] | None = None) -> int:
    """Runs the simulator node until SIGINT or SIGTERM; ROS arguments follow ``--ros-args``. Returns the exit code."""
    ours, ros = split_ros_arguments(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="vla sim", description="Simulated robot, controllers and cameras as the ROS node vla_sim.")
    add_parameter_arguments(parser, SimParameters)
    parser.add_argument("--gazebo", dest="simulator", action="store_const", const="gazebo", help="the same as --simulator gazebo")
    arguments = parser.parse_args(ours)
    # Read while Mesa loads: its software renderer would take every core, also the control loop's.
    os.environ.setdefault("LP_NUM_THREADS", "1")
    from vla_ros.ros.simulator import SimNode

    def make(_: StopSignals) -> SimNode:
        node = SimNode(parameter_overrides(SimParameters, arguments))
        node.start()
        return node

    return serve(make, close=SimNode.close, arguments=arguments, ros_arguments=ros)


if __name__ == "__main__":
    sys.exit(main())
