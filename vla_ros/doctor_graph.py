# SPDX-License-Identifier: Apache-2.0
"""Judges what ``ros.graph_probe`` saw on the ROS graph against a bundle and a robot, for ``vla doctor``. Pure; must not import rclpy.

Every finding that is not ok names its remedy in words.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from vla_ros.core.manifest import Manifest
from vla_ros.finding import FAIL, OK, WARN, Finding
from vla_ros.robot import RobotDescription
from vla_ros.ros.images import ENCODINGS
from vla_ros.ros.parameters import PolicyNodeParameters
from vla_ros.ros.session import Contract

JOINTS, IMAGE, COMPRESSED, STRING, BOOL = (
    "sensor_msgs/msg/JointState",
    "sensor_msgs/msg/Image",
    "sensor_msgs/msg/CompressedImage",
    "std_msgs/msg/String",
    "std_msgs/msg/Bool",
)
COMMAND_TYPES = {
    "JointTrajectory": "trajectory_msgs/msg/JointTrajectory",
    "TwistStamped": "geometry_msgs/msg/TwistStamped",
    "Float64MultiArray": "std_msgs/msg/Float64MultiArray",
    "JointJog": "control_msgs/msg/JointJog",
}
_LIMIT_SLACK = 0.01  # rad or m, as activation allows
_MANY_PIXELS = 16  # a picture so many times larger than the policy's is mostly thrown away
_MUCH_CROPPED = 0.3  # more than from 4:3 to a square (a quarter): then parts of the scene are missing
_RELIABLE, _BEST_EFFORT, _VOLATILE, _LATCHED = "RELIABLE", "BEST_EFFORT", "VOLATILE", "TRANSIENT_LOCAL"


@dataclass(frozen=True, kw_only=True)
class Names:
    """Fully resolved topics of one policy node."""

    joint_states: str
    instruction: str
    e_stop: str
    command: str
    cameras: dict[str, str]


def resolve_names(facts: dict[str, Any], parameters: PolicyNodeParameters, manifest: Manifest) -> Names:
    """The topics that the node uses: those that it has on the graph, where it runs and is configured, else those by name."""
    namespace = facts["node"].rpartition("/")[0]
    own, worker = (facts["endpoints"].get(facts["node"] + suffix, {}) for suffix in ("", "_worker"))

    def actual(side: str, kind: str, name: str) -> str:
        """``name`` as remapping made it, if the node has exactly one topic of this kind on this side that it could be."""
        expected = name if name.startswith("/") else f"{namespace}/{name}"
        topics = [topic for topic, there in own.get(side, {}).items() if there == kind and not topic.startswith(facts["node"] + "/")]
        others = [
            topic for topic in topics if topic.rpartition("/")[2] not in ("instruction", "e_stop", "joint_states", "command", "rosout")
        ]
        return expected if expected in topics or len(others) != 1 else others[0]

    suffix = "/compressed" if parameters.image_transport == "compressed" and not parameters.camera_topics else ""
    by_name = parameters.camera_topics or [f"{camera.name}/image_raw{suffix}" for camera in manifest.cameras]
    pictures = [topic for topic, kind in worker.get("subscribes", {}).items() if kind in (IMAGE, COMPRESSED)]
    cameras = {}
    for camera, name in zip(manifest.cameras, by_name):
        expected = name if name.startswith("/") else f"{namespace}/{name}"
        left = [topic for topic in pictures if topic not in {f"{namespace}/{n}" for n in by_name}]
        cameras[camera.name] = left[0] if expected not in pictures and len(left) == 1 else expected
    return Names(
        joint_states=actual("subscribes", JOINTS, "joint_states"),
        instruction=actual("subscribes", STRING, "instruction"),
        e_stop=actual("subscribes", BOOL, "e_stop"),
        command=actual("publishes", COMMAND_TYPES[parameters.command_interface], "command"),
        cameras=cameras,
    )


def judge(facts: dict[str, Any], parameters: PolicyNodeParameters, contract: Contract) -> list[Finding]:
    """Every finding about one graph. ``facts`` as ``ros.graph_probe`` tells them."""
    names = resolve_names(facts, parameters, contract.bundle.manifest)
    view = _View(facts, parameters, contract.bundle.manifest, contract.robot, names)
    return [finding for check in (_node, _clock, _joints, _cameras, _command, _qos) for finding in check(view)]


class _View:
    """The facts with short ways to ask for them."""

    def __init__(self, facts: dict[str, Any], parameters: PolicyNodeParameters, manifest: Manifest, robot: RobotDescription, names: Names):
        self.facts, self.parameters, self.manifest, self.robot, self.names = facts, parameters, manifest, robot, names
        self.uses_sim_time = bool(facts["use_sim_time"])

    def publishers(self, topic: str) -> list[dict[str, str]]:
        return self.facts["topics"].get(topic, {}).get("publishers", [])

    def subscribers(self, topic: str) -> list[dict[str, str]]:
        return self.facts["topics"].get(topic, {}).get("subscribers", [])

    def of_type(self, kind: str) -> list[str]:
        return sorted(topic for topic, entry in self.facts["topics"].items() if kind in entry["types"] and entry["publishers"])

    def sample(self, topic: str) -> dict[str, Any]:
        return self.facts["samples"].get(topic, {"count": 0, "rate_hz": 0.0})

    def stamp_age_s(self, topic: str) -> float | None:
        return self.sample(topic).get("stamp_age_sim_s" if self.uses_sim_time else "stamp_age_s")


def _node(view: _View) -> Iterator[Finding]:
    name, state = view.facts["node"], view.facts["lifecycle"]
    if name not in view.facts["nodes"]:
        others = ", ".join(view.facts["nodes"][:8]) or "none"
        remedy = (
            "start it: vla run, or ros2 launch vla_ros policy.launch.py; if it runs, name it with --node, and see the ROS environment above"
        )
        yield Finding(name="policy node", state=WARN, found=f"no {name} on the graph; nodes there: {others}", remedy=remedy)
    elif state is None:
        yield Finding(name="policy node", state=FAIL, found=f"{name} does not answer", remedy="see its log; end and start it again")
    elif state != "active":
        remedy = f"ros2 lifecycle set {name} {'configure' if state == 'unconfigured' else 'activate'}; its log says why it is not"
        yield Finding(name="policy node", state=WARN, found=f"{name} is {state}", remedy=remedy)
    else:
        yield Finding(name="policy node", state=OK, found=f"{name} is active")


def _clock(view: _View) -> Iterator[Finding]:
    publishers = view.publishers("/clock")
    if view.uses_sim_time and not view.sample("/clock")["count"]:
        found = f"use_sim_time is set and {'nobody publishes' if not publishers else 'nothing comes on'} /clock: time stands still"
        yield Finding(
            name="clock", state=FAIL, found=found, remedy="start the simulator (with its clock bridge), or set use_sim_time to false"
        )
    elif publishers and not view.uses_sim_time and view.facts["node"] in view.facts["nodes"]:
        found = f"{publishers[0]['node']} publishes /clock and use_sim_time is false"
        yield Finding(name="clock", state=WARN, found=found, remedy="start the policy node with use_sim_time:=true beside a simulator")
    else:
        yield Finding(name="clock", state=OK, found="simulated" if view.uses_sim_time else "the system's")


def _joints(view: _View) -> Iterator[Finding]:
    topic, robot = view.names.joint_states, view.robot
    publishers, sample = view.publishers(topic), view.sample(topic)
    name = f"joint states {topic}"
    if not publishers:
        others = view.of_type(JOINTS)
        remedy = f"remap it: -r joint_states:={others[0]}" if others else "start the robot's driver (joint_state_broadcaster)"
        yield Finding(name=name, state=FAIL, found=f"nobody publishes it{_there(others)}", remedy=remedy)
        return
    if len(publishers) > 1:
        nodes = ", ".join(sorted(p["node"] for p in publishers))
        remedy = "let one node merge them (joint_state_publisher with source_list), or end the others"
        yield Finding(name=name, state=FAIL, found=f"{len(publishers)} publishers: {nodes}", remedy=remedy)
    if not sample["count"]:
        yield Finding(name=name, state=FAIL, found="a publisher is there and nothing comes", remedy=_SILENT)
        return
    missing = [joint for joint in robot.joint_names if joint not in sample["names"]]
    if missing:
        yield Finding(name=name, state=FAIL, found=_lacks(missing, sample["names"]), remedy=_joint_remedy(missing, sample["names"], robot))
    else:
        yield from _joint_positions(name, sample, robot)
    yield from _rate(name, sample["rate_hz"], view.parameters.max_joint_age_s, "max_joint_age_s")
    yield from _stamp(name, view, topic, view.parameters.max_joint_age_s)
    if not missing and len(publishers) == 1:
        yield Finding(
            name=name, state=OK, found=f"{len(robot.joint_names)} joints of {publishers[0]['node']} at {sample['rate_hz']:.0f} Hz"
        )


def _lacks(missing: list[str], there: list[str]) -> str:
    return f"lacks {', '.join(missing)}; it has {', '.join(there)[:300] or 'no joints'}"


def _joint_remedy(missing: list[str], there: list[str], robot: RobotDescription) -> str:
    prefixed = [joint for joint in there if any(joint.endswith(name) for name in missing)]
    if len(prefixed) >= len(missing):
        return f"the driver uses a prefix ({prefixed[0]}): set its tf_prefix to empty, or write these names into {robot.name}.yaml and its URDF"
    close = {name: difflib.get_close_matches(name, there, 1, 0.75) for name in missing}
    if any(close.values()):
        pairs = ", ".join(f"{name} (it has {match[0]})" for name, match in close.items() if match)
        return f"the names must be the same letter by letter: {pairs}; rename them in the driver or in {robot.name}.yaml and its URDF"
    return f"is this the driver of {robot.name}? Start the right one, or merge the gripper's joint states into the arm's"


def _joint_positions(name: str, sample: dict[str, Any], robot: RobotDescription) -> Iterator[Finding]:
    if len(sample["positions"]) != len(sample["names"]):
        remedy = "a driver must give one position for each name"
        yield Finding(name=name, state=FAIL, found=f"{len(sample['names'])} names, {len(sample['positions'])} positions", remedy=remedy)
        return
    by_name = dict(zip(sample["names"], sample["positions"]))
    positions_J = np.array([by_name[joint] for joint in robot.joint_names])
    low, high = robot.limits.position_min - _LIMIT_SLACK, robot.limits.position_max + _LIMIT_SLACK
    outside = [f"{n} {p:.3f}" for n, p, a, b in zip(robot.joint_names, positions_J, low, high) if not a <= p <= b]
    if outside:
        remedy = (
            "move the robot inside its limits by hand or by its pendant; degrees instead of rad, or another calibration, look like this too"
        )
        yield Finding(name=name, state=FAIL, found=f"outside the limits: {', '.join(outside)}", remedy=remedy)


_SILENT = "is its source running? With another domain, RMW or quality of service nothing arrives either: see the findings about those"


def _cameras(view: _View) -> Iterator[Finding]:
    kind = COMPRESSED if view.parameters.image_transport == "compressed" else IMAGE
    for camera in view.manifest.cameras:
        topic = view.names.cameras[camera.name]
        name, entry, sample = f"camera {camera.name} {topic}", view.facts["topics"].get(topic, {"types": []}), view.sample(topic)
        if not view.publishers(topic):
            others = [t for t in view.of_type(kind) if t not in view.names.cameras.values() and not t.startswith(view.facts["node"] + "/")]
            remedy = (
                f"name it: cameras.topics with one topic a camera (for this one perhaps {others[0]}), or remap {camera.name}/image_raw"
                if others
                else "start the camera's driver"
            )
            state = FAIL if camera.required else WARN
            yield Finding(name=name, state=state, found=f"nobody publishes it{_there(others)}", remedy=remedy)
        elif kind not in entry["types"]:
            other = "raw" if kind == COMPRESSED else "compressed"
            remedy = f"set cameras.transport to {other}, or choose the topic of type {kind}"
            yield Finding(name=name, state=FAIL, found=f"its type is {', '.join(entry['types'])}, expected {kind}", remedy=remedy)
        elif not sample["count"]:
            yield Finding(name=name, state=FAIL, found="a publisher is there and no picture comes", remedy=_SILENT)
        else:
            yield from _pictures(view, camera, name, topic, sample)


def _pictures(view: _View, camera: Any, name: str, topic: str, sample: dict[str, Any]) -> Iterator[Finding]:
    encoding, good = sample.get("encoding"), True
    if encoding is not None and encoding not in ENCODINGS:
        good = False
        remedy = f"let the driver send rgb8 or bgr8 (known are {', '.join(ENCODINGS)}); depth images cannot be used"
        yield Finding(name=name, state=FAIL, found=f"the encoding {encoding!r} is unknown", remedy=remedy)
    for finding in (
        *_rate(name, sample["rate_hz"], view.parameters.max_image_age_s, "max_image_age_s"),
        *_stamp(name, view, topic, view.parameters.max_image_age_s),
    ):
        good = False
        yield finding
    if encoding is not None and (found := _size(sample["height"], sample["width"], camera)):
        yield Finding(name=name, state=WARN, found=found[0], remedy=found[1])
    if good:
        yield Finding(name=name, state=OK, found=f"{encoding or sample.get('format')} at {sample['rate_hz']:.0f} Hz")


def _size(height: int, width: int, camera: Any) -> tuple[str, str] | None:
    """What is wrong with a picture's size for this camera of the bundle, and the remedy."""
    found = f"{width}x{height}, the policy sees {camera.width}x{camera.height}"
    if height < camera.height or width < camera.width:
        return f"{found}: enlarged pictures are blurred", f"set the driver's resolution to {camera.width}x{camera.height} or more"
    lost = 1.0 - min(height * camera.width, width * camera.height) / max(height * camera.width, width * camera.height)
    if lost > _MUCH_CROPPED:
        remedy = f"choose a resolution of the driver with the sides {camera.width}:{camera.height}, as the policy was trained with"
        return f"{found}: {lost:.0%} of the picture is cut off at the sides", remedy
    if height * width > _MANY_PIXELS * camera.height * camera.width:
        return found, "a lower resolution at the driver costs less time; nothing is wrong otherwise"
    return None


