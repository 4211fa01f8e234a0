# SPDX-License-Identifier: Apache-2.0
"""An independent judge: ``python -m vla_ros.ros.command_observer --urdf FILE``, a process that reads ``command`` and the URDF, nothing else.

It shares no code with what makes the commands. Until SIGTERM or SIGINT it checks every trajectory_msgs/JointTrajectory, then prints one
JSON object: how many came, from how many commanders at once at the most (steps between the commands of two mean nothing), and what was wrong with
them. Exit code 0 if nothing was, 1 otherwise.

Each message must name every movable joint of the URDF once at most, end at rest, have increasing times, and keep positions and velocities
inside the URDF's limits at every point. From one message to the next the first point may move by no more than the velocity limit allows in
the time between them. After a pause the stream may start elsewhere, but only if it had come to rest before. The time of a message is the
middleware's own note of when it was sent: a judge that gets no processor for a while must blame nobody for the pause that it slept through.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence
from typing import Any

_PAUSE_PERIODS = 5.0
_RELATIVE = 1e-3  # of the velocity limit; sums of float64 are far below
_ABSOLUTE = 1e-4  # rad or m
_AT_REST = 1e-5
_EXAMPLES = 5
_COUNT_EVERY_S = 0.5


class CommandJudge:
    """Judges messages one after the other. Knows no ROS: it only reads fields.

    Args:
        limits: by joint: lower, upper (rad or m) and velocity (per second).
    """

    def __init__(self, limits: dict[str, tuple[float, float, float]]) -> None:
        self._limits = limits
        self._last: dict[str, float] | None = None
        self._last_s = 0.0
        self._was_moving = False
        self.messages = self.streams = self.commanders = 0
        self.violations: Counter[str] = Counter()
        self.examples: list[str] = []

    @classmethod
    def of_urdf(cls, path: str) -> CommandJudge:
        """Reads the limits of every joint that has some."""
        limits = {}
        for joint in ET.parse(path).getroot().iter("joint"):
            limit = joint.find("limit")
            if limit is not None:
                bounds = (float(limit.get(key, default)) for key, default in (("lower", "-inf"), ("upper", "inf"), ("velocity", "inf")))
                limits[joint.get("name")] = tuple(bounds)
        return cls(limits)

    def judge(self, message: Any, now_s: float) -> None:
        """Takes one trajectory_msgs/JointTrajectory that was sent at ``now_s``, by any clock."""
        self.messages += 1
        names, points = list(message.joint_names), message.points
        if not points or len(set(names)) != len(names) or not set(names) <= set(self._limits):
            self._wrong("shape", f"joints {names}, {len(points)} points")
            return
        times_s = [p.time_from_start.sec + 1e-9 * p.time_from_start.nanosec for p in points]
        if any(b <= a for a, b in zip([0.0, *times_s], times_s)):
            self._wrong("times", f"{times_s}")
        for point in points:
            self._judge_point(names, point)
        if any(abs(v) > _AT_REST for v in points[-1].velocities):
            self._wrong("moving end", f"{list(points[-1].velocities)}")
        self._judge_step(names, points[0], times_s[0], now_s)

    def _judge_point(self, names: list[str], point: Any) -> None:
        if len(point.positions) != len(names) or len(point.velocities) != len(names):
            self._wrong("shape", f"{len(names)} joints, {len(point.positions)} positions, {len(point.velocities)} velocities")
            return
        for name, position, velocity in zip(names, point.positions, point.velocities):
            lower, upper, fastest = self._limits[name]
            if not (math.isfinite(position) and math.isfinite(velocity)):
                self._wrong("not finite", f"{name} {position} {velocity}")
            elif not lower - _ABSOLUTE <= position <= upper + _ABSOLUTE:
                self._wrong("position", f"{name} {position}")
            elif abs(velocity) > fastest * (1.0 + _RELATIVE):
                self._wrong("velocity", f"{name} {velocity}")

    def _judge_step(self, names: list[str], point: Any, period_s: float, now_s: float) -> None:
        now = dict(zip(names, point.positions))
        is_new = self._last is None or self._last.keys() != now.keys() or now_s - self._last_s > _PAUSE_PERIODS * period_s
        if is_new:
            self.streams += 1
        if not is_new or (self._was_moving and self._last is not None):
            time_s = max(period_s, now_s - self._last_s)
            for name in now.keys() & self._last.keys():
                step = abs(now[name] - self._last[name])
                if step > self._limits[name][2] * time_s * (1.0 + _RELATIVE) + _ABSOLUTE:
                    self._wrong("step", f"{name} {step} in {time_s:.3f} s")
        self._last, self._last_s = now, now_s
        self._was_moving = any(abs(v) > _AT_REST for v in point.velocities)

    def _wrong(self, kind: str, what: str) -> None:
        self.violations[kind] += 1
        if self.violations[kind] <= _EXAMPLES:
            self.examples.append(f"{kind}: {what} (message {self.messages})")

    def summary(self) -> dict[str, Any]:
        """What the process prints."""
        violations = {"violations": sum(self.violations.values()), "by_kind": dict(self.violations), "examples": self.examples}
        return {"messages": self.messages, "streams": self.streams, "commanders": self.commanders, **violations, "ended_at_rest": not self._was_moving}


def main(argv: Sequence[str] | None = None) -> int:
    """Judges until told to stop; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--urdf", required=True, help="limits to judge by")
    parser.add_argument("--topic", default="command", help="trajectory_msgs/JointTrajectory")
    arguments = parser.parse_args(argv)
    judge = CommandJudge.of_urdf(arguments.urdf)
    stopped: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: stopped.append(number))
    _listen(judge, arguments.topic, stopped)
    sys.stdout.write(json.dumps(judge.summary()) + "\n")
    return int(bool(judge.violations))


def _sent_s(information: dict[str, Any]) -> float:
    """When a message was sent; some middlewares do not say, then it is now."""
    return 1e-9 * (information["source_timestamp"] or time.monotonic_ns())


def _listen(judge: CommandJudge, topic: str, stopped: list[int]) -> None:
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.node import Node
    from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
    from rclpy.signals import SignalHandlerOptions
    from trajectory_msgs.msg import JointTrajectory

    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = Node("command_observer", start_parameter_services=False)
    every = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=5000, reliability=ReliabilityPolicy.RELIABLE)
    node.create_subscription(JointTrajectory, topic, lambda message, information: judge.judge(message, _sent_s(information)), every)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    counted_s = 0.0
    while not stopped:
        executor.spin_once(timeout_sec=0.1)
        if time.monotonic() - counted_s > _COUNT_EVERY_S:
            counted_s = time.monotonic()
            judge.commanders = max(judge.commanders, node.count_publishers(topic))
    while (before := judge.messages) is not None:  # what has arrived is judged, too
        executor.spin_once(timeout_sec=0.05)
        if judge.messages == before:
            break
    node.destroy_node()
    rclpy.try_shutdown()


if __name__ == "__main__":
    sys.exit(main())
