# SPDX-License-Identifier: Apache-2.0
"""Topics from which a recording can be replayed bit for bit. They cost nothing while nobody subscribes.

``<node>/decision`` (std_msgs/String, JSON) has what each inference saw and answered; its pictures are on ``<node>/decision/<camera>``
(sensor_msgs/Image) and are named in it by their sha256. ``<node>/tape`` (std_msgs/String, one JSON object a line) has the control loop's ticks.
"""

from __future__ import annotations

import json
from collections import deque
from typing import Any

import numpy as np
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import String

from vla_ros.core.chunk import ActionChunk
from vla_ros.core.errors import VlaError
from vla_ros.core.observation import CameraSpec, Observation
from vla_ros.ros.plain import picture_digest, to_plain
from vla_ros.ros.sim_messages import image_message, time_message
from vla_ros.ros.tape import TapedLoop, plain_tick

RELIABLE = QoSProfile(depth=200, reliability=ReliabilityPolicy.RELIABLE)
_KEPT_DECISIONS = 64  # a decision takes a tenth of a second or more, and every turn of the worker's loop sends them


class DecisionPublisher:
    """A policy that can be overheard: same methods, same answers. The worker's thread only.

    ``infer`` only keeps what it saw and said; ``flush`` publishes it, after the answer is on its way to the control loop.
    """

    def __init__(self, node: Node, policy: Any, cameras: tuple[CameraSpec, ...], policy_node: str, facts: dict[str, Any]) -> None:
        """Makes the topics.

        Args:
            node: the worker's.
            policy: ``runtime.policy.Policy``.
            cameras: of the bundle.
            policy_node: fully qualified name of the node as the user sees it.
            facts: what else an answer depends on (bundle's hash, provider, threads); goes with every decision.
        """
        self._node = node
        self._policy = policy
        self._facts = facts
        self._decisions: deque[tuple[Any, ...]] = deque(maxlen=_KEPT_DECISIONS)
        self._sent: dict[str, str] = {}
        self._number = 0
        self._texts = node.create_publisher(String, f"{policy_node}/decision", RELIABLE)
        self._pictures = {c.name: node.create_publisher(Image, f"{policy_node}/decision/{c.name}", RELIABLE) for c in cameras}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)

    def infer(self, observation: Observation, *arguments: Any, **named: Any) -> ActionChunk:
        """As the policy's."""
        number, self._number = self._number, self._number + 1
        if self._texts.get_subscription_count() == 0:
            self._sent.clear()  # who subscribes next has no picture yet
            return self._policy.infer(observation, *arguments, **named)
        try:
            answer: Any = self._policy.infer(observation, *arguments, **named)
        except VlaError as error:
            self._decisions.append((number, observation, arguments, named, f"{type(error).__name__}: {error}"))
            raise
        self._decisions.append((number, observation, arguments, named, answer))
        return answer

    def flush(self) -> None:
        """Publishes what was kept. A decision that cannot be written is left out, and said: it must not cost the robot its policy."""
        while self._decisions:
            kept = self._decisions.popleft()
            try:
                self._publish(*kept)
            except TypeError as error:
                self._node.get_logger().error(f"decision {kept[0]} cannot be recorded: {error}", throttle_duration_sec=10.0)

    def _publish(self, number: int, observation: Observation, arguments: Any, named: Any, answer: Any) -> None:
        digests = {name: self._show(name, image, observation) for name, image in observation.images.items()}
        decision = {
            "decision": number,
            "pictures": digests,
            "observation": to_plain(observation_without_images(observation)),
            "arguments": [to_plain(argument) for argument in arguments],
            "named": to_plain(named),
            "answer": to_plain(answer),
            **self._facts,
        }
        self._texts.publish(String(data=json.dumps(decision, separators=(",", ":"))))

    def _show(self, camera: str, image: np.ndarray, observation: Observation) -> str:
        """Publishes a picture that was not the last one; returns its digest."""
        digest = picture_digest(image)
        if self._sent.get(camera) != digest:
            stamp = time_message(observation.image_stamp_ns.get(camera, observation.stamp_ns))
            self._pictures[camera].publish(image_message(image, stamp, camera))
            self._sent[camera] = digest
        return digest


def observation_without_images(observation: Observation) -> dict[str, Any]:
    """The other fields of an observation, by name."""
    return {name: value for name, value in vars(observation).items() if name != "images"}


class TapePublisher:
    """Publishes a control loop's tape from the executor's thread while somebody listens: call :meth:`publish` a few times a second."""

    def __init__(self, node: Node, loop: TapedLoop) -> None:
        """Makes the topic."""
        self._node = node
        self._loop = loop
        self._said = ""
        self._publisher = node.create_publisher(String, "~/tape", RELIABLE)

    def publish(self) -> None:
        """Publishes the ticks so far."""
        if self._loop.failure and self._loop.failure != self._said:
            self._said = self._loop.failure
            self._node.get_logger().error(f"the control loop's tape has ended, recordings will not replay: {self._said}")
        self._loop.wanted = self._publisher.get_subscription_count() > 0 and not self._loop.failure
        ticks = self._loop.take()
        if not ticks:
            return
        try:
            lines = [json.dumps(plain_tick(tick), separators=(",", ":")) for tick in ticks]
        except TypeError as error:
            self._loop.failure = str(error)
            return
        self._publisher.publish(String(data="\n".join(lines)))

    def close(self) -> None:
        """Publishes the rest and takes the topic away."""
        self.publish()
        self._node.destroy_publisher(self._publisher)
