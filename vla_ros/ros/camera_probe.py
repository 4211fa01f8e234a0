# SPDX-License-Identifier: Apache-2.0
"""Counts how many pictures of a camera arrive from one process in another: the check that ``vla doctor`` makes.

Run as a module it prints the share of 640x480 rgb8 pictures at 30 Hz that arrived, 0 to 1.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

from vla_ros.ros.transport import use_fastdds_profile

TOPIC = "vla_doctor/image_raw"
PICTURES = 60
RATE_HZ = 30.0
HEIGHT, WIDTH = 480, 640
DISCOVERY_LIMIT_S = 10.0
PUBLISH = "publish"


def main(argv: list[str] | None = None) -> int:
    """Subscribes, starts a publisher as a child process, prints the share that arrived; 1 if nothing did."""
    arguments = sys.argv[1:] if argv is None else argv
    use_fastdds_profile()
    os.environ["ROS_DOMAIN_ID"] = os.environ.get("ROS_DOMAIN_ID", str(150 + os.getpid() % 80))
    if arguments == [PUBLISH]:
        return publish()
    received = receive()
    sys.stdout.write(f"{received / PICTURES:.3f}\n")
    return int(received == 0)


def receive() -> int:
    """How many pictures arrived until the publisher ended."""
    import rclpy
    from sensor_msgs.msg import Image

    from vla_ros.ros.qos import SENSOR

    rclpy.init()
    node = rclpy.create_node("vla_doctor_receiver")
    stamps: list[int] = []
    node.create_subscription(Image, TOPIC, lambda message: stamps.append(message.header.stamp.nanosec), SENSOR)
    publisher = subprocess.Popen([sys.executable, "-m", __spec__.name if __spec__ else __name__, PUBLISH])
    try:
        while publisher.poll() is None:
            rclpy.spin_once(node, timeout_sec=0.1)
        rclpy.spin_once(node, timeout_sec=0.2)
    finally:
        publisher.kill()
        publisher.wait()
        node.destroy_node()
        rclpy.shutdown()
    return len(stamps)


def publish() -> int:
    """Waits for a subscriber, then sends the pictures at their rate."""
    import rclpy
    from sensor_msgs.msg import Image

    from vla_ros.ros.qos import SENSOR

    rclpy.init()
    node = rclpy.create_node("vla_doctor_publisher")
    publisher = node.create_publisher(Image, TOPIC, SENSOR)
    message = Image(height=HEIGHT, width=WIDTH, encoding="rgb8", step=3 * WIDTH)
    message.data = bytes(3 * WIDTH * HEIGHT)
    limit = time.monotonic() + DISCOVERY_LIMIT_S
    while publisher.get_subscription_count() == 0 and time.monotonic() < limit:
        time.sleep(0.02)
    time.sleep(0.2)  # both sides of the match
    deadline = time.monotonic()
    for _ in range(PICTURES):
        message.header.stamp = node.get_clock().now().to_msg()
        publisher.publish(message)
        deadline += 1 / RATE_HZ
        time.sleep(max(0.0, deadline - time.monotonic()))
    time.sleep(0.2)
    node.destroy_node()
    rclpy.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
