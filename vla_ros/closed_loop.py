# SPDX-License-Identifier: Apache-2.0
"""A policy, the control loop and the simulator in one process and in simulated time: one episode at a time.

The same ``ControlLoop``, image preparation and policy runtime as in the node; what is left out is the transport. Inference
takes a fixed simulated time, so that a result depends neither on the machine's speed nor on what else runs on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from vla_ros.core.chunk import ActionChunk, Reference
from vla_ros.core.control import ControlConfig, Watch
from vla_ros.core.embodiment import METAWORLD, embodiment_of_robot
from vla_ros.core.errors import DecodeError, InputError, InstructionTooLong
from vla_ros.core.image import prepare_image
from vla_ros.core.observation import CameraSpec, Observation
from vla_ros.core.safety import StatusCode
from vla_ros.core.states import ControlState
from vla_ros.core.takeover import Takeover
from vla_ros.core.text import normalize_instruction
from vla_ros.smoothness import Smoothness

DEFAULT_DELAY_MS = 120.0
DEFAULT_ASK_PERIOD_MS = 200.0  # as the node asks by default (inference.max_rate_hz)
EPISODE_LIMIT_S = 25.0
SETTLE_AFTER_DONE_S = 2.0  # success may need half a second of rest after the policy says that it is done

EXPERT = "expert"  # in a bundle's place: the scripted expert

MUJOCO, GAZEBO = SIMULATORS = ("mujoco", "gazebo")

SUCCESS = "success"
TIME_LIMIT = "time limit"
POLICY_DONE = "the policy says done and it is not"


class PolicyLike(Protocol):
    """The part of ``runtime.policy.Policy`` that an episode needs."""

    def commit(self, observation: Observation, reference: Reference, until_ns: int) -> np.ndarray:
        """Which leading steps of the next chunk repeat the motion that goes on."""

    def infer(self, observation: Observation, prefix_HD: np.ndarray | None = None) -> ActionChunk:
        """Answers one observation with a chunk; raises DecodeError or InputError."""


@dataclass(frozen=True, kw_only=True)
class EpisodeSpec:
    """Which scene and task.

    Attributes:
        seed: of the scene and of the task drawn in it.
        family: task family, None draws one.
        split: ``seen`` or ``unseen`` combinations and phrasings, or only ``combinations`` or ``phrasings`` unseen.
        variation: of the scene, as in ``sim.variations``; ``none``: as in demonstrations.
        other_task: the same scene with another instruction: the second half of a pair.
    """

    seed: int
    family: str | None = None
    split: str = "seen"
    other_task: bool = False
    variation: str = "none"


@dataclass(frozen=True, kw_only=True)
class EpisodeResult:
    """What became of one episode.

    Attributes:
        spec: the scene and task.
        family: the task's family.
        instruction: what the robot was told.
        success: the simulator's own check.
        reason: ``success``, or why the episode ended without it.
        steps: control periods until the end.
        seconds: simulated time until the end.
        inferences: answers of the policy.
        inference_ms: mean wall time of an answer, 0 without any.
        rejected: answers that were no valid motion.
        boundary_jerk: root mean square over the periods just after a takeover of the largest joint jerk, relative to its limit; 0 without one.
        inside_jerk: the same over the other periods in which a chunk is followed.
    """

    spec: EpisodeSpec
    family: str
    instruction: str
    success: bool
    reason: str
    steps: int
    seconds: float
    inferences: int
    inference_ms: float
    rejected: int
    boundary_jerk: float = 0.0
    inside_jerk: float = 0.0


class ClosedLoop:
    """Runs episodes of one policy in one environment. One thread only: the cameras own an OpenGL context.

    Args:
        env: a simulator with the interface of ``vla_ros.sim.env.TabletopEnv``.
        policy: answers observations.
        cameras: the policy's cameras; the environment must have one of each name.
        delay_ms: simulated time from an observation to its chunk.
        limit_s: simulated time after which an episode has failed.
        ask_period_ms: shortest simulated time between two questions to the policy; 0: the next one as soon as the last is answered.
        takeover: how a new chunk takes over, a value of ``core.takeover.Takeover``.
    """

    def __init__(
        self,
        *,
        env: Any,
        policy: PolicyLike,
        cameras: Sequence[CameraSpec],
        delay_ms: float = DEFAULT_DELAY_MS,
        limit_s: float = EPISODE_LIMIT_S,
        ask_period_ms: float = 0.0,
        takeover: str = Takeover.PREFIX.value,
    ) -> None:
        self._env = env
        self._policy = policy
        self._cameras = tuple(cameras)
        self._delay_ns = round(delay_ms * 1e6)
        self._limit_ns = round(limit_s * 1e9)
        self._ask_period_ns = round(ask_period_ms * 1e6)
        self._takeover = Takeover(takeover)

    def run(self, spec: EpisodeSpec) -> EpisodeResult:
        """Plays one episode from its reset to success, failure or the time limit."""
        variation = {} if spec.variation == "none" else {"variation": spec.variation}  # which the tabletop in MuJoCo alone has
        self._env.reset(spec.seed, split=spec.split, family=spec.family, **variation)
        if spec.other_task:
            choose_other_task(self._env, spec)
        episode = _Episode(self._env, self._policy, self._cameras, self._delay_ns, self._ask_period_ns, self._takeover)
        reason = episode.play(self._limit_ns)
        return EpisodeResult(
            spec=spec,
            family=self._env.task.family,
            instruction=self._env.instruction,
            success=reason == SUCCESS,
            reason=reason,
            steps=episode.steps,
            seconds=round(episode.elapsed_ns * 1e-9, 3),
            inferences=episode.inferences,
            inference_ms=round(episode.inference_ns / max(episode.inferences, 1) * 1e-6, 2),
            rejected=episode.rejected,
            boundary_jerk=episode.boundary_jerk,
            inside_jerk=episode.inside_jerk,
        )


def choose_other_task(env: Any, spec: EpisodeSpec) -> None:
    """Gives ``env`` another task in the scene that it shows: of the same family where there is one, so that only the words differ."""
    from vla_ros.sim.tasks import sample_task

    first, rng = env.task, np.random.default_rng([spec.seed, 1])
    others = [task for task in env.feasible_tasks() if task != first]
    drawn = sample_task(rng, others, spec.split, first.family) or sample_task(rng, others, spec.split) or sample_task(rng, others)
    if drawn is None:
        raise InputError(f"the scene of seed {spec.seed} allows one task only", code="no_pair")
    env.set_task(*drawn)


class _Episode:
    """The state of one episode: the loop, and the answer that is on its way."""

    def __init__(self, env: Any, policy: PolicyLike, cameras: Sequence[CameraSpec], delay_ns: int, ask_period_ns: int, takeover: Takeover) -> None:
        self._env, self._policy, self._cameras, self._delay_ns, self._ask_period_ns = env, policy, cameras, delay_ns, ask_period_ns
        config = ControlConfig(period_ns=round(embodiment_of_robot(env.robot.name).control_period_s * 1e9), takeover=takeover)
        from vla_ros.robot import new_control_loop

        self._loop, self._smoothness = new_control_loop(env.robot, config), Smoothness(env.robot.limits.jerk, config.period_s)
        self._next_ask_ns = env.time_ns
        self._pending: tuple[int, ActionChunk | None, int] | None = None  # when it arrives, the answer, its generation
        self._start_ns = env.time_ns
        self._done_ns: int | None = None
        self.steps = self.inferences = self.inference_ns = self.rejected = 0

    @property
    def elapsed_ns(self) -> int:
        """Simulated time since the instruction."""
        return self._env.time_ns - self._start_ns

    @property
    def boundary_jerk(self) -> float:
        """As in ``EpisodeResult``."""
        return round(self._smoothness.rms(boundary=True), 4)

    @property
    def inside_jerk(self) -> float:
        """As in ``EpisodeResult``."""
        return round(self._smoothness.rms(boundary=False), 4)

    def play(self, limit_ns: int) -> str:
        """Steps until the episode is decided; returns why it ended."""
        joints = self._env.observe(cameras=False)
        self._loop.put_joints(joints.stamp_ns, joints.joint_positions_J)
        self._loop.activate(0)
        self._loop.set_instruction(self._env.instruction)
        while self.elapsed_ns < limit_ns:
            reason = self._period()
            if reason is not None:
                return reason
        return TIME_LIMIT

    def _period(self) -> str | None:
        now_ns = self._env.time_ns
        joints = self._env.observe(cameras=False)
        try:
            self._loop.put_joints(joints.stamp_ns, joints.joint_positions_J)
        except InputError:  # dropped and counted by the loop, as in the node; repeated jumps latch it
            pass
        self._deliver(now_ns)
        if self._pending is None and self._loop.wants_inference and now_ns >= self._next_ask_ns:
            self._ask(now_ns)
            self._next_ask_ns = now_ns + self._ask_period_ns
            self._deliver(now_ns)  # without a delay the robot waits for the answer
        output = self._loop.step(now_ns, Watch())
        self._smoothness.add(output.accelerations_J, self._loop.chunk)
        self._env.step(output.positions_J)
        self.steps += 1
        return self._verdict(output.state, output.code, output.task_done)

    def _verdict(self, state: ControlState, code: StatusCode, task_done: bool) -> str | None:
        if self._env.success():
            return SUCCESS
        if state in (ControlState.LATCHED, ControlState.FAULT) or (state is ControlState.IDLE and not task_done):
            return code.sentence
        if not task_done:
            return None
        self._done_ns = self._env.time_ns if self._done_ns is None else self._done_ns
        return POLICY_DONE if self._env.time_ns - self._done_ns >= SETTLE_AFTER_DONE_S * 1e9 else None

    def _ask(self, now_ns: int) -> None:
        """Starts an inference; its answer is computed at once and arrives after the delay."""
        generation, chunk = self._loop.generation, None
        try:
            observation = observe(self._env, self._cameras, self._loop.instruction, generation)
            reference = self._loop.reference
            prefix_HD = None if reference is None else self._policy.commit(observation, reference, now_ns + self._delay_ns)
            chunk = self._policy.infer(observation, prefix_HD)
            self.inferences += 1
            self.inference_ns += chunk.inference_ns
        except DecodeError:
            self.rejected += 1
        except InstructionTooLong:
            self._loop.refuse_instruction(generation, StatusCode.INSTRUCTION_TOO_LONG)
            return
        self._pending = (now_ns + self._delay_ns, chunk, generation)

    def _deliver(self, now_ns: int) -> None:
        """Hands the loop the answer that is due."""
        if self._pending is None or now_ns < self._pending[0]:
            return
        (_, chunk, generation), self._pending = self._pending, None
        if chunk is None:
            self._loop.reject_chunk(generation)
            return
        try:
            self._loop.put_chunk(chunk, now_ns)
        except DecodeError:  # the loop has counted it
            self.rejected += 1


def observe(env: Any, cameras: Sequence[CameraSpec], instruction: str, generation: int = 0) -> Observation:
    """The policy's observation of the environment's present state."""
    seen = env.observe(cameras=bool(cameras))
    images = {camera.name: prepare_image(seen.images[camera.name], camera.height, camera.width) for camera in cameras}
    return Observation(
        images=images,
        image_stamp_ns={camera.name: seen.stamp_ns for camera in cameras},
        joint_positions=seen.joint_positions_J,
        joint_stamp_ns=seen.stamp_ns,
        instruction=normalize_instruction(instruction),
        generation=generation,
    )


def load_closed_loop(bundle: str, *, provider: str = "cpu", threads: int = 1, simulator: str = MUJOCO, settings: Mapping[str, Any] | None = None, make_loop: Any = None) -> Any:
    """A closed loop of a policy bundle in a simulator, warmed up.

    Args:
        bundle: folder or name of the policy bundle, or ``expert``.
        provider: execution provider.
        threads: of one inference on the CPU.
        simulator: one of ``SIMULATORS``, or ``metaworld:<task>``.
        settings: further arguments of ``make_loop``.
        make_loop: ``ClosedLoop`` (None), or another class with its arguments ``env``, ``policy`` and ``cameras``.
    """
    make_loop = make_loop or ClosedLoop
    from vla_ros.core.paths import bundle_dir
    from vla_ros.expert_policy import ExpertPolicy
    from vla_ros.runtime.bundle import load_bundle
    from vla_ros.runtime.policy import Policy

    env = make_env(simulator)
    if bundle == EXPERT:
        return make_loop(env=env, policy=ExpertPolicy(env, embodiment_of_robot(env.robot.name)), cameras=(), **(settings or {}))
    loaded = load_bundle(bundle_dir(bundle))
    policy = Policy(loaded, env.robot, provider=provider, threads=threads)
    policy.warm_up()
    return make_loop(env=env, policy=policy, cameras=loaded.manifest.cameras, **(settings or {}))


def make_env(simulator: str) -> Any:
    """The tabletop in MuJoCo, or in Gazebo Classic 11; or a task of Meta-World."""
    if simulator.startswith(f"{METAWORLD.name}:"):
        from vla_ros.sim.metaworld.env import MetaWorldEnv
        from vla_ros.sim.metaworld.tasks import tasks_of

        return MetaWorldEnv(tasks_of(simulator)[0])
    if simulator == GAZEBO:
        from vla_ros.sim.gazebo.env import GazeboTabletop

        return GazeboTabletop()
    from vla_ros.sim.env import TabletopEnv

    return TabletopEnv()