def _command(view: _View) -> Iterator[Finding]:
    topic, node = view.names.command, view.facts["node"]
    name, kind = f"command {topic}", COMMAND_TYPES[view.parameters.command_interface]
    others = sorted(p["node"] for p in view.publishers(topic) if p["node"] != node)
    if others:
        remedy = "end it, or give it another topic: the robot would obey both"
        yield Finding(name=name, state=FAIL, found=f"{', '.join(others)} publishes it as well", remedy=remedy)
    # Foxglove, recorders and rqt listen as well; a subscriber of the right type is all that can be asked for.
    subscribers = view.subscribers(topic)
    right = [s for s in subscribers if s["type"] == kind]
    if subscribers and not right:
        found = f"{subscribers[0]['node']} expects {subscribers[0]['type']}, the node sends {kind}"
        wanted = next((n for n, t in COMMAND_TYPES.items() if t == subscribers[0]["type"]), None)
        remedy = f"set command.interface to {wanted}" if wanted else "let the controller take one of " + ", ".join(COMMAND_TYPES)
        yield Finding(name=name, state=FAIL, found=found, remedy=remedy)
    elif not right:
        remedy = "start the controller, and remap: -r command:=/joint_trajectory_controller/joint_trajectory (or as yours is named)"
        yield Finding(name=name, state=WARN, found="nobody listens", remedy=remedy)
    elif not others:
        yield Finding(name=name, state=OK, found=f"{', '.join(sorted({s['node'] for s in right}))} listens")


