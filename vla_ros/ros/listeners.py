# SPDX-License-Identifier: Apache-2.0
"""Whether a certain node hears a publisher. Job: say so before something is sent that must not be lost.

A number of subscriptions does not tell: recorders, bridges and operator pages subscribe to instructions too.
"""

from __future__ import annotations

from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSCompatibility, qos_check_compatible
from rclpy.topic_endpoint_info import TopicEndpointInfo


def listens(node: Node, publisher: Publisher, listener: str) -> bool:
    """Whether the graph has the node ``listener`` among those who can be connected; it may not be yet."""
    return any(_name(other) == listener for other in _able(node, publisher))


def hears(node: Node, publisher: Publisher, listener: str) -> bool:
    """Whether the node ``listener`` subscribes to what ``publisher`` sends and is connected to it.

    The graph has the names of nodes, the publisher the number of its connections; which is whose it does not tell. So this is true once
    everybody who can be connected is.

    Args:
        node: that owns ``publisher``.
        listener: full name of the other node, such as ``/vla_policy``.
    """
    able = _able(node, publisher)
    return any(_name(other) == listener for other in able) and publisher.get_subscription_count() >= len(able)


def _able(node: Node, publisher: Publisher) -> list[TopicEndpointInfo]:
    """Subscriptions of the same type whose quality of service fits; none while the publisher itself is not in the graph."""
    topic = publisher.topic_name
    own = next((e for e in node.get_publishers_info_by_topic(topic) if _name(e) == node.get_fully_qualified_name()), None)
    return [
        other
        for other in ([] if own is None else node.get_subscriptions_info_by_topic(topic))
        if other.topic_type == own.topic_type and qos_check_compatible(own.qos_profile, other.qos_profile)[0] != QoSCompatibility.ERROR
    ]


def _name(endpoint: TopicEndpointInfo) -> str:
    return f"{endpoint.node_namespace.rstrip('/')}/{endpoint.node_name}"
