# SPDX-License-Identifier: Apache-2.0
"""Topics of ``vla_policy``: what it subscribes and publishes, and when. The control thread publishes commands itself; the rest goes
through a queue to the executor's thread, so that a slow reader of the plan cannot disturb the command."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from std_msgs.msg import Float64MultiArray, Int32MultiArray, MultiArrayDimension, String
from visualization_msgs.msg import MarkerArray

from vla_ros.core.action import ActionSpec
from vla_ros.core.chunk import ActionChunk
from vla_ros.core.control import ControlOutput
from vla_ros.core.safety import StatusCode
from vla_ros.core.text import printable
from vla_ros.ros import qos
from vla_ros.ros.command import CommandBuilder, make_command_builder
from vla_ros.ros.control_runner import TickSinks
from vla_ros.ros.diagnostics import DropCounter, Figures, diagnostics_message, status_message
from vla_ros.ros.markers import MarkerPublisher
from vla_ros.ros.parameters import PolicyNodeParameters

if TYPE_CHECKING:
    from vla_ros.ros.session import Contract, PolicySession


def action_message(spec: ActionSpec, rows: int | None = None, message_type: type = Float64MultiArray) -> Any:
    """An empty array message whose layout names the dimensions: ``[D]``, or ``[rows, D]`` with ``rows``."""
    dims = spec.num_dims
    label = ",".join(f"{d.name}[{d.unit}]" for d in spec.dims)
    message = message_type()
    message.layout.dim = [] if rows is None else [MultiArrayDimension(label="step", size=rows, stride=rows * dims)]
    message.layout.dim.append(MultiArrayDimension(label=label, size=dims, stride=dims))
    return message


class PolicyInterface:
    """The node's topics. ``open`` makes those that depend on the bundle, ``close`` destroys them."""

    def __init__(self, node: Node) -> None:
        """Makes what exists in every state: status and diagnostics."""
        self._node = node
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)  # timers on ROS time stall with a simulation
        self.drops = DropCounter()
        self.sinks = TickSinks(
            command=self._publish_command,
            chunk=self._queue_chunk,
            edge=self._queue_edge,
            drop=lambda code, text: self.drop("control", code, text),
        )
        self._events: deque[Callable[[], None]] = deque(maxlen=256)
        self._wake = node.create_guard_condition(self.publish_events)
        self._status_publisher = node.create_publisher(DiagnosticStatus, "~/status", qos.STATUS)
        self._diagnostics_publisher = node.create_publisher(DiagnosticArray, "/diagnostics", qos.EVENTS)
        self._entities: list[tuple[Callable[[Any], bool], Any]] = []
        self._command: Any = None
        self._action: Any = None
        self._builder: CommandBuilder | None = None
        self._markers: MarkerPublisher | None = None
        self._robot_name = ""
        self._to_ros_ns: Callable[[int], int] = lambda time_ns: time_ns
        self._extra: tuple[StatusCode, ...] = ()
        self._detail: Callable[[StatusCode], str] = lambda _: ""
        self._detailed: StatusCode | None = None

    def every(self, period_s: float, callback: Callable[[], None]) -> Any:
        """Calls ``callback`` in the executor's thread, by the steady clock; returns the timer."""
        return self._node.create_timer(period_s, lambda: self.run(callback), clock=self._steady)

    def open(
        self, contract: Contract, parameters: PolicyNodeParameters, to_ros_ns: Callable[[int], int], detail: Callable[[StatusCode], str]
    ) -> None:
        """Makes the topics of one bundle and robot.

        Args:
            contract: bundle and robot.
            parameters: of the node.
            to_ros_ns: turns the control thread's time into that of stamps.
            detail: what the worker says about a status code, may be empty.

        Raises:
            ConfigError: the command interface is not available.
        """
        spec = contract.bundle.manifest.action
        self._robot_name = contract.robot.name
        self._builder = make_command_builder(
            parameters.command_interface, contract.robot, parameters.period_ns * 1e-9, parameters.command_points
        )
        self._command = self._publisher(self._builder.message_type, "command", qos.COMMAND)
        self._action = self._publisher(Float64MultiArray, "~/action", qos.COMMAND)
        self._tokens = self._publisher(Int32MultiArray, "~/action_tokens", qos.EVENTS)
        self._plan = self._publisher(String, "~/plan", qos.EVENTS)
        markers = self._publisher(MarkerArray, "~/markers", qos.EVENTS)
        self._markers = MarkerPublisher(contract.robot, markers, lambda: self._node.get_clock().now().nanoseconds)
        self._action_message = action_message(spec)
        self._tokens_message = action_message(spec, spec.horizon, Int32MultiArray)
        self._to_ros_ns, self._detail = to_ros_ns, detail

    def close(self) -> None:
        """Destroys what ``open`` made. Safe to call twice."""
        entities, self._entities = self._entities, []
        self._command = self._action = self._builder = self._markers = None
        for destroy, entity in entities:
            destroy(entity)

    def camera_topics(self, contract: Contract, parameters: PolicyNodeParameters) -> dict[str, str]:
        """Fully resolved and remapped topic of each camera, in the manifest's order."""
        cameras = contract.bundle.manifest.cameras
        names = parameters.camera_topics or [f"{c.name}/image_raw" for c in cameras]
        suffix = "/compressed" if parameters.image_transport == "compressed" and not parameters.camera_topics else ""
        return {c.name: self._node.resolve_topic_name(name) + suffix for c, name in zip(cameras, names, strict=True)}

    # ---- drops ----

    def drop(self, source: str, code: str, sentence: str) -> None:
        """Counts a dropped message and logs it once an edge. Any thread."""
        if self.drops.dropped(source, code):
            self.say(f"{source} dropped ({code}): {sentence}")

    def say(self, sentence: str) -> None:
        """Logs a warning from the executor's thread. Any thread, does not block. Parts of it may come from messages."""
        self._queue(lambda: self._node.get_logger().warning(printable(sentence)))

    # ---- control thread ----

    def _publish_command(self, output: ControlOutput) -> None:
        builder, command, action = self._builder, self._command, self._action
        if builder is None or command is None:
            return
        command.publish(builder.build(output.positions_J, output.velocities_J, self._to_ros_ns(output.stamp_ns)))
        if output.action_D is not None and action.get_subscription_count():
            self._action_message.data = array("d", output.action_D.tobytes())
            action.publish(self._action_message)

    def _queue_chunk(self, chunk: ActionChunk) -> None:
        self._events.append(lambda: self._publish_chunk(chunk))  # for people: it goes with the next look, and wakes nobody

    def _queue_edge(self, output: ControlOutput) -> None:
        self._queue(lambda: self._publish_status(output))

    def _queue(self, event: Callable[[], None]) -> None:
        self._events.append(event)
        self._wake.trigger()

    # ---- executor's thread ----

    def publish_events(self) -> None:
        """Publishes what the control thread has left since the last time."""
        while self._events:
            self.run(self._events.popleft())

    def _publish_chunk(self, chunk: ActionChunk) -> None:
        if self._builder is None:
            return
        self._tokens_message.data = array("i", chunk.tokens_HD.astype("int32").tobytes())
        self._tokens.publish(self._tokens_message)
        if chunk.plan:
            self._plan.publish(String(data=chunk.plan))
        if self._markers is not None:
            self._markers.show_chunk(chunk)

    def _publish_status(self, output: ControlOutput | None) -> DiagnosticStatus:
        detail = "" if output is None else self._detail(output.code)
        if detail and output.code is not self._detailed:
            self._node.get_logger().warning(printable(f"{output.code.sentence} {detail}"))
        self._detailed = None if output is None else output.code
        message = status_message(self._node.get_name(), output, self._extra, self._robot_name, printable(detail))
        self._status_publisher.publish(message)
        if self._markers is not None:
            self._markers.show_state(output)
        return message

    def report(self, session: PolicySession | None, extra: Iterable[StatusCode]) -> None:
        """Publishes status and diagnostics: once a second."""
        self._extra = (*extra, *self._graph_problems(session))
        status = self._publish_status(None if session is None else session.runner.output)
        figures = Figures(
            loop=None if session is None else session.thread.statistics(),
            drops=dict(self.drops.counts),
            counts={} if session is None else session.runner.counts,
            worker={} if session is None else session.figures(),
            bundle={}
            if session is None
            else {"bundle": session.contract.bundle.manifest.name, "bundle_sha256": session.contract.bundle.sha256},
        )
        self._diagnostics_publisher.publish(
            diagnostics_message(self._node.get_name(), status, figures, self._node.get_clock().now().nanoseconds)
        )

    def command_subscribers(self) -> int:
        """How many subscribe to the command now."""
        return 0 if self._command is None else self._command.get_subscription_count()

    def _graph_problems(self, session: PolicySession | None) -> list[StatusCode]:
        if session is None or self._command is None:
            return []
        problems = []
        if self._node.count_publishers("command") > 1:
            problems.append(StatusCode.SECOND_COMMANDER)
        if self._node.count_publishers("joint_states") > 1:
            problems.append(StatusCode.SECOND_JOINT_SOURCE)
        if self.command_subscribers() == 0 and session.runner.output is not None and session.runner.output.is_commanded:
            problems.append(StatusCode.NO_SUBSCRIBER)
        return problems

    def _publisher(self, message_type: type, topic: str, profile: Any) -> Any:
        publisher = self._node.create_publisher(message_type, topic, profile)
        self._entities.append((self._node.destroy_publisher, publisher))
        return publisher

    def run(self, callback: Callable[..., None], *arguments: Any) -> None:
        """Calls ``callback`` in the executor's thread; what it raises is counted and logged, and the executor spins on."""
        try:
            callback(*arguments)
        except Exception as error:  # anything: one bad message must not end the node
            name = getattr(callback, "__name__", "callback").strip("_<>")
            self.drops.counts[f"callback.{name}"] += 1
            self._node.get_logger().error(f"{name} failed: {type(error).__name__}: {error}", throttle_duration_sec=1.0)
