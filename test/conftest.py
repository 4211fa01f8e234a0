# SPDX-License-Identifier: Apache-2.0
"""What all tests share: rendering without a screen, chosen before anything imports MuJoCo."""

import os

os.environ.setdefault("MUJOCO_GL", "egl")
