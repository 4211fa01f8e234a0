# SPDX-License-Identifier: Apache-2.0
"""Looks at the ROS graph for a few seconds and tells what is there, as JSON: the eyes of ``vla doctor``. Judges nothing, changes nothing.

Run as ``python -m vla_ros.ros.graph_probe NODE SECONDS``. The answer is one object on stdout:
``nodes`` (names), ``topics`` (name to types, publishers and subscribers with their quality of service), ``samples`` (topic to what the newest
message says and how often one came), ``parameters``, ``use_sim_time`` and ``lifecycle`` of the policy node, null where it does not answer.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import rclpy
from lifecycle_msgs.srv import GetState
from rcl_interfaces.srv import GetParameters
from rclpy.node import Node
from rclpy.parameter import parameter_value_to_python
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image, JointState

from vla_ros.ros.parameters import parameter_specs
from vla_ros.ros.recorder import split_name
from vla_ros.ros.stamps import stamp_to_ns
from vla_ros.ros.transport import use_fastdds_profile

DISCOVERY_S = 1.5
_SERVICE_S = 2.0
_LISTEN = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)
_SAMPLED = {
    "sensor_msgs/msg/JointState": JointState,
    "sensor_msgs/msg/Image": Image,
    "sensor_msgs/msg/CompressedImage": CompressedImage,
    "rosgraph_msgs/msg/Clock": Clock,
}


def main(argv: list[str] | None = None) -> int:
    """Prints the facts; 0 unless ROS itself cannot start."""
    node_name, seconds = (sys.argv[1:] if argv is None else argv)[:2]
    use_fastdds_profile()
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node(f"vla_doctor_{time.monotonic_ns() % 100_000}", start_parameter_services=False)
    try:
        facts = look(node, node_name, float(seconds))
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    sys.stdout.write(json.dumps(facts, allow_nan=True) + "\n")
    return 0


def look(node: Node, policy_node: str, seconds: float) -> dict[str, Any]:
    """Spins ``node`` for the discovery and then for ``seconds``; returns the facts."""
    _spin(node, DISCOVERY_S)
    policy_node = "/" + policy_node.strip("/")
    names = [f"{namespace.rstrip('/')}/{name}" for name, namespace in node.get_node_names_and_namespaces()]
    there = policy_node in names
    listener = _Listener(node)
    start = time.monotonic()
    listener.subscribe_to_all()
    _spin(node, seconds)
    samples = listener.samples(time.monotonic() - start)
    return {
        "node": policy_node,
        "nodes": sorted(n for n in names if n != node.get_fully_qualified_name()),
        "topics": _topics(node),
        "endpoints": {name: _endpoints(node, name) for name in names if name in (policy_node, f"{policy_node}_worker")},
        "samples": samples,
        "parameters": _parameters(node, policy_node, [spec.name for spec in parameter_specs()]) if there else None,
        "use_sim_time": (_parameters(node, policy_node, ["use_sim_time"]) or {}).get("use_sim_time") if there else None,
        "lifecycle": _lifecycle(node, policy_node) if there else None,
    }


class _Listener:
    """Keeps the newest message of every sampled topic and counts."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._counts: dict[str, int] = {}
        self._newest: dict[str, tuple[Any, int]] = {}

    def subscribe_to_all(self) -> None:
        for topic, types in self._node.get_topic_names_and_types():
            for kind in types:
                if kind in _SAMPLED and self._node.count_publishers(topic):
                    self._counts[topic] = 0
                    self._node.create_subscription(_SAMPLED[kind], topic, lambda message, name=topic: self._take(name, message), _LISTEN)

    def _take(self, topic: str, message: Any) -> None:
        self._counts[topic] += 1
        self._newest[topic] = (message, time.time_ns())

    def samples(self, seconds: float) -> dict[str, Any]:
        clock = self._newest.get("/clock")
        facts = {}
        for topic, count in self._counts.items():
            facts[topic] = {"count": count, "rate_hz": count / seconds}
            if topic in self._newest:
                message, received_ns = self._newest[topic]
                facts[topic] |= _content(message)
                facts[topic] |= _ages(message, received_ns, clock)
        return facts


def _content(message: Any) -> dict[str, Any]:
    if isinstance(message, JointState):
        return {"names": list(message.name), "positions": list(message.position)}
    if isinstance(message, Image):
        return {"encoding": message.encoding, "height": message.height, "width": message.width, "bytes": len(message.data)}
    if isinstance(message, CompressedImage):
        return {"format": message.format, "bytes": len(message.data)}
    return {}


def _ages(message: Any, received_ns: int, clock: tuple[Clock, int] | None) -> dict[str, Any]:
    """Age of a stamp by the system's clock and by the simulation's, s; null without a stamp or a clock."""
    if not hasattr(message, "header"):
        return {}
    stamp_ns = stamp_to_ns(message.header.stamp)
    if stamp_ns == 0:
        return {"stamp_age_s": None, "stamp_age_sim_s": None}
    sim = None if clock is None else (stamp_to_ns(clock[0].clock) - stamp_ns) * 1e-9
    return {"stamp_age_s": (received_ns - stamp_ns) * 1e-9, "stamp_age_sim_s": sim}


def _topics(node: Node) -> dict[str, Any]:
    own = node.get_name()
    found = {}
    for topic, types in node.get_topic_names_and_types():
        ends = {"publishers": node.get_publishers_info_by_topic(topic), "subscribers": node.get_subscriptions_info_by_topic(topic)}
        found[topic] = {"types": types} | {
            side: [_endpoint(info) for info in infos if info.node_name != own] for side, infos in ends.items()
        }
    return found


def _endpoint(info: Any) -> dict[str, str]:
    return {
        "node": f"{info.node_namespace.rstrip('/')}/{info.node_name}",
        "type": info.topic_type,
        "reliability": info.qos_profile.reliability.name,
        "durability": info.qos_profile.durability.name,
    }


def _endpoints(node: Node, name: str) -> dict[str, Any]:
    """Topics that a node publishes and subscribes to, with their types: what remapping made of its names."""
    asks = {"publishes": node.get_publisher_names_and_types_by_node, "subscribes": node.get_subscriber_names_and_types_by_node}
    found: dict[str, Any] = {}
    for key, ask in asks.items():
        try:
            found[key] = {topic: types[0] for topic, types in ask(*split_name(name))}
        except rclpy.node.NodeNameNonExistentError:
            found[key] = {}
    return found


def _parameters(node: Node, policy_node: str, names: list[str]) -> dict[str, Any] | None:
    answer = _call(node, GetParameters, f"{policy_node}/get_parameters", GetParameters.Request(names=names))
    if answer is None or len(answer.values) != len(names):
        return None
    values = {name: parameter_value_to_python(value) for name, value in zip(names, answer.values)}
    return {name: value if isinstance(value, (bool, int, float, str, type(None))) else list(value) for name, value in values.items()}


def _lifecycle(node: Node, policy_node: str) -> str | None:
    answer = _call(node, GetState, f"{policy_node}/get_state", GetState.Request())
    return None if answer is None else answer.current_state.label


def _call(node: Node, kind: Any, name: str, request: Any) -> Any | None:
    client = node.create_client(kind, name)
    try:
        if not client.wait_for_service(_SERVICE_S):
            return None
        future = client.call_async(request)
        rclpy.spin_until_future_complete(node, future, timeout_sec=_SERVICE_S)
        return future.result() if future.done() else None
    finally:
        node.destroy_client(client)


def _spin(node: Node, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        rclpy.spin_once(node, timeout_sec=min(left, 0.1))


if __name__ == "__main__":
    sys.exit(main())
