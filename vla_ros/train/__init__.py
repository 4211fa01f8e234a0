# SPDX-License-Identifier: Apache-2.0
"""Data, losses, checkpoints and the training loop: torch, no simulator and no ROS."""

import os

# Two compute threads that spin at their barriers starve each other on a shared machine: beside a load of 4 on two cores a
# training step took 1.5 s with waiting threads and 4.4 s with spinning ones. Read when torch loads, so set before.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
