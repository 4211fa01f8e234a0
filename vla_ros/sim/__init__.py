# SPDX-License-Identifier: Apache-2.0
"""The embedded simulator: scene, tasks, expert, environment. Must not import torch, ROS or the runtime."""

import os

os.environ.setdefault("MUJOCO_GL", "egl")  # MuJoCo reads it while it loads: pictures without a screen
