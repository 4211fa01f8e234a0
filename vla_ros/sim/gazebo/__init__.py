# SPDX-License-Identifier: Apache-2.0
"""The tabletop in Gazebo: worlds made from the URDF and the scene, and clients of Gazebo Classic's and Gazebo Sim's own transports."""
