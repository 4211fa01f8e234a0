# SPDX-License-Identifier: Apache-2.0
"""Whether a certain node hears a publisher, whoever else does."""

from __future__ import annotations

import contextlib

import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy", reason="pip install '.[ros]'")


@pytest.fixture
def nodes(context):
    """Makes a node of that name."""
    from rclpy.node import Node

    with contextlib.ExitStack() as stack:

        def make(name, namespace="", **more):
            node = Node(name, namespace=namespace, start_parameter_services=False, **more)
            stack.callback(node.destroy_node)
            return node

        yield make


@pytest.fixture
def other_context(context):
    """As another process has it."""
    import rclpy
    from rclpy.context import Context

    other = Context()
    rclpy.init(context=other)
    yield other
    rclpy.try_shutdown(context=other)


def listen(node, durability="VOLATILE"):
    from rclpy.qos import DurabilityPolicy, QoSProfile
    from std_msgs.msg import String

    return node.create_subscription(String, "/instruction", lambda _: None, QoSProfile(depth=1, durability=DurabilityPolicy[durability]))


@pytest.fixture
def person(nodes):
    """A node and its publisher of instructions."""
    from std_msgs.msg import String

    from vla_ros.ros import qos

    node = nodes("person")
    return node, node.create_publisher(String, "/instruction", qos.COMMAND)


def test_another_listener_does_not_count(nodes, person, wait_until):
    from vla_ros.ros.listeners import hears

    listen(nodes("recorder"))
    wait_until(person[1].get_subscription_count, "the recorder is connected", 20.0)
    assert not hears(*person, "/vla_policy")
    listen(nodes("vla_policy"))
    wait_until(lambda: hears(*person, "/vla_policy"), "the policy node is connected", 20.0)


def test_one_that_can_not_be_connected_is_not_waited_for(nodes, person, other_context, wait_until):
    """For its quality of service, or for its type."""
    from std_msgs.msg import Bool

    from vla_ros.ros.listeners import hears, listens

    listen(nodes("late_joiner"), "TRANSIENT_LOCAL")
    stranger = nodes("stranger", context=other_context)  # one participant has one type a topic
    stranger.create_subscription(Bool, "/instruction", lambda _: None, 1)
    wait_until(lambda: len(person[0].get_subscriptions_info_by_topic("/instruction")) == 2, "both are in the graph", 20.0)
    listen(nodes("vla_policy"))
    wait_until(lambda: hears(*person, "/vla_policy"), "the policy node is connected", 20.0)
    assert listens(*person, "/vla_policy")
    assert not any(ask(*person, name) for ask in (hears, listens) for name in ("/late_joiner", "/stranger"))


def test_namespaces_are_told_apart(nodes, person, wait_until):
    from vla_ros.ros.listeners import hears

    listen(nodes("vla_policy", "left"))
    wait_until(lambda: hears(*person, "/left/vla_policy"), "the left one is connected", 20.0)
    assert not hears(*person, "/vla_policy")
    assert not hears(*person, "/right/vla_policy")
