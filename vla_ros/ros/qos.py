# SPDX-License-Identifier: Apache-2.0
"""Quality of service of every topic in one place. Job: say which messages may be lost, which may wait, and why.

A sensor's old sample is worse than none, so cameras and joint states are best effort with depth 1. A command must arrive and the newest
must win. An instruction is volatile: one that was latched before the node came up must not start motion.
"""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy


def _newest(reliability: ReliabilityPolicy, durability: DurabilityPolicy = DurabilityPolicy.VOLATILE, depth: int = 1) -> QoSProfile:
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=depth, reliability=reliability, durability=durability)


SENSOR = _newest(ReliabilityPolicy.BEST_EFFORT)
"""Cameras and joint states: newest only, never resent."""

COMMAND = _newest(ReliabilityPolicy.RELIABLE)
"""Commands, instructions: newest only, resent until it arrives, forgotten by late joiners."""

E_STOP = _newest(ReliabilityPolicy.RELIABLE, depth=16)
"""Emergency stop: reliable like a command, but every message counts; a release at once must not hide the press before it."""

STATUS = _newest(ReliabilityPolicy.RELIABLE, DurabilityPolicy.TRANSIENT_LOCAL, depth=10)
"""Status: every edge arrives, and a late joiner gets the last ones."""

LATCHED = _newest(ReliabilityPolicy.RELIABLE, DurabilityPolicy.TRANSIENT_LOCAL)
"""A value: a late joiner gets the last one."""

EVENTS = _newest(ReliabilityPolicy.RELIABLE, depth=10)
"""Diagnostics, tokens and plans: for people and recorders."""

SENSOR_SOURCE = _newest(ReliabilityPolicy.RELIABLE, depth=5)
"""What the simulator's drivers offer: readers of either reliability connect (rviz asks for reliable)."""
