# SPDX-License-Identifier: Apache-2.0
"""A policy and what it is given: noise, since the time of a network does not depend on what it sees."""

from __future__ import annotations

from typing import Any

import numpy as np

from vla_ros.core.errors import DecodeError
from vla_ros.core.observation import Observation
from vla_ros.core.paths import bundle_dir, robot_config_path
from vla_ros.robot import RobotDescription
from vla_ros.runtime.bundle import load_bundle
from vla_ros.runtime.policy import Policy

INSTRUCTION = "put the red cube in the blue bowl"


def load_policy(model: str, provider: str = "cpu", threads: int = 1) -> Policy:
    """The policy of a bundle, warmed up."""
    bundle = load_bundle(bundle_dir(model))
    robot = RobotDescription.load(robot_config_path(bundle.manifest.robot))
    policy = Policy(bundle, robot, provider=provider, threads=threads)
    policy.warm_up()
    return policy


def random_observation(policy: Policy) -> Observation:
    """Pictures of noise, the robot at home."""
    rng = np.random.default_rng(0)
    cameras = policy.manifest.cameras
    robot = RobotDescription.load(robot_config_path(policy.manifest.robot))
    return Observation(
        images={camera.name: rng.integers(0, 256, camera.shape, dtype=np.uint8) for camera in cameras},
        image_stamp_ns={camera.name: 0 for camera in cameras},
        joint_positions=robot.home,
        joint_stamp_ns=0,
        instruction=INSTRUCTION,
    )


class _Recorder:
    """A policy's back end that remembers what it was given."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.inputs: dict[str, np.ndarray] = {}

    def infer(self, inputs: Any) -> Any:
        self.inputs = {name: array.copy() for name, array in inputs.items()}
        return self._backend.infer(inputs)


def graph_inputs(policy: Policy, observation: Observation) -> dict[str, np.ndarray]:
    """What the graph is given for an observation, in the graph's order."""
    backend, recorder = policy.backend, _Recorder(policy.backend)
    policy.backend = recorder
    try:
        answer(policy, observation)
    finally:
        policy.backend = backend
    return recorder.inputs


def answer(policy: Policy, observation: Observation) -> str:
    """Answers once; returns why the answer is no motion, or nothing: to noise a policy may say what no arm can reach."""
    try:
        policy.infer(observation)
    except DecodeError as error:
        return str(error)
    return ""
