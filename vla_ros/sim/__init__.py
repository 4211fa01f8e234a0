# SPDX-License-Identifier: Apache-2.0
"""The embedded simulator: scene, tasks, expert, environment. Must not import torch, ROS or the runtime."""
