# SPDX-License-Identifier: Apache-2.0
"""When the operator page's node sends an instruction, and when it does not."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy", reason="pip install '.[ros]'")


class Listener:
    """A node that keeps the instructions that it hears."""

    def __init__(self, name):
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.node import Node
        from std_msgs.msg import String

        from vla_ros.ros import qos

        self.heard, self._closing = [], threading.Event()
        self.node = Node(name, start_parameter_services=False)
        self.node.create_subscription(String, "/instruction", lambda message: self.heard.append(message.data), qos.EVENTS)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self):
        while not self._closing.is_set():
            self._executor.spin_once(timeout_sec=0.05)

    def close(self):
        self._closing.set()
        self._thread.join()
        self.node.destroy_node()


@pytest.fixture
def listen(context):
    listeners = []
    yield lambda name: listeners.append(Listener(name)) or listeners[-1]
    for listener in listeners:
        listener.close()


@pytest.fixture
def link(context):
    from vla_ros.ros.console.link import RobotLink

    link = RobotLink()
    yield link
    link.close()


@pytest.fixture
def ask():
    with ThreadPoolExecutor() as pool:
        yield pool.submit


def test_a_recorder_alone_is_no_robot(link, listen, wait_until):
    recorder = listen("recorder")
    wait_until(lambda: link.node.count_subscribers("/instruction") == 2, "the recorder is there", 20.0)
    answer = link.instruct("pick up the red cube")
    assert not answer.ok and "/vla_policy does not listen" in answer.message
    answer = link.instruct("")
    assert not answer.ok and "told to hold, but /vla_policy is not there" in answer.message
    wait_until(lambda: recorder.heard, "a hold is sent in any case", 20.0)
    assert recorder.heard == [""]


def test_an_instruction_waits_for_the_policy_node(link, listen, ask, wait_until):
    answer = ask(link.instruct, "pick up the red cube")
    time.sleep(0.3)
    assert not answer.done()
    policy = listen("vla_policy")
    assert answer.result(10.0).ok
    wait_until(lambda: policy.heard == ["pick up the red cube"], "it arrives", 20.0)


@pytest.mark.parametrize("later", ["stop", "hold"])
def test_what_is_asked_later_is_not_overtaken(link, listen, ask, wait_until, later):
    waiting = ask(link.instruct, "pick up the red cube")
    time.sleep(0.3)
    link.stop() if later == "stop" else link.instruct("")
    policy = listen("vla_policy")
    answer = waiting.result(10.0)
    assert not answer.ok and "something else was asked" in answer.message
    wait_until(lambda: link.instruct("go on").ok, "a new one is sent", 20.0)
    wait_until(lambda: policy.heard, "it arrives", 20.0)
    assert policy.heard[0] == "go on" and "pick up the red cube" not in policy.heard
