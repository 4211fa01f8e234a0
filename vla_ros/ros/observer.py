# SPDX-License-Identifier: Apache-2.0
"""A person's place beside the robot, as a node: gives instructions and watches what comes of them. For the demo and the evaluation.

Everything goes over the node's public interface; nothing is known here that ``ros2 topic echo`` would not show.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import SetParameters
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from vla_ros.core.errors import VlaError
from vla_ros.ros import qos
from vla_ros.ros.images import image_to_rgb
from vla_ros.ros.listeners import hears
from vla_ros.ros.stamps import stamp_to_ns
from vla_ros.ros.transport import use_fastdds_profile

POLICY, SIM = "vla_policy", "vla_sim"
_EVERY_COMMAND = QoSProfile(depth=200, reliability=ReliabilityPolicy.RELIABLE)
_SERVICE_TIMEOUT_S = 15.0


class NoAnswer(VlaError):
    """A node did not do what it was asked in time."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One moment: pictures by camera, uint8 [H, W, 3], with the words of that moment; ``time_s`` is monotonic."""

    time_s: float
    images: dict[str, np.ndarray]
    plan: str
    sentence: str
    success: bool


@dataclass
class Seen:
    """What was seen since the last instruction.

    Attributes:
        code: the policy node's status code, such as ``ACTING``.
        state: its control state; ``latched`` and ``fault`` need a person.
        sentence: that code's sentence.
        task_done: the policy says that the task is done.
        plan: the policy's words.
        success: the simulator's check.
        command_times_ns: of all commands: the header stamp, or the time of receipt (monotonic) where the stamp is 0, which means "now".
        inference_ms: latency of the policy's newest answer at each diagnostics message.
        pictures: one entry for each picture of the first camera.
    """

    code: str = ""
    state: str = ""
    sentence: str = ""
    task_done: bool = False
    plan: str = ""
    success: bool = False
    command_times_ns: list[int] = field(default_factory=list)
    inference_ms: list[float] = field(default_factory=list)
    pictures: deque[Picture] = field(default_factory=lambda: deque(maxlen=2000))


