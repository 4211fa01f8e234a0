# SPDX-License-Identifier: Apache-2.0
"""The policy as the robot sees it: one observation in, one action chunk out.

Axes: H steps, D action dimensions, N = H*D tokens, B bins, J joints.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from vla_ros.core.chunk import ActionChunk, Reference
from vla_ros.core.errors import ConfigError, DecodeError
from vla_ros.core.manifest import Manifest
from vla_ros.core.observation import Observation
from vla_ros.robot import Kinematics, RobotDescription
from vla_ros.runtime.bundle import Bundle
from vla_ros.runtime.autoregressive import AutoregressivePolicy
from vla_ros.runtime.codec import make_codec
from vla_ros.runtime.commitment import committed_prefix, committed_steps
from vla_ros.runtime.continuous import ContinuousPolicy
from vla_ros.runtime.contract import (
    ACTION_LOGITS,
    ACTIONS,
    FREE_TOKEN,
    LEGAL_PROBABILITY,
    PLAN_TOKENS,
    PREFIX_TOKENS,
    PROPRIO,
    TEXT_IDS,
    image_input,
)
from vla_ros.runtime.history import PictureHistory
from vla_ros.runtime.prompt import PromptEncoder
from vla_ros.runtime.session import OnnxPolicy
from vla_ros.runtime.waypoints import WaypointMaker

_TERMINATE_ABOVE = 0.5
_UNITS = {"tool_x": "m", "tool_y": "m", "tool_z": "m", "tool_yaw": "rad"}


class Backend(Protocol):
    """Runs the policy graph; ``OnnxPolicy``, ``AutoregressivePolicy``, ``ContinuousPolicy`` or a stand-in."""

    def infer(self, inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """Inputs by name to outputs by name, valid until the next call; raises InferenceError."""

    def warm_up(self) -> float:
        """Makes the first real call as fast as the later ones; returns seconds of one run."""


class Policy:
    """Answers observations. One thread only. Where the bundle wants several pictures of a camera, those of earlier observations are kept.

    Args:
        bundle: a verified bundle.
        robot: the robot that the bundle names.
        provider: execution provider.
        threads: threads of one inference on the CPU.
        allow_cpu: run on the CPU if ``provider`` is not available.
        backend: runs the graph; None makes the one that the bundle needs.

    Raises:
        ConfigError: robot and manifest do not fit, or the provider is not available.
        BundleError: the graph or the tokenizer cannot be used.
    """

    def __init__(
        self,
        bundle: Bundle,
        robot: RobotDescription,
        *,
        provider: str = "cpu",
        threads: int = 1,
        allow_cpu: bool = False,
        backend: Backend | None = None,
    ) -> None:
        self.bundle = bundle
        self.manifest = bundle.manifest
        check_robot(bundle.manifest, robot)
        self._robot = robot
        self._kinematics = Kinematics(robot)
        self._waypoints = WaypointMaker(self.manifest.action, robot, self._kinematics)
        self._prompts = None if self.manifest.vocabulary is None else PromptEncoder(self.manifest, bundle.tokenizer_path)
        self._tokens = make_codec(self.manifest)
        self._history = PictureHistory(self.manifest.cameras, self.manifest.frames, self.manifest.action.dt_ns)
        self._terminate = self.manifest.action.index_of_kind("terminate")
        self._free_prefix = np.full((1, self.manifest.action.num_tokens), FREE_TOKEN, dtype=np.int64)
        self.backend = open_backend(bundle, provider, threads, allow_cpu) if backend is None else backend

    def warm_up(self) -> float:
        """Runs the graph a few times; returns seconds of one run. Raises InferenceError."""
        return self.backend.warm_up()

    def check_instruction(self, instruction: str) -> None:
        """Raises InstructionTooLong if the policy cannot read ``instruction``; one that reads no text takes any."""
        if self._prompts is not None:
            self._prompts.encode(instruction)

    def commit(self, observation: Observation, reference: Reference, until_ns: int) -> np.ndarray:
        """The leading steps of the next chunk that are no longer free, as a prefix for ``infer``: see ``committed_prefix``.

        A continuous policy cannot be given any: all are free, and the control loop joins the chunks.
        """
        if self.manifest.output == "continuous":
            return np.full(self.manifest.action.shape, FREE_TOKEN, dtype=np.int64)
        return committed_prefix(observation, reference, until_ns, self._waypoints, self._tokens)

    def infer(self, observation: Observation, prefix_HD: np.ndarray | None = None) -> ActionChunk:
        """Answers an observation.

        Args:
            observation: pictures in the policy's size, joints in the robot's order.
            prefix_HD: vocabulary ids of leading steps that are committed, -1 where the policy is free; None: all free.

        Raises:
            InputError: the observation does not fit; ``InstructionTooLong`` if its text does not.
            DecodeError: the answer is no action (NaN logits, unreachable, a plan outside its slots).
            InferenceError: the back end failed.
        """
        start_ns = time.monotonic_ns()
        observation.validate(self.manifest.cameras, len(self._robot.joint_names))
        prefix = self._check_prefix(prefix_HD)
        outputs = self.backend.infer(self._inputs(observation, prefix))
        actions_HD, tokens_HD, confidence_HD = self._read(outputs, prefix[0])
        return ActionChunk(
            obs_stamp_ns=observation.stamp_ns,
            generation=observation.generation,
            dt_ns=self.manifest.action.dt_ns,
            actions_HD=actions_HD,
            tokens_HD=tokens_HD,
            confidence_HD=confidence_HD,
            joint_positions_HJ=self._waypoints.make(actions_HD, observation.joint_positions),
            terminate_H=self._terminates(actions_HD),
            plan="" if self.manifest.plan is None else self.manifest.plan.describe(outputs[PLAN_TOKENS][0].tolist()),
            inference_ns=time.monotonic_ns() - start_ns,
            committed=committed_steps(prefix[0].reshape(actions_HD.shape)),
        )

    def _inputs(self, observation: Observation, prefix: np.ndarray) -> dict[str, np.ndarray]:
        inputs = {image_input(name): pictures[None] for name, pictures in self._history.add(observation).items()}
        if self._prompts is not None:
            inputs[TEXT_IDS] = self._prompts.encode(observation.instruction)
        if self.manifest.proprio:
            inputs[PROPRIO] = self.proprio(observation.joint_positions)
        if self.manifest.output == "tokens":
            inputs[PREFIX_TOKENS] = prefix
        return inputs

    def proprio(self, joint_positions_J: np.ndarray) -> np.ndarray:
        """Proprioception in the manifest's order, float32 [1, P], m and rad."""
        xyz, _ = self._kinematics.fk(joint_positions_J)
        values = dict(zip(self._robot.joint_names, joint_positions_J))
        values.update(tool_x=xyz[0], tool_y=xyz[1], tool_z=xyz[2], tool_yaw=self._kinematics.tool_yaw(joint_positions_J))
        return np.array([[values[entry.name] for entry in self.manifest.proprio]], dtype=np.float32)

    def _check_prefix(self, prefix_HD: np.ndarray | None) -> np.ndarray:
        if prefix_HD is None:
            return self._free_prefix
        prefix_HD = np.asarray(prefix_HD, dtype=np.int64)
        if prefix_HD.shape != self.manifest.action.shape:
            raise DecodeError(f"prefix must have shape [H, D] = {list(self.manifest.action.shape)}, got {list(prefix_HD.shape)}")
        committed = prefix_HD[prefix_HD != FREE_TOKEN]
        if self.manifest.output == "continuous" and committed.size:
            raise DecodeError("this policy gives continuous actions: no step of its chunk can be committed")
        self._tokens.ids_to_bins(committed)
        return prefix_HD.reshape(1, -1)

    def _read(self, outputs: Mapping[str, np.ndarray], prefix_N: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Actions [H, D], the tokens behind them and how sure they are."""
        if self.manifest.output == "continuous":
            return self._regressed(outputs[ACTIONS][0])
        tokens_HD, confidence_HD = self._choose(outputs[ACTION_LOGITS][0], prefix_N)
        if LEGAL_PROBABILITY in outputs:  # what the network would rather have said in words makes the action less sure
            free_HD = (prefix_N == FREE_TOKEN).reshape(tokens_HD.shape)
            confidence_HD = np.where(free_HD, confidence_HD * outputs[LEGAL_PROBABILITY][0].reshape(tokens_HD.shape), confidence_HD)
        return self._tokens.decode(tokens_HD), tokens_HD, confidence_HD

    def _regressed(self, actions_HD: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Inside the bounds; the tokens only describe them, and a regression says nothing about how sure it is."""
        if not np.isfinite(actions_HD).all():
            raise DecodeError("the policy's actions are not finite")
        actions_HD = self.manifest.action.clip(actions_HD)
        return actions_HD, self._tokens.encode(actions_HD, clip=True), np.ones(actions_HD.shape, dtype=np.float32)

    def _choose(self, logits_NB: np.ndarray, prefix_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Most probable tokens [H, D] and how sure they are; committed ones are taken as they are.

        The confidence is the probability of the chosen bin and its two neighbours: one bin apart is still the same motion.
        """
        if not np.isfinite(logits_NB).all():
            raise DecodeError("the policy's logits are not finite")
        bins_N = np.argmax(logits_NB, axis=1)
        forced_N = prefix_N != FREE_TOKEN
        bins_N[forced_N] = prefix_N[forced_N] - self._tokens.first_token_id
        shape = self.manifest.action.shape
        confidence_N = neighbourhood_probability(logits_NB, bins_N)
        confidence_N[forced_N] = 1.0
        return self._tokens.bins_to_ids(bins_N).reshape(shape), confidence_N.astype(np.float32).reshape(shape)

    def _terminates(self, actions_HD: np.ndarray) -> np.ndarray:
        if self._terminate is None:
            return np.zeros(len(actions_HD), dtype=bool)
        return actions_HD[:, self._terminate] > _TERMINATE_ABOVE


def open_backend(bundle: Bundle, provider: str = "cpu", threads: int = 1, allow_cpu: bool = False) -> Backend:
    """What runs the bundle's graphs: one of tokens, one of continuous actions, or two with a cache; raises as its class does."""
    if bundle.manifest.is_cached:
        return AutoregressivePolicy(bundle, provider, threads, allow_cpu)
    if bundle.manifest.output == "continuous":
        return ContinuousPolicy(bundle, provider, threads, allow_cpu)
    return OnnxPolicy(bundle, provider, threads, allow_cpu)


def neighbourhood_probability(logits_NB: np.ndarray, bins_N: np.ndarray) -> np.ndarray:
    """Softmax probability of each row's bin and its two neighbours, float64 [N], in [0, 1]."""
    weights_NB = np.exp(logits_NB.astype(np.float64) - logits_NB.max(axis=1, keepdims=True))
    total_NB = np.cumsum(np.pad(weights_NB, ((0, 0), (1, 0))), axis=1)
    rows = np.arange(len(bins_N))
    low_N, high_N = np.maximum(bins_N - 1, 0), np.minimum(bins_N + 2, logits_NB.shape[1])
    return np.clip((total_NB[rows, high_N] - total_NB[rows, low_N]) / total_NB[:, -1], 0.0, 1.0)


def check_robot(manifest: Manifest, robot: RobotDescription) -> None:
    """Compares what a bundle was made for with a robot.

    Raises:
        ConfigError: listing both sides.
    """
    if manifest.robot != robot.name:
        raise ConfigError(f"bundle '{manifest.name}' is for robot '{manifest.robot}', the description is of '{robot.name}'")
    for entry in manifest.proprio:
        if entry.source == "joint" and entry.name not in robot.joint_names:
            raise ConfigError(f"manifest's proprio has joint '{entry.name}', the robot has {list(robot.joint_names)}")
        if entry.source == "tool" and entry.unit != _UNITS[entry.name]:
            raise ConfigError(f"manifest's proprio '{entry.name}' is in {entry.unit}, this release gives {_UNITS[entry.name]}")
    gripper_units = [e.unit for e in manifest.proprio if e.name == robot.gripper_joint]
    if gripper_units not in ([], ["m"], ["rad"]) or any(e.unit != "rad" for e in manifest.proprio if e.name in robot.arm_joints):
        raise ConfigError("manifest's proprio must give arm joints in rad and the gripper joint in m or rad")
