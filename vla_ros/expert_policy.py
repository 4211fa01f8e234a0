# SPDX-License-Identifier: Apache-2.0
"""The scripted expert in the policy's place: what the loop around a policy allows, with the same tokens, chunks, delays and controller.

``vla evaluate expert`` plays it. What it fails at, no network can be blamed for.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from vla_ros.core.action_tokens import ActionTokenizer
from vla_ros.core.chunk import ActionChunk, Reference
from vla_ros.core.embodiment import TABLETOP, Embodiment
from vla_ros.core.observation import Observation
from vla_ros.robot import Kinematics
from vla_ros.runtime.commitment import committed_prefix, committed_steps
from vla_ros.runtime.waypoints import WaypointMaker
from vla_ros.sim.experts import make_expert


class ExpertPolicy:
    """Answers with the expert's chunk for the environment's present task and state, read from the simulator's ground truth.

    Args:
        env: a simulator with the tabletop's interface.
        embodiment: its body.
        first_token_id: of the action tokens, where another policy's chunks stand beside the expert's.
    """

    def __init__(self, env: Any, embodiment: Embodiment = TABLETOP, first_token_id: int = 0) -> None:
        self._spec = embodiment.action
        self._continue_chunk = make_expert(env, embodiment)
        self._terminate = self._spec.index_of_kind("terminate")
        self._tokens = ActionTokenizer(self._spec, first_token_id=first_token_id)
        self._waypoints = WaypointMaker(self._spec, env.robot, Kinematics(env.robot))

    def commit(self, observation: Observation, reference: Reference, until_ns: int) -> np.ndarray:
        """As ``Policy.commit``."""
        return committed_prefix(observation, reference, until_ns, self._waypoints, self._tokens)

    def infer(self, observation: Observation, prefix_HD: np.ndarray | None = None) -> ActionChunk:
        """As ``Policy.infer``; raises DecodeError where no step can be reached."""
        committed = 0 if prefix_HD is None else committed_steps(prefix_HD)
        before_PD = np.zeros((0, self._spec.num_dims)) if not committed else self._tokens.bins_to_actions(prefix_HD[:committed] - self._tokens.first_token_id)
        chunk_HD, phase = self._continue_chunk(before_PD)
        tokens_HD = self._tokens.encode(chunk_HD, clip=True)
        actions_HD = self._tokens.decode(tokens_HD)
        return ActionChunk(
            obs_stamp_ns=observation.stamp_ns,
            generation=observation.generation,
            dt_ns=self._spec.dt_ns,
            actions_HD=actions_HD,
            tokens_HD=tokens_HD,
            confidence_HD=np.ones(self._spec.shape, dtype=np.float32),
            joint_positions_HJ=self._waypoints.make(actions_HD, observation.joint_positions),
            terminate_H=np.zeros(len(actions_HD), dtype=bool) if self._terminate is None else actions_HD[:, self._terminate] > 0.5,
            plan=phase,
            committed=committed,
        )
