# SPDX-License-Identifier: Apache-2.0
"""Messages without a stamp that waited in the middleware (FAULTS row 27 while nobody looks), and the emergency stop's path."""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import pytest

from vla_ros.core import tabletop
from vla_ros.ros.polled import PolledSubscription

pytestmark = pytest.mark.ros


@pytest.fixture
def node(context):
    import rclpy

    made = rclpy.create_node("reader")
    yield made
    made.destroy_node()


def publish(node, subscription_topic, message, profile):
    """Publishes once the reader is connected."""
    publisher = node.create_publisher(type(message), subscription_topic, profile)
    deadline = time.monotonic() + 10.0
    while publisher.get_subscription_count() == 0:
        assert time.monotonic() < deadline, "not connected"
        time.sleep(0.005)
    publisher.publish(message)
    return publisher


def test_a_message_that_nobody_looked_at_shows_how_long_it_has_waited(node, wait_until):
    from std_msgs.msg import String

    from vla_ros.ros import qos

    subscription = PolledSubscription(node, String, "words", qos.COMMAND)
    publish(node, "words", String(data="old"), qos.COMMAND)
    time.sleep(0.3)
    message = wait_until(subscription.take, "the message is here")
    assert message.data == "old" and subscription.waited_ns > 200_000_000


def test_it_cannot_have_come_before_the_last_look():
    """A middleware that does not tell when, and a system clock that was set meanwhile."""
    assert PolledSubscription._waited_ns({"received_timestamp": 0}, 40) == 40
    assert PolledSubscription._waited_ns({"received_timestamp": 1}, 40) == 40
    assert PolledSubscription._waited_ns({"received_timestamp": time.time_ns() + 10**12}, 40) == 0


def front_camera(**limits_ns):
    """What `RosCameras` reads of its settings, for one raw camera on /front."""
    return SimpleNamespace(
        use_sim_time=False, clock_offset_ns=None, transport="raw", cameras=[SimpleNamespace(name="front", topic="/front")], max_pixels=10**6, **limits_ns
    )


@pytest.mark.parametrize("waits_s, is_used", [(0.0, True), (0.6, False)])
def test_an_unstamped_picture_from_before_an_idle_time_is_not_fresh(node, wait_until, waits_s, is_used):
    from sensor_msgs.msg import Image

    from vla_ros.ros import qos
    from vla_ros.ros.cameras import RosCameras

    cameras = RosCameras(node, front_camera(max_image_age_ns=500_000_000, max_future_ns=10_000_000, frozen_timeout_ns=10**10), tabletop.CAMERAS[:1])
    picture = Image(height=128, width=128, encoding="rgb8", step=384, data=np.full(128 * 384, 90, np.uint8).tobytes())
    publisher = publish(node, "/front", picture, qos.SENSOR_SOURCE)
    if waits_s:
        time.sleep(waits_s)  # the camera hangs after its only picture, and nobody infers

    def look():
        if is_used:
            publisher.publish(picture)
        frames = cameras.frames()
        return frames or cameras.drops.counts.get("front.stamp_old")

    wait_until(look, "the picture was looked at")
    assert ("front" in cameras.frames()) == is_used


def test_a_camera_that_loses_pictures_is_noticed_and_said(node, wait_until, capfd):
    """Every second picture is left out, as by a transport without room."""
    from sensor_msgs.msg import Image

    from vla_ros.ros import qos
    from vla_ros.ros.cameras import RosCameras

    cameras = RosCameras(node, front_camera(max_image_age_ns=10**12, max_future_ns=10**12, frozen_timeout_ns=10**12), tabletop.CAMERAS[:1])
    picture = Image(height=32, width=32, encoding="rgb8", step=96, data=bytes(96 * 32))
    publisher = publish(node, "/front", picture, qos.SENSOR_SOURCE)

    start_ns = time.time_ns()

    def send(stamps):
        for n in stamps:
            picture.header.stamp.sec, picture.header.stamp.nanosec = divmod(start_ns + n * 10**10, 10**9)  # of a slow camera: this machine may be busy
            before = cameras.frames().get("front")
            publisher.publish(picture)
            wait_until(lambda before=before: cameras.frames().get("front") is not before, "the picture is there", 5.0)

    send(range(1, 30))
    assert "front.lost" not in cameras.drops.counts
    send(range(31, 91, 2))
    assert cameras.drops.counts["front.lost"] == 30
    said = capfd.readouterr().err
    assert said.count("camera 'front' loses pictures") == 1 and "Fast DDS profile" in said


def test_every_emergency_stop_counts_and_none_waits_for_an_executor(node, wait_until):
    """Press and release between two periods: no executor spins here at all."""
    from std_msgs.msg import Bool

    from vla_ros.ros import qos
    from vla_ros.ros.clock import PolledClock
    from vla_ros.ros.diagnostics import DropCounter
    from vla_ros.ros.robot_inputs import RobotInputs

    heard = []
    loop = SimpleNamespace(set_e_stop=heard.append)
    inputs = RobotInputs(
        node, tabletop.JOINT_NAMES, PolledClock(node, False), max_age_ns=10**9, max_future_ns=0, drops=DropCounter(), say=lambda _: None
    )
    publisher = publish(node, "e_stop", Bool(data=True), qos.COMMAND)
    publisher.publish(Bool(data=False))

    def apply():
        inputs.apply(loop, 0)
        return len(heard) >= 2

    wait_until(apply, "both messages came")
    assert heard == [True, False]
    inputs.close()


def test_bytes_that_are_no_message_are_never_read_as_one(node, wait_until):
    from sensor_msgs.msg import JointState

    from vla_ros.core.errors import InputError
    from vla_ros.ros import qos

    subscription = PolledSubscription(node, JointState, "joints", qos.SENSOR)
    publisher = publish(node, "joints", JointState(name=["a"]), qos.SENSOR_SOURCE)
    wait_until(subscription.take, "a whole message is read")
    publisher.publish(b"\x00\x01\x00\x00" + b"\xff" * 40)  # a frame_id of four gigabytes
    time.sleep(0.2)
    publisher.publish(JointState(name=["b"]))

    def take():
        """Some middlewares refuse bad bytes with an error, some in silence; none makes a message of them."""
        try:
            return subscription.take()
        except InputError as error:
            assert error.code == "message_damaged"

    assert wait_until(take, "the next one is read").name == ["b"]
