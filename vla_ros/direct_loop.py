# SPDX-License-Identifier: Apache-2.0
"""Episodes of Meta-World as published policies play them: the simulation waits for the policy, and its actions go straight into the benchmark.

The policy's runtime, its pictures and its tokens are those of the node; what is left out is what a real robot needs between policy and
motors: the delay, the jerk-limited motion and the checks of ``closed_loop``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vla_ros.closed_loop import SUCCESS, TIME_LIMIT, EpisodeResult, EpisodeSpec, PolicyLike, observe
from vla_ros.core.action import ActionSpec
from vla_ros.core.chunk import ActionChunk
from vla_ros.core.embodiment import METAWORLD, METAWORLD_HORIZON_STEPS, METAWORLD_STEP_S
from vla_ros.core.errors import DecodeError
from vla_ros.core.observation import CameraSpec

REJECTED = "the policy's answers were no valid actions three times in a row"
_MAX_REJECTED = 3


class DirectLoop:
    """Runs episodes of one policy. One thread only: the camera owns an OpenGL context.

    Args:
        env: ``vla_ros.sim.metaworld.env.MetaWorldEnv``.
        policy: answers observations.
        cameras: the policy's cameras.
        spec: the policy's action.
        ask_period_ms: so much of a chunk is done before the policy is asked again, whole steps of it.
        limit_steps: benchmark steps after which an episode has failed.
    """

    def __init__(
        self,
        *,
        env: Any,
        policy: PolicyLike,
        cameras: Sequence[CameraSpec],
        spec: ActionSpec = METAWORLD.action,
        ask_period_ms: float = 100.0,
        limit_steps: int = METAWORLD_HORIZON_STEPS,
    ) -> None:
        self._env, self._policy, self._cameras, self._limit_steps = env, policy, tuple(cameras), limit_steps
        self._steps_per_action = round(spec.dt_s / METAWORLD_STEP_S)
        self._actions_per_question = min(max(round(ask_period_ms * 1e-3 / spec.dt_s), 1), spec.horizon)

    def run(self, spec: EpisodeSpec) -> EpisodeResult:
        """Plays one episode from its reset to the benchmark's success flag or its horizon."""
        self._env.reset(spec.seed, split=spec.split, family=spec.family)
        self._steps = self._inferences = self._inference_ns = self._rejected = 0
        reason = self._play()
        return EpisodeResult(
            spec=spec,
            family=self._env.task.family,
            instruction=self._env.instruction,
            success=reason == SUCCESS,
            reason=reason,
            steps=self._steps,
            seconds=round(self._steps * METAWORLD_STEP_S, 3),
            inferences=self._inferences,
            inference_ms=round(self._inference_ns / max(self._inferences, 1) * 1e-6, 2),
            rejected=self._rejected,
        )

    def _play(self) -> str:
        rejected_in_a_row = 0
        while self._steps < self._limit_steps:
            try:
                chunk, hand = self._ask()
                rejected_in_a_row = 0
            except DecodeError:
                self._rejected += 1
                rejected_in_a_row += 1
                if rejected_in_a_row == _MAX_REJECTED:
                    return REJECTED
                continue
            for action_D in chunk.actions_HD[: self._actions_per_question]:
                if self._follow(hand, action_D):
                    return SUCCESS
        return TIME_LIMIT

    def _ask(self) -> tuple[ActionChunk, np.ndarray]:
        observation = observe(self._env, self._cameras, self._env.instruction)
        chunk = self._policy.infer(observation)
        self._inferences += 1
        self._inference_ns += chunk.inference_ns
        return chunk, observation.joint_positions[:3]

    def _follow(self, hand: np.ndarray, action_D: np.ndarray) -> bool:
        """Moves the hand's target evenly to where an action ends; whether the task is done."""
        for part in range(self._steps_per_action):
            start = self._env.hand_target()
            target = start + (hand + action_D[:3] - start) / (self._steps_per_action - part)
            self._env.step(np.array([*target, action_D[3]]))
            self._steps += 1
            if self._env.success():
                return True
            if self._steps >= self._limit_steps:
                return False
        return False