class Observer:
    """Subscribes to all that a person would look at. One thread: it is spun by :meth:`spin_until`.

    Args:
        cameras: in the order in which they are shown; the first one's pictures set the pace.
        keep_pictures: whether to record them.
        on_change: called after every status, plan or success that differs.
    """

    def __init__(self, cameras: tuple[str, ...], *, keep_pictures: bool, on_change: Callable[[Seen], None] = lambda _: None) -> None:
        use_fastdds_profile()
        self._context = Context()
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self.node = Node("vla_observer", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._cameras, self._keep_pictures, self._on_change = cameras, keep_pictures, on_change
        self._latest: dict[str, np.ndarray] = {}
        self.seen = Seen()
        self.diagnostics: dict[str, dict[str, str]] = {}
        self._instruction = self.node.create_publisher(String, "instruction", qos.COMMAND)
        self._task = self.node.create_publisher(String, f"{SIM}/task", qos.COMMAND)
        self._subscribe()

    def _subscribe(self) -> None:
        subscribe = self.node.create_subscription
        subscribe(DiagnosticStatus, f"{POLICY}/status", self._on_status, qos.STATUS)
        subscribe(String, f"{POLICY}/plan", self._on_plan, qos.EVENTS)
        subscribe(Bool, f"{SIM}/success", self._on_success, qos.STATUS)
        subscribe(DiagnosticArray, "/diagnostics", self._on_diagnostics, qos.EVENTS)
        subscribe(JointTrajectory, "command", self._on_command, _EVERY_COMMAND)
        for camera in self._cameras:
            subscribe(Image, f"{camera}/image_raw", lambda message, name=camera: self._on_image(name, message), qos.SENSOR)

    @property
    def is_stopped(self) -> bool:
        """Whether the robot will not move again without a person."""
        return self.seen.state in ("latched", "fault")

    # ---- doing ----

    def give(self, instruction: str) -> None:
        """Tells the robot, and the simulator what to judge; what was seen before is forgotten, what stays true is kept."""
        self.seen = Seen(code=self.seen.code, state=self.seen.state, sentence=self.seen.sentence)
        self._task.publish(String(data=instruction))
        self._instruction.publish(String(data=instruction))

    def hold(self) -> None:
        """An empty instruction: the robot stops and waits."""
        self._instruction.publish(String(data=""))

    def spin_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Handles messages until ``condition()`` is true; False after ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                return False
            self._executor.spin_once(timeout_sec=0.05)
        return True

    def has_pictures(self) -> bool:
        """Whether every camera has sent one."""
        return all(camera in self._latest for camera in self._cameras)

    def is_connected(self) -> bool:
        """Whether both nodes hear this one, so that no instruction is lost."""
        policy, sim = (self.node.resolve_topic_name(name) for name in (POLICY, SIM))
        return hears(self.node, self._instruction, policy) and hears(self.node, self._task, sim)

    def activate_policy(self, timeout_s: float) -> None:
        """Brings the lifecycle node to active, from wherever it is.

        Raises:
            NoAnswer: it refused, or took longer.
        """
        deadline = time.monotonic() + timeout_s
        steps = {
            State.PRIMARY_STATE_UNCONFIGURED: Transition.TRANSITION_CONFIGURE,
            State.PRIMARY_STATE_INACTIVE: Transition.TRANSITION_ACTIVATE,
        }
        while True:
            left_s = max(deadline - time.monotonic(), 0.1)
            state = self.call(GetState, f"{POLICY}/get_state", GetState.Request(), left_s).current_state
            if state.id == State.PRIMARY_STATE_ACTIVE:
                return
            if time.monotonic() > deadline or state.id == State.PRIMARY_STATE_FINALIZED:
                raise NoAnswer(f"{POLICY} is {state.label or 'silent'} after {timeout_s:.0f} s")
            if state.id in steps:
                request = ChangeState.Request(transition=Transition(id=steps[state.id]))
                done = self.call(ChangeState, f"{POLICY}/change_state", request, left_s).success
                if not done and state.id == State.PRIMARY_STATE_UNCONFIGURED:  # activation may only lack a first joint state
                    raise NoAnswer(f"{POLICY} refuses to leave the state {state.label}")
            self.spin_until(lambda: False, 0.1)

    def deactivate_policy(self) -> None:
        """Lets the policy node stop the robot and command nothing; the instruction is forgotten.

        Raises:
            NoAnswer: it refused or is silent.
        """
        request = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_DEACTIVATE))
        if not self.call(ChangeState, f"{POLICY}/change_state", request).success:
            raise NoAnswer(f"{POLICY} refuses to deactivate")

    def reset_scene(self, seed: int) -> str:
        """A new scene with the arm at home; returns the instruction that was drawn with it.

        Raises:
            NoAnswer: the simulator refused or is silent.
        """
        request = SetParameters.Request(parameters=[Parameter("seed", value=seed).to_parameter_msg()])
        results = self.call(SetParameters, f"{SIM}/set_parameters", request).results
        if not all(result.successful for result in results):
            raise NoAnswer(f"{SIM} refuses seed {seed}: {results[0].reason}")
        answer = self.call(Trigger, f"{SIM}/reset", Trigger.Request())
        if not answer.success:
            raise NoAnswer(f"{SIM} cannot reset: {answer.message}")
        return answer.message

    def call(self, kind: Any, name: str, request: Any, timeout_s: float = _SERVICE_TIMEOUT_S) -> Any:
        """Calls a service and handles messages meanwhile.

        Raises:
            NoAnswer: within ``timeout_s``.
        """
        client = self.node.create_client(kind, name)
        try:
            deadline = time.monotonic() + timeout_s
            if not self.spin_until(client.service_is_ready, timeout_s):
                raise NoAnswer(f"service {name} is not there after {timeout_s:.0f} s")
            future = client.call_async(request)
            if not self.spin_until(future.done, max(deadline - time.monotonic(), 0.1)):
                raise NoAnswer(f"service {name} did not answer within {timeout_s:.0f} s")
            return future.result()
        finally:
            self.node.destroy_client(client)

    def close(self) -> None:
        """Leaves the network."""
        self._executor.shutdown(timeout_sec=1.0)
        self.node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    # ---- seeing ----

    def diagnostic(self, entry: str, key: str) -> float | None:
        """A number of the policy node's diagnostics, such as ``("control thread", "missed_periods")``; None where there is none."""
        try:
            return float(self.diagnostics[f"{POLICY}: {entry}"][key])
        except (KeyError, ValueError):
            return None

    def _on_status(self, message: DiagnosticStatus) -> None:
        values = {pair.key: pair.value for pair in message.values}
        changed = message.message != self.seen.sentence
        self.seen.code, self.seen.sentence = values.get("code", ""), message.message
        self.seen.state = values.get("state", "")
        self.seen.task_done = values.get("task_done") == "True"
        if changed:
            self._on_change(self.seen)

    def _on_plan(self, message: String) -> None:
        changed, self.seen.plan = message.data != self.seen.plan, message.data
        if changed:
            self._on_change(self.seen)

    def _on_success(self, message: Bool) -> None:
        changed, self.seen.success = message.data != self.seen.success, message.data
        if changed:
            self._on_change(self.seen)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.diagnostics[status.name] = {pair.key: pair.value for pair in status.values}
            latency_ms = self.diagnostic("inference", "inference_ms") if status.name == f"{POLICY}: inference" else None
            if latency_ms:  # 0 before the first answer
                self.seen.inference_ms.append(latency_ms)

    def _on_command(self, message: JointTrajectory) -> None:
        self.seen.command_times_ns.append(stamp_to_ns(message.header.stamp) or time.monotonic_ns())

    def _on_image(self, camera: str, message: Image) -> None:
        if self._keep_pictures or camera not in self._latest:
            self._latest[camera] = image_to_rgb(message)
        if self._keep_pictures and camera == self._cameras[0] and self.has_pictures():
            words = {"plan": self.seen.plan, "sentence": self.seen.sentence, "success": self.seen.success}
            self.seen.pictures.append(Picture(time_s=time.monotonic(), images=dict(self._latest), **words))