def _qos(view: _View) -> Iterator[Finding]:
    """Pairs of publisher and subscriber that never connect (REP 2003, and the table in ROS 2's documentation of quality of service)."""
    node, names = view.facts["node"], view.names
    mine = {"node": node, "type": "", "reliability": _RELIABLE, "durability": _VOLATILE}
    for topic in (names.joint_states, names.instruction, names.e_stop, names.command, *names.cameras.values()):
        publishers, subscribers = list(view.publishers(topic)), list(view.subscribers(topic))
        if node not in view.facts["nodes"]:  # as it will be
            if topic in (names.instruction, names.e_stop):
                subscribers.append(mine)
            elif topic == names.command:
                publishers.append(mine)
        for publisher in publishers:
            for subscriber in subscribers:
                if node not in (publisher["node"], subscriber["node"].removesuffix("_worker")):
                    continue
                why = _incompatible(publisher, subscriber)
                if why:
                    yield Finding(name=f"quality of service {topic}", state=FAIL, found=why[0], remedy=why[1])


def _incompatible(publisher: dict[str, str], subscriber: dict[str, str]) -> tuple[str, str] | None:
    one, other = publisher["node"], subscriber["node"]
    if publisher["reliability"] == _BEST_EFFORT and subscriber["reliability"] == _RELIABLE:
        return f"{one} publishes best effort, {other} wants reliable: no message arrives", f"let {one} publish reliable"
    if publisher["durability"] == _VOLATILE and subscriber["durability"] == _LATCHED:
        return f"{one} publishes volatile, {other} wants transient local: no message arrives", f"let {other} subscribe volatile"
    return None


# ---- what several checks share ----


def _rate(name: str, rate_hz: float, max_age_s: float, parameter: str) -> Iterator[Finding]:
    """A stream must come at least twice in the time after which its newest message counts as stale."""
    needed_hz = 2.0 / max_age_s
    if rate_hz < needed_hz:
        remedy = f"raise the driver's rate to {needed_hz:.0f} Hz or more, or raise {parameter} (now {max_age_s:g} s): the robot would hold again and again"
        yield Finding(name=name, state=FAIL, found=f"{rate_hz:.1f} Hz", remedy=remedy)


def _stamp(name: str, view: _View, topic: str, max_age_s: float) -> Iterator[Finding]:
    age_s = view.stamp_age_s(topic)
    if age_s is None:
        return
    if age_s > max_age_s or -age_s > view.parameters.max_future_s:
        where = "old" if age_s > 0 else "in the future"
        remedy = "set the clocks of both machines by NTP or PTP (chrony, ptp4l); beside a simulator every node needs use_sim_time"
        yield Finding(name=name, state=FAIL, found=f"its stamps are {abs(age_s):.2f} s {where}", remedy=remedy)


def _there(others: list[str]) -> str:
    return f"; of this type there are {', '.join(others[:6])}" if others else ""
