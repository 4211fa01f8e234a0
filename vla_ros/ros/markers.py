# SPDX-License-Identifier: Apache-2.0
"""What the policy is about to do, for RViz and Foxglove: ``~/markers`` (visualization_msgs/MarkerArray, frame ``base_frame``).

The tool's path through the chunk's steps, coloured from red (a guess) over yellow to green (sure); the policy's words; the workspace as a box
that turns red when the actions lead out of it; joints that are near a limit, by name.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

from vla_ros.core.chunk import ActionChunk
from vla_ros.core.command import ControlOutput
from vla_ros.core.safety import StatusCode
from vla_ros.robot.description import RobotDescription
from vla_ros.robot.kinematics import Kinematics
from vla_ros.ros.sim_messages import time_message

_POINTS_PER_STEP = 4
_LINE_M, _STEP_M, _TEXT_M = 0.006, 0.014, 0.03
_NEAR_LIMIT = 0.05  # of a joint's range
_KEPT_S = 1.0  # how long a path stays after its last step
_GREY, _RED, _WHITE = (0.6, 0.6, 0.6, 0.5), (0.9, 0.1, 0.1, 0.9), (1.0, 1.0, 1.0, 1.0)


def confidence_colour(confidence: float) -> ColorRGBA:
    """Red at 0, yellow at a half, green at 1."""
    c = min(max(float(confidence), 0.0), 1.0)
    return _colour((min(1.0, 2.0 - 2.0 * c), min(1.0, 2.0 * c), 0.1, 1.0))


class MarkerBuilder:
    """Builds the messages of one robot; publishes nothing. One thread: it owns its kinematics."""

    def __init__(self, robot: RobotDescription) -> None:
        self._robot = robot
        self._kinematics = Kinematics(robot)

    def path(self, chunk: ActionChunk, start_J: np.ndarray | None, now_ns: int) -> MarkerArray:
        """The tool's way through a chunk.

        Args:
            chunk: with absolute joint positions [H, J].
            start_J: where the robot is, [J]; None begins at the first step.
            now_ns: stamp, ROS clock.
        """
        steps_HJ = chunk.joint_positions_HJ
        certain_H = chunk.confidence_HD.min(axis=1)
        ends = [self._kinematics.fk(step_J)[0] for step_J in steps_HJ]
        line = self._marker("path", Marker.LINE_STRIP, now_ns, _LINE_M)
        points, certain = self._between(steps_HJ, certain_H, start_J)
        line.points, line.colors = [_point(p) for p in points], [confidence_colour(c) for c in certain]
        dots = self._marker("steps", Marker.SPHERE_LIST, now_ns, _STEP_M)
        dots.points, dots.colors = [_point(p) for p in ends], [confidence_colour(c) for c in certain_H]
        words = self._text("plan", f"{chunk.plan}  {certain_H.min():.0%}".strip(), ends[-1] + [0.0, 0.0, 2 * _TEXT_M], now_ns)
        kept_s = chunk.horizon * chunk.dt_ns * 1e-9 + _KEPT_S
        for marker in (line, dots, words):
            marker.lifetime = Duration(sec=int(kept_s), nanosec=int(kept_s % 1 * 1e9))
        return MarkerArray(markers=[line, dots, words])

    def state(self, output: ControlOutput, now_ns: int) -> MarkerArray:
        """The workspace's box, the status in words, and the joints that are near a limit."""
        low, high = self._robot.workspace_min, self._robot.workspace_max
        box = self._marker("workspace", Marker.LINE_LIST, now_ns, 0.5 * _LINE_M)
        box.color = _colour(_RED if output.code is StatusCode.WORKSPACE else _GREY)
        box.points = [_point(p) for p in _box_edges(low, high)]
        top = np.array([0.5 * (low[0] + high[0]), low[1], high[2] + _TEXT_M])
        status = self._text("status", f"{output.state.value}: {output.code.sentence}", top, now_ns)
        near = self.near_limits(output.positions_J) if output.is_commanded else []
        limits = self._text("limits", "\n".join(near), top + [0.0, 0.0, 2 * _TEXT_M], now_ns)
        limits.color = _colour(_RED)
        if not near:
            limits.action = Marker.DELETE
        return MarkerArray(markers=[box, status, limits])

    def near_limits(self, positions_J: np.ndarray) -> list[str]:
        """One sentence for each arm joint within 5 % of its range from a position limit."""
        limits, sentences = self._robot.limits, []
        for j, name in enumerate(self._robot.arm_joints):
            span = limits.position_max[j] - limits.position_min[j]
            room = min(positions_J[j] - limits.position_min[j], limits.position_max[j] - positions_J[j])
            if np.isfinite(span) and room < _NEAR_LIMIT * span:
                sentences.append(f"{name}: {room:.3f} from its limit")
        return sentences

    def _between(self, steps_HJ: np.ndarray, certain_H: np.ndarray, start_J: np.ndarray | None) -> tuple[list[np.ndarray], list[float]]:
        """Points of the path, a few for each step, because a joint motion is no straight line of the tool."""
        before_J = steps_HJ[0] if start_J is None else start_J
        points, certain = [self._kinematics.fk(before_J)[0]], [float(certain_H[0])]
        for step_J, confidence in zip(steps_HJ, certain_H):
            for share in np.linspace(0.0, 1.0, _POINTS_PER_STEP + 1)[1:]:
                points.append(self._kinematics.fk(before_J + share * (step_J - before_J))[0])
                certain.append(float(confidence))
            before_J = step_J
        return points, certain

    def _text(self, namespace: str, text: str, position: np.ndarray, now_ns: int) -> Marker:
        marker = self._marker(namespace, Marker.TEXT_VIEW_FACING, now_ns, _TEXT_M)
        marker.text, marker.color, marker.pose.position = text, _colour(_WHITE), _point(position)
        return marker

    def _marker(self, namespace: str, kind: int, now_ns: int, size_m: float) -> Marker:
        marker = Marker(ns=namespace, id=0, type=kind, action=Marker.ADD)
        marker.header.frame_id, marker.header.stamp = self._robot.base_frame, time_message(now_ns)
        marker.pose.orientation.w = 1.0
        marker.scale.x = marker.scale.y = marker.scale.z = size_m
        return marker


