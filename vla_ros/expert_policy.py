# SPDX-License-Identifier: Apache-2.0
"""The scripted expert in the policy's place: what the loop around a policy allows, with the same tokens, chunks, delays and controller.

``vla evaluate expert`` plays it. What it fails at, no network can be blamed for.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from vla_ros.core.action_tokens import ActionTokenizer
from vla_ros.core.chunk import ActionChunk, Reference
from vla_ros.core.observation import Observation
from vla_ros.core.tabletop import ACTION_SPEC
from vla_ros.robot import Kinematics
from vla_ros.runtime.commitment import committed_prefix, committed_steps
from vla_ros.runtime.waypoints import WaypointMaker
from vla_ros.sim.foresight import continued_chunk

_TERMINATE = ACTION_SPEC.index_of_kind("terminate")


class ExpertPolicy:
    """Answers with the expert's chunk for the environment's present task and state, read from the simulator's ground truth.

    Args:
        env: ``vla_ros.sim.env.TabletopEnv``.
    """

    def __init__(self, env: Any) -> None:
        self._env = env
        self._tokens = ActionTokenizer(ACTION_SPEC, first_token_id=0)
        self._waypoints = WaypointMaker(ACTION_SPEC, env.robot, Kinematics(env.robot))

    def commit(self, observation: Observation, reference: Reference, until_ns: int) -> np.ndarray:
        """As ``Policy.commit``."""
        return committed_prefix(observation, reference, until_ns, self._waypoints, self._tokens)

    def infer(self, observation: Observation, prefix_HD: np.ndarray | None = None) -> ActionChunk:
        """As ``Policy.infer``; raises DecodeError where no step can be reached."""
        committed = 0 if prefix_HD is None else committed_steps(prefix_HD)
        before_PD = np.zeros((0, ACTION_SPEC.num_dims)) if not committed else self._tokens.bins_to_actions(prefix_HD[:committed])
        chunk_HD, plan = continued_chunk(self._env.task, self._env.world_state(), before_PD, ACTION_SPEC.horizon, ACTION_SPEC.dt_s)
        tokens_HD = self._tokens.encode(chunk_HD, clip=True)
        actions_HD = self._tokens.decode(tokens_HD)
        return ActionChunk(
            obs_stamp_ns=observation.stamp_ns,
            generation=observation.generation,
            dt_ns=ACTION_SPEC.dt_ns,
            actions_HD=actions_HD,
            tokens_HD=tokens_HD,
            confidence_HD=np.ones(ACTION_SPEC.shape, dtype=np.float32),
            joint_positions_HJ=self._waypoints.make(actions_HD, observation.joint_positions),
            terminate_H=actions_HD[:, _TERMINATE] > 0.5,
            plan=plan.phase,
            committed=committed,
        )
