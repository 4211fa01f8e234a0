# SPDX-License-Identifier: Apache-2.0
"""Which steps of the next chunk are no longer free: the motion that goes on until it arrives (real-time chunking, arXiv 2506.07339)."""

from __future__ import annotations

import numpy as np

from vla_ros.core.action_tokens import ActionTokenizer
from vla_ros.core.chunk import Reference
from vla_ros.core.observation import Observation
from vla_ros.runtime.contract import FREE_TOKEN
from vla_ros.runtime.waypoints import WaypointMaker

LEAST_FREE_STEPS = 2


def committed_prefix(
    observation: Observation, reference: Reference, until_ns: int, waypoints: WaypointMaker, tokens: ActionTokenizer
) -> np.ndarray:
    """The leading steps that repeat ``reference``: those that are over when the answer arrives, and the one under way then.

    However late it is, ``LEAST_FREE_STEPS`` steps stay free (or all of a shorter chunk).

    Args:
        observation: that will be answered.
        reference: the motion that goes on meanwhile.
        until_ns: when the answer is expected, ROS clock.
        waypoints: of the policy's action.
        tokens: of the policy's action.

    Returns:
        int64 [H, D], vocabulary ids, ``FREE_TOKEN`` where the policy is free.
    """
    spec = tokens.spec
    prefix_HD = np.full(spec.shape, FREE_TOKEN, dtype=np.int64)
    elapsed = (until_ns - observation.stamp_ns) // spec.dt_ns
    steps = min(max(elapsed + 1, 0), max(spec.horizon - LEAST_FREE_STEPS, 0))
    if steps:
        due_PJ = np.array([reference.sample(observation.stamp_ns + (step + 1) * spec.dt_ns)[0] for step in range(steps)])
        actions_PD = spec.clip(waypoints.actions(due_PJ, observation.joint_positions))
        prefix_HD[:steps] = tokens.bins_to_ids(tokens.actions_to_bins(actions_PD))
    return prefix_HD


def committed_steps(prefix_HD: np.ndarray) -> int:
    """How many leading steps are committed as a whole."""
    return int(np.logical_and.accumulate((prefix_HD != FREE_TOKEN).all(axis=1)).sum())