class MarkerPublisher:
    """Publishes the markers of one robot while somebody subscribes. The executor's thread."""

    def __init__(self, robot: RobotDescription, publisher: Any, now_ns: Any) -> None:
        """Args: the robot, a publisher of MarkerArray, and the ROS clock in ns as a function."""
        self._builder = MarkerBuilder(robot)
        self._publisher = publisher
        self._now_ns = now_ns
        self._position_J: np.ndarray | None = None

    def show_chunk(self, chunk: ActionChunk) -> None:
        """A chunk that was taken."""
        if self._publisher.get_subscription_count():
            self._publisher.publish(self._builder.path(chunk, self._position_J, self._now_ns()))

    def show_state(self, output: ControlOutput | None) -> None:
        """The newest output of the control loop."""
        self._position_J = output.positions_J if output is not None and output.is_commanded else None
        if output is not None and self._publisher.get_subscription_count():
            self._publisher.publish(self._builder.state(output, self._now_ns()))


def _box_edges(low: np.ndarray, high: np.ndarray) -> Iterable[np.ndarray]:
    """Ends of the twelve edges, two by two."""
    corners = list(itertools.product(*zip(low, high)))
    for a, b in itertools.combinations(corners, 2):
        if sum(x != y for x, y in zip(a, b)) == 1:
            yield np.array(a)
            yield np.array(b)


def _point(xyz: Iterable[float]) -> Point:
    x, y, z = map(float, xyz)
    return Point(x=x, y=y, z=z)


def _colour(rgba: tuple[float, float, float, float]) -> ColorRGBA:
    return ColorRGBA(r=float(rgba[0]), g=float(rgba[1]), b=float(rgba[2]), a=float(rgba[3]))
