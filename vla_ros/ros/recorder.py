# SPDX-License-Identifier: Apache-2.0
"""Subscribes to everything that a decision of ``vla_policy`` depends on and writes it down as it came, serialized."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import parameter_value_to_python
from rclpy.parameter_client import AsyncParameterClient
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions

from vla_ros.core.errors import ConfigError, VlaError
from vla_ros.recording import RecordingWriter
from vla_ros.ros.message_definitions import definition_of
from vla_ros.ros.parameters import PolicyNodeParameters, from_ros, parameter_specs
from vla_ros.ros.transport import use_fastdds_profile

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
SHARED_TOPICS = ("/clock", "/tf", "/tf_static", "/diagnostics", "/rosout")
_IMAGE_DEPTH, _DEPTH = 10, 1000
_SERVICE_TIMEOUT_S = 10.0


@contextmanager
def recorder_node() -> Iterator[tuple[Node, SingleThreadedExecutor]]:
    """A node of its own for the recorder, and an executor to add it to once its parameters are read; signals are left to the caller."""
    use_fastdds_profile()
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node(f"vla_recorder_{time.monotonic_ns() % 100_000}", start_parameter_services=False)
    try:
        yield node, SingleThreadedExecutor()
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


def split_name(name: str) -> tuple[str, str]:
    """Name and namespace of a fully qualified node name."""
    namespace, _, name = f"/{name.strip('/')}".rpartition("/")
    return name, namespace or "/"


class Recorder:
    """Records from one policy node. One thread: the one that spins ``node``.

    Args:
        node: of the recorder itself.
        writer: takes the messages.
        policy_node: fully qualified name, such as ``/vla_policy``.
        sent_images: also the cameras' own topics, in full size; the policy's pictures are always there.
        say: takes one sentence about what cannot be recorded.
    """

    def __init__(self, node: Node, writer: RecordingWriter, policy_node: str, *, sent_images: bool, say: Callable[[str], None]) -> None:
        self._node = node
        self._writer = writer
        self._policy_node = "/" + policy_node.strip("/")
        self._sent_images = sent_images
        self._say = say
        self._subscriptions: dict[str, Any] = {}
        self._refused: set[str] = set()

    @property
    def topics(self) -> list[str]:
        """What is recorded."""
        return sorted(self._subscriptions)

    @property
    def can_replay(self) -> bool:
        """Whether the topics from which decisions are replayed are connected."""
        needed = [f"{self._policy_node}/tape", f"{self._policy_node}/decision"]
        return all(topic in self._subscriptions and self._node.count_publishers(topic) > 0 for topic in needed)

    def look(self) -> None:
        """Subscribes to what has appeared. Call it twice a second: a node that is configured later brings its topics then."""
        for topic, types in self._interesting().items():
            if topic not in self._subscriptions and topic not in self._refused:
                self._subscribe(topic, types)

    def _interesting(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name in (self._policy_node, f"{self._policy_node}_worker"):
            for ask in (self._node.get_publisher_names_and_types_by_node, self._node.get_subscriber_names_and_types_by_node):
                try:
                    found.update(ask(*split_name(name)))
                except rclpy.node.NodeNameNonExistentError:
                    continue
        for topic, types in self._node.get_topic_names_and_types():
            if topic in SHARED_TOPICS or topic.startswith(f"{self._policy_node}/"):
                found[topic] = types
        return {topic: types for topic, types in found.items() if self._is_wanted(topic, types)}

    def _is_wanted(self, topic: str, types: list[str]) -> bool:
        own = topic.startswith(f"{self._policy_node}/")
        return own or self._sent_images or not any(kind in IMAGE_TYPES for kind in types)

    def _subscribe(self, topic: str, types: list[str]) -> None:
        if self._node.count_publishers(topic) == 0:
            return
        if len(types) != 1:
            self._refuse(topic, f"{topic} has several types ({', '.join(types)}): it is not recorded")
            return
        try:
            message_type = load_type(types[0])
            self._writer.open_topic(topic, types[0], definition_of(types[0]))
        except (ConfigError, ImportError, AttributeError) as error:
            self._refuse(topic, f"{topic} is not recorded: {error}")
            return
        depth = _IMAGE_DEPTH if types[0] in IMAGE_TYPES and not topic.startswith(f"{self._policy_node}/") else _DEPTH
        self._subscriptions[topic] = self._node.create_subscription(
            message_type, topic, lambda data: self._writer.write(topic, data, time.time_ns()), self._profile(topic, depth), raw=True
        )

    def _refuse(self, topic: str, sentence: str) -> None:
        self._refused.add(topic)
        self._say(sentence)

    def _profile(self, topic: str, depth: int) -> QoSProfile:
        """The most that every publisher offers."""
        offered = [info.qos_profile for info in self._node.get_publishers_info_by_topic(topic)]
        reliable = all(profile.reliability is ReliabilityPolicy.RELIABLE for profile in offered)
        latched = all(profile.durability is DurabilityPolicy.TRANSIENT_LOCAL for profile in offered)
        return QoSProfile(
            depth=depth,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        )


def load_type(name: str) -> type:
    """The class of a message type such as ``std_msgs/msg/String``. Raises ImportError or AttributeError if it is not installed."""
    package, folder, message = name.split("/")
    module = __import__(f"{package}.{folder}", fromlist=[message])
    return getattr(module, message)


def read_parameters(node: Node, policy_node: str, timeout_s: float = _SERVICE_TIMEOUT_S) -> PolicyNodeParameters:
    """The policy node's parameters, asked for over its services; spins ``node``.

    Raises:
        VlaError: it does not answer.
        ConfigError: it runs another release with other parameters.
    """
    client = AsyncParameterClient(node, policy_node)
    if not client.wait_for_services(timeout_s):
        raise VlaError(
            f"no node {policy_node} answers: start it (vla run, or ros2 launch vla_ros policy.launch.py), or name it with --node; "
            "vla doctor says whether this shell is in the same ROS domain"
        )
    names = [spec.name for spec in parameter_specs()]
    future = client.get_parameters(names)
    rclpy.spin_until_future_complete(node, future, executor=None, timeout_sec=timeout_s)
    if not future.done() or future.result() is None:
        raise VlaError(f"{policy_node} did not tell its parameters within {timeout_s:.0f} s: is it stuck?")
    values = future.result().values
    if len(values) != len(names):
        raise ConfigError(f"{policy_node} has other parameters than this release: use the same release on both sides")
    return from_ros({name: parameter_value_to_python(value) for name, value in zip(names, values)})
