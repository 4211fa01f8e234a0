# SPDX-License-Identifier: Apache-2.0
"""What the benchmark's scripted expert would do from the present state, as a chunk for the policy.

The expert decides at every step from where things are, and its task goes on through contacts that no formula foretells. So its chunk is
played in a second copy of the physics: first the committed steps, then the expert. The scene itself stays as it is.

Axes: P committed steps, H steps of a chunk, D = 4 action dimensions (x, y, z, gripper), all in m.
"""

from __future__ import annotations

import mujoco
import numpy as np

from vla_ros.core.action import ActionSpec
from vla_ros.core.embodiment import METAWORLD, METAWORLD_STEP_S
from vla_ros.sim.metaworld.benchmark import advance, expert_action, make_expert
from vla_ros.sim.metaworld.env import MetaWorldEnv, action_towards, gripper_position

PHASES = ("approach", "act")
_NEAR_M = 0.06
_WITHOUT_OBJECT = ("reach-v3", "reach-wall-v3")  # a puck lies there, and nothing is done with it


class ScriptedExpert:
    """The benchmark's expert of the environment's present task, one step or one chunk at a time."""

    def __init__(self, env: MetaWorldEnv, spec: ActionSpec = METAWORLD.action) -> None:
        self._env, self._spec = env, spec
        self._steps_per_action = round(spec.dt_s / METAWORLD_STEP_S)
        self._task, self._expert, self._copy = "", None, None

    def action(self) -> np.ndarray:
        """The benchmark's action now, [4] in [-1, 1]."""
        self._prepare()
        return expert_action(self._expert, self._env.privileged)

    def chunk(self, committed_PD: np.ndarray) -> np.ndarray:
        """The chunk that begins with ``committed_PD`` and goes on as the expert would, float64 [H, D].

        Args:
            committed_PD: actions relative to the hand now; may have no rows.
        """
        self._prepare()
        benchmark, spec = self._env.benchmark, self._spec
        hand = benchmark.data.body("hand").xpos.copy()
        kept = benchmark.data, benchmark._prev_obs
        mujoco.mj_copyData(self._copy, benchmark.model, benchmark.data)
        benchmark.data, observation = self._copy, self._env.privileged
        targets, efforts = [], []
        try:
            for number in range(spec.horizon * self._steps_per_action):
                step, part = divmod(number, self._steps_per_action)
                if step < len(committed_PD):
                    action = self._committed_action(hand, committed_PD[step], part)
                else:
                    action = expert_action(self._expert, observation)
                observation = advance(benchmark, action)
                targets.append(self._copy.mocap_pos[0] - hand)
                efforts.append(action[3])
        finally:
            benchmark.data, benchmark._prev_obs = kept
        ends = np.arange(1, spec.horizon + 1) * self._steps_per_action - 1
        chunk_HD = np.column_stack([np.array(targets)[ends], gripper_position(np.array(efforts)[ends])])
        chunk_HD[: len(committed_PD)] = committed_PD
        return chunk_HD

    def continue_chunk(self, committed_PD: np.ndarray) -> tuple[np.ndarray, str]:
        """``chunk`` and the phase's word."""
        return self.chunk(committed_PD), PHASES[self.phase()]

    def phase(self) -> int:
        """Index of the phase: whether the hand is still on its way to the first object, or acts on it."""
        seen = self._env.privileged
        is_near = np.linalg.norm(seen[:3] - seen[4:7]) < _NEAR_M
        return int(is_near or self._env.task.family in _WITHOUT_OBJECT)

    def place(self) -> np.ndarray:
        """Where the expert has to go next: the first object while it approaches, then the goal; [3] m."""
        seen = self._env.privileged
        return seen[36:39] if self.phase() else seen[4:7]

    def _committed_action(self, hand: np.ndarray, action_D: np.ndarray, part: int) -> np.ndarray:
        """One of the steps on the straight way to where a committed action ends."""
        start = self._copy.mocap_pos[0]
        target = start + (hand + action_D[:3] - start) / (self._steps_per_action - part)
        return action_towards(start, np.array([*target, action_D[3]]))

    def _prepare(self) -> None:
        if self._task != self._env.task.family:
            self._task = self._env.task.family
            self._expert = make_expert(self._task)
            self._copy = mujoco.MjData(self._env.benchmark.model)
