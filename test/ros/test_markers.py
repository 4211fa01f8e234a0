# SPDX-License-Identifier: Apache-2.0
"""``~/markers``: the predicted path where the tool will be, in the colour of its confidence; limits and states."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("visualization_msgs")

from visualization_msgs.msg import Marker, MarkerArray  # noqa: E402

from vla_ros.core.chunk import ActionChunk  # noqa: E402
from vla_ros.core.command import ControlOutput  # noqa: E402
from vla_ros.core.paths import robot_config_path  # noqa: E402
from vla_ros.core.safety import StatusCode  # noqa: E402
from vla_ros.core.states import ControlState  # noqa: E402
from vla_ros.robot import Kinematics, RobotDescription  # noqa: E402
from vla_ros.ros.markers import MarkerBuilder, MarkerPublisher, confidence_colour  # noqa: E402

ROBOT = RobotDescription.load(robot_config_path("tabletop_arm"))
KINEMATICS = Kinematics(ROBOT)


def chunk(confidence=(1.0, 0.9, 0.5, 0.2, 0.0)):
    steps = np.linspace(0.0, 0.3, 6)[1:, None] * np.eye(7)[0]
    return ActionChunk(
        obs_stamp_ns=0,
        generation=1,
        dt_ns=200_000_000,
        actions_HD=np.zeros((5, 2)),
        tokens_HD=np.zeros((5, 2), np.int32),
        confidence_HD=np.stack([np.ones(5), confidence], axis=1).astype(np.float32),
        joint_positions_HJ=ROBOT.home + steps,
        terminate_H=np.zeros(5, bool),
        plan="grasp x=0.3 m",
    )


def output(**changes):
    zeros = np.zeros(7)
    values = {
        "stamp_ns": 0,
        "positions_J": ROBOT.home.copy(),
        "velocities_J": zeros,
        "accelerations_J": zeros,
        "state": ControlState.ACTING,
        "code": StatusCode.ACTING,
        "warnings": (),
        "generation": 1,
        "is_commanded": True,
        "task_done": False,
        "action_D": None,
    }
    return ControlOutput(**{**values, **changes})


def by_namespace(array):
    return {marker.ns: marker for marker in array.markers}


def xyz(point):
    return np.array([point.x, point.y, point.z])


def test_the_path_leads_from_the_robot_through_every_step():
    markers = by_namespace(MarkerBuilder(ROBOT).path(chunk(), ROBOT.home, 3_000_000_005))
    line, dots = markers["path"], markers["steps"]
    assert line.type == Marker.LINE_STRIP and line.header.frame_id == ROBOT.base_frame and line.header.stamp.nanosec == 5
    np.testing.assert_allclose(xyz(line.points[0]), KINEMATICS.fk(ROBOT.home)[0], atol=1e-12)
    for step_J, dot in zip(chunk().joint_positions_HJ, dots.points, strict=True):
        expected = KINEMATICS.fk(step_J)[0]
        np.testing.assert_allclose(xyz(dot), expected, atol=1e-12)
        assert min(np.linalg.norm(xyz(p) - expected) for p in line.points) < 1e-12
    assert len(line.colors) == len(line.points) and len(dots.colors) == len(dots.points)


def test_the_least_confident_dimension_colours_a_step():
    dots = by_namespace(MarkerBuilder(ROBOT).path(chunk(), None, 0))["steps"]
    greens, reds = [c.g for c in dots.colors], [c.r for c in dots.colors]
    assert greens == sorted(greens, reverse=True) and reds == sorted(reds)
    assert (reds[0], greens[0]) == (0.0, 1.0) and (reds[-1], greens[-1]) == (1.0, 0.0)


@pytest.mark.parametrize("confidence", [-1.0, 0.0, 0.25, 0.5, 1.0, 2.0])
def test_colours_stay_colours(confidence):
    colour = confidence_colour(confidence)
    assert all(0.0 <= value <= 1.0 for value in (colour.r, colour.g, colour.b, colour.a)) and max(colour.r, colour.g) == 1.0


def test_the_words_and_the_least_confidence_are_shown_until_the_chunk_is_over():
    words = by_namespace(MarkerBuilder(ROBOT).path(chunk(), None, 0))["plan"]
    assert "grasp x=0.3 m" in words.text and "0%" in words.text
    assert words.lifetime.sec + words.lifetime.nanosec * 1e-9 >= 1.0


def test_the_box_is_the_workspace_and_turns_red_when_it_is_left():
    builder = MarkerBuilder(ROBOT)
    box = by_namespace(builder.state(output(), 0))["workspace"]
    corners = np.array([xyz(p) for p in box.points])
    assert len(corners) == 24
    np.testing.assert_array_equal(corners.min(axis=0), ROBOT.workspace_min)
    np.testing.assert_array_equal(corners.max(axis=0), ROBOT.workspace_max)
    left = by_namespace(builder.state(output(state=ControlState.HOLDING, code=StatusCode.WORKSPACE), 0))
    assert left["workspace"].color.r > 0.8 > box.color.r and StatusCode.WORKSPACE.sentence in left["status"].text


def test_a_joint_near_its_limit_is_named_and_forgotten_when_it_is_away():
    builder, near = MarkerBuilder(ROBOT), ROBOT.home.copy()
    near[0] = ROBOT.limits.position_max[0] - 0.01
    limits = by_namespace(builder.state(output(positions_J=near), 0))["limits"]
    assert limits.action == Marker.ADD and limits.text == f"{ROBOT.joint_names[0]}: 0.010 from its limit"
    assert by_namespace(builder.state(output(), 0))["limits"].action == Marker.DELETE


class FakePublisher:
    def __init__(self, subscribers):
        self.subscribers, self.sent = subscribers, []

    def get_subscription_count(self):
        return self.subscribers

    def publish(self, message):
        assert isinstance(message, MarkerArray)
        self.sent.append(message)


def test_nothing_is_made_while_nobody_looks():
    publisher = FakePublisher(0)
    markers = MarkerPublisher(ROBOT, publisher, lambda: 0)
    markers.show_state(output())
    markers.show_chunk(chunk())
    assert publisher.sent == []
    publisher.subscribers = 1
    markers.show_chunk(replace(chunk(), plan=""))
    np.testing.assert_allclose(xyz(publisher.sent[0].markers[0].points[0]), KINEMATICS.fk(ROBOT.home)[0], atol=1e-12)


def test_a_running_node_publishes_them(make_rig):
    from vla_ros.ros import qos

    rig, seen = make_rig(), []
    rig.robot.run(lambda: rig.robot.node.create_subscription(MarkerArray, "vla_policy/markers", seen.append, qos.EVENTS))
    rig.start()
    rig.until(lambda: {m.ns for array in seen for m in array.markers} >= {"path", "steps", "plan", "workspace", "status"}, "markers come")
