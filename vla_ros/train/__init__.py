# SPDX-License-Identifier: Apache-2.0
"""Data, losses, checkpoints and the training loop: torch, no simulator and no ROS."""
