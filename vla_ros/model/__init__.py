# SPDX-License-Identifier: Apache-2.0
"""The network: torch, no training and no ROS."""

from vla_ros.model.config import PolicyConfig
from vla_ros.model.policy import Policy, PolicyOutput

__all__ = ["Policy", "PolicyConfig", "PolicyOutput"]
