# SPDX-License-Identifier: Apache-2.0
"""Camera images survive the transport with the shipped Fast DDS profile."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from vla_ros.ros import transport

_COUNT = 90
_SENDER = """
import sys, time, numpy as np, rclpy
from sensor_msgs.msg import Image
from vla_ros.ros import qos
from vla_ros.ros.sim_messages import image_message, time_message
rclpy.init()
node = rclpy.create_node("sender")
publisher = node.create_publisher(Image, "image", qos.SENSOR)
while publisher.get_subscription_count() == 0:
    time.sleep(0.01)
picture = np.zeros((480, 640, 3), np.uint8)
due = time.monotonic()
for number in range(int(sys.argv[1])):
    publisher.publish(image_message(picture, time_message(number + 1), "camera"))
    due += 1 / 30
    time.sleep(max(0.0, due - time.monotonic()))
time.sleep(1.0)
"""


def test_the_profile_has_room_for_images_and_keeps_udp():
    root = ET.parse(transport.profile_path()).getroot()
    text = {element.tag.split("}")[1]: (element.text or "").strip() for element in root.iter() if "}" in element.tag}
    assert int(text["segment_size"]) >= 5 * int(text["maxMessageSize"]) >= 5 * 640 * 480 * 3
    types = [e.text for e in root.iter() if e.tag.endswith("}type")]
    assert types == ["SHM", "UDPv4"] and text["useBuiltinTransports"] == "false"


@pytest.fixture
def no_choice(monkeypatch):
    """An environment without a profile; whatever the test sets is undone."""
    for name in transport.PROFILE_VARIABLES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_a_profile_that_the_user_chose_is_kept(no_choice, monkeypatch):
    monkeypatch.setenv("FASTRTPS_DEFAULT_PROFILES_FILE", "/theirs.xml")
    assert transport.use_fastdds_profile() == "/theirs.xml"
    assert os.environ["FASTDDS_DEFAULT_PROFILES_FILE"] == "/theirs.xml"


def test_without_a_choice_the_shipped_profile_is_used(no_choice):
    assert transport.use_fastdds_profile() == str(transport.profile_path())
    assert all(os.environ[name] == str(transport.profile_path()) for name in transport.PROFILE_VARIABLES)


@pytest.mark.ros
def test_images_of_640_by_480_arrive(context):
    """The built-in transports lose more than half of these; the profile's own losses are a few in a hundred."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from sensor_msgs.msg import Image

    from vla_ros.ros import qos

    node, seen = rclpy.create_node("receiver"), []
    node.create_subscription(Image, "image", lambda message: seen.append(message.header.stamp.nanosec), qos.SENSOR)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    sender = subprocess.Popen([sys.executable, "-c", _SENDER, str(_COUNT)])
    try:
        deadline = time.monotonic() + 60.0
        while sender.poll() is None and time.monotonic() < deadline:
            executor.spin_once(timeout_sec=0.1)
        assert sender.returncode == 0
        assert (np.diff(seen) > 0).all()
        assert len(seen) >= 0.8 * _COUNT, f"{len(seen)} of {_COUNT} images arrived"
    finally:
        executor.shutdown(timeout_sec=1.0)
        node.destroy_node()
