# SPDX-License-Identifier: Apache-2.0
"""The operator page's node on the ROS graph: hears what a person wants to see, and does what a person asks for.

It uses the policy node's public interface and nothing else. A stop is published from the thread that asks for it and waits for no executor.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.clock import Clock, ClockType
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node, NodeNameNonExistentError
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Bool, Float64MultiArray, String
from std_srvs.srv import Trigger

from vla_ros.core.errors import InputError
from vla_ros.ros import qos
from vla_ros.ros.compressed_images import compressed_to_rgb
from vla_ros.ros.console.e_stop import EStopLedger
from vla_ros.ros.console.pictures import PictureStore, Shown, age_by_stamp_s
from vla_ros.ros.console.seen import Seen
from vla_ros.ros.images import image_to_rgb
from vla_ros.ros.listeners import hears, listens
from vla_ros.ros.polled import PolledSubscription
from vla_ros.ros.stamps import stamp_to_ns
from vla_ros.ros.transport import use_fastdds_profile

POLICY = "vla_policy"
MAX_INSTRUCTION = 500
_LOOK_S = 0.5
_PICTURE_PERIOD_S = 1.0 / 15.0
_SERVICE_S = 2.0
_DISCOVERY_S = 2.0  # how long an instruction waits for the policy node
_RELEASE_S = 0.5  # how long a release may take to reach the control thread before a refused resume counts
_IMAGES = {"sensor_msgs/msg/Image": (Image, image_to_rgb), "sensor_msgs/msg/CompressedImage": (CompressedImage, compressed_to_rgb)}


@dataclass(frozen=True)
class Answer:
    """What came of a request, in one sentence."""

    ok: bool
    message: str


class RobotLink:
    """What the page asks of a robot. Any thread may call; callbacks run in a thread of its own. Call :meth:`close` at the end."""

    def __init__(self, namespace: str = "", ros_arguments: list[str] | None = None) -> None:
        """Joins the ROS graph.

        Args:
            namespace: of the policy node.
            ros_arguments: from ``--ros-args`` on.
        """
        use_fastdds_profile()
        self._context = Context()
        rclpy.init(args=ros_arguments or [], context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        name = f"vla_console_{os.getpid()}"
        self.node = Node(name, namespace=namespace, context=self._context, start_parameter_services=False)
        self.policy_node = self.node.resolve_topic_name(POLICY)
        self.seen = Seen(self.policy_node)
        self._pictures = PictureStore()
        self._ledger = EStopLedger()
        self._cameras: dict[str, tuple[PolledSubscription, Any]] = {}
        self._e_stop_listeners = 0
        self._closing = threading.Event()
        self._newest = 0  # number of what was asked for last
        self._numbers = threading.Lock()  # held for an increment and no longer
        self._make_interface()
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._threads = [threading.Thread(target=run, name=name, daemon=True) for name, run in self._work().items()]
        for thread in self._threads:
            thread.start()

    def _work(self) -> dict[str, Any]:
        return {"vla_console_ros": self._spin, "vla_console_pictures": self._take_pictures}

    def _make_interface(self) -> None:
        node, subscribe = self.node, self.node.create_subscription
        self._instruction = node.create_publisher(String, "instruction", qos.COMMAND)
        self._e_stop = node.create_publisher(Bool, "e_stop", qos.E_STOP)
        self._stop, self._resume = (node.create_client(Trigger, f"{POLICY}/{name}") for name in ("stop", "resume"))
        subscribe(DiagnosticStatus, f"{POLICY}/status", self.seen.put_status, qos.STATUS)
        subscribe(String, f"{POLICY}/plan", self.seen.put_plan, qos.EVENTS)
        subscribe(Float64MultiArray, f"{POLICY}/action", self.seen.put_action, qos.COMMAND)
        subscribe(String, f"{POLICY}/decision", self.seen.put_decision, qos.EVENTS)
        subscribe(DiagnosticArray, "/diagnostics", self.seen.put_diagnostics, qos.EVENTS)
        subscribe(String, "instruction", self.seen.put_instruction, qos.EVENTS)
        subscribe(Bool, "e_stop", lambda message: self._ledger.heard(message.data), qos.E_STOP)
        node.create_timer(_LOOK_S, self._look, clock=Clock(clock_type=ClockType.STEADY_TIME))

    # ---- what a person asks for ----

    def instruct(self, text: str) -> Answer:
        """Publishes an instruction; blank means: hold."""
        text = text.strip()
        if len(text) > MAX_INSTRUCTION or not text.isprintable():
            return Answer(False, f"an instruction is one line of at most {MAX_INSTRUCTION} characters")
        number = self._next_number()
        if not text:
            self._instruction.publish(String(data=""))
            heard = hears(self.node, self._instruction, self.policy_node)
            return Answer(heard, "told to hold" if heard else f"told to hold, but {self.policy_node} is not there to hear it")
        heard = self._wait_until_heard(number)
        if self._newest != number:
            return Answer(False, "not sent: something else was asked meanwhile")
        if not heard:
            return Answer(False, f"{self.policy_node} does not listen: is it running and configured?")
        self._instruction.publish(String(data=text))
        return Answer(True, "sent")

    def stop(self) -> Answer:
        """Calls ``~/stop`` and presses the emergency stop; waits for neither. The control thread takes the press within one period.

        The call goes first: only the policy node reads it. Any number of programs may listen to ``e_stop``, and one of them that hangs can
        hold up a reliable publisher for a second.
        """
        self._next_number()  # an instruction that still waits must not come after this
        if self.seen.code == "E_STOP":
            self._ledger.found_pressed()
        serves = self._stop.service_is_ready()
        if serves:
            self._stop.call_async(Trigger.Request())
        self._press(True)
        heard = serves or hears(self.node, self._e_stop, self.policy_node)
        return Answer(heard, "stop sent" if heard else f"stop sent, but {self.policy_node} is not there to hear it")

    def resume(self) -> Answer:
        """Releases what this page has pressed and calls ``~/resume``; returns what the node says."""
        try:
            release = self._ledger.may_release(self.node.count_publishers("e_stop") - 1)
        except InputError as error:
            return Answer(False, str(error))
        if release:
            self._press(False)
        deadline = time.monotonic() + (_RELEASE_S if release else 0.0)
        while not (answer := self._call(self._resume, "resume")).ok and time.monotonic() < deadline:
            time.sleep(0.05)
        return answer

    def _next_number(self) -> int:
        with self._numbers:
            self._newest += 1
            return self._newest

    def _wait_until_heard(self, number: int) -> bool:
        """Whether the policy node hears instructions: what is sent while the two are still finding each other would be lost.

        Ends early where something else was asked. A stranger who never connects must not keep every instruction back, so that in the end it
        is enough if the node listens and somebody else than this page is connected.
        """
        deadline = time.monotonic() + _DISCOVERY_S
        while self._newest == number and time.monotonic() < deadline and not self._closing.is_set():
            if hears(self.node, self._instruction, self.policy_node):
                return True
            self._closing.wait(0.02)
        if self._closing.is_set():
            return False
        return listens(self.node, self._instruction, self.policy_node) and self._instruction.get_subscription_count() > 1

    def _press(self, pressed: bool) -> None:
        self._ledger.sends(pressed)
        self._e_stop.publish(Bool(data=pressed))

    def _call(self, client: Any, name: str) -> Answer:
        if not client.service_is_ready():
            return Answer(False, f"{self.policy_node}/{name} is not there: is the node running?")
        done = threading.Event()
        future = client.call_async(Trigger.Request())
        future.add_done_callback(lambda _: done.set())
        if not done.wait(_SERVICE_S):
            client.remove_pending_request(future)
            return Answer(False, f"{self.policy_node}/{name} did not answer within {_SERVICE_S:g} s")
        result = future.result()
        return Answer(result.success, result.message)

    # ---- what a person looks at ----

    def state(self) -> dict[str, Any]:
        """Everything but pictures, ready for JSON."""
        return {
            **self.seen.to_dict(),
            "cameras": self._pictures.to_dict(),
            "e_stop": {"here": self._ledger.pressed_here, "elsewhere": bool(self._ledger.pressed_elsewhere)},
        }

    def pictures(self, after: Mapping[str, int], timeout_s: float) -> dict[str, Shown]:
        """Pictures that are newer than those of the numbers given; waits for one up to ``timeout_s``."""
        return self._pictures.newer(after, timeout_s)

    # ---- threads ----

    def _spin(self) -> None:
        while not self._closing.is_set():
            try:
                self._executor.spin_once(timeout_sec=0.5)
            except Exception as error:  # one message that cannot be read must not end the page
                if not self._closing.is_set():
                    self.node.get_logger().error(f"{type(error).__name__}: {error}", throttle_duration_sec=5.0)

    def _take_pictures(self) -> None:
        while not self._closing.wait(_PICTURE_PERIOD_S):
            if self._pictures.is_wanted():
                for name, (topic, convert) in list(self._cameras.items()):
                    self._take_picture(name, topic, convert)

    def _take_picture(self, name: str, topic: PolledSubscription, convert: Any) -> None:
        try:
            message = topic.take()
            if message is None:
                return
            by_stamp_s = age_by_stamp_s(stamp_to_ns(message.header.stamp), time.time_ns())
            self._pictures.put(name, convert(message), max(topic.waited_ns * 1e-9, by_stamp_s))
        except InputError as error:
            self._pictures.fail(name, str(error))

    def _look(self) -> None:
        """Finds the cameras that the policy looks through; repeats a press for a node that has come up since."""
        listeners, before = self._e_stop.get_subscription_count(), self._e_stop_listeners
        self._e_stop_listeners = listeners
        if self._ledger.pressed_here and listeners > before:
            self._press(True)
        own, namespace = POLICY + "_worker", self.policy_node.rpartition("/")[0] or "/"
        try:
            topics = self.node.get_subscriber_names_and_types_by_node(own, namespace)
        except NodeNameNonExistentError:  # not configured yet, or gone; what is known stays
            return
        for topic, types in topics:
            if types[0] in _IMAGES and (name := self._camera_name(topic)) not in self._cameras:
                message_type, convert = _IMAGES[types[0]]
                self._pictures.add(name)
                self._cameras[name] = (PolledSubscription(self.node, message_type, topic, qos.SENSOR), convert)

    def _camera_name(self, topic: str) -> str:
        """``front`` for ``/front/image_raw`` and ``/front/image_raw/compressed``, below the node's namespace."""
        namespace = self.policy_node.rpartition("/")[0]
        return topic.removeprefix(namespace).removesuffix("/compressed").removesuffix("/image_raw").strip("/")

    def close(self) -> None:
        """Leaves the graph. What was pressed stays pressed."""
        self._closing.set()
        self._executor.wake()
        for thread in self._threads:
            thread.join(2.0)
        self._executor.shutdown(timeout_sec=1.0)
        self.node.destroy_node()
        rclpy.try_shutdown(context=self._context)
