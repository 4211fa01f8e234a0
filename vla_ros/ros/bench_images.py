# SPDX-License-Identifier: Apache-2.0
"""Sends or receives pictures over whatever transport the environment chooses. Started by ``vla bench transport``.

``receive``: subscribes, answers ``ready``, and answers each order ``count`` with the stamps and the latencies since the last one.
``send COUNT RATE_HZ``: waits for a subscriber, sends, and answers how many it sent.
"""

from __future__ import annotations

import sys
import threading
import time

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import Image

from vla_ros.ros import qos
from vla_ros.ros.answers import reply
from vla_ros.ros.sim_messages import image_message, time_message
from vla_ros.ros.stamps import stamp_to_ns

TOPIC = "vla_bench/image_raw"
HEIGHT, WIDTH = 480, 640
DISCOVERY_LIMIT_S = 20.0


def main(argv: list[str] | None = None) -> int:
    """Returns 0, or 1 if nobody subscribed."""
    words = sys.argv[1:] if argv is None else argv
    rclpy.init()
    try:
        return receive() if words == ["receive"] else send(int(words[1]), float(words[2]))
    finally:
        rclpy.try_shutdown()


def receive() -> int:
    """Notes when each picture came, until the input ends. As the worker does it takes the newest only, best effort."""
    node = rclpy.create_node("vla_bench_receiver")
    latencies_ns: list[int] = []
    node.create_subscription(Image, TOPIC, lambda message: latencies_ns.append(time.time_ns() - stamp_to_ns(message.header.stamp)), qos.SENSOR)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    ended = threading.Event()

    def obey() -> None:
        for _ in sys.stdin:
            count = len(latencies_ns)
            reply(latencies_ns=latencies_ns[:count])
            del latencies_ns[:count]
        ended.set()
        executor.wake()

    reply(ready=True)
    threading.Thread(target=obey, daemon=True).start()
    while not ended.is_set():
        executor.spin_once(timeout_sec=0.5)
    node.destroy_node()
    return 0


def send(count: int, rate_hz: float) -> int:
    """Sends pictures by absolute deadlines after both sides have found each other."""
    node = rclpy.create_node("vla_bench_sender")
    publisher = node.create_publisher(Image, TOPIC, qos.SENSOR)
    limit = time.monotonic() + DISCOVERY_LIMIT_S
    while publisher.get_subscription_count() == 0:
        if time.monotonic() > limit:
            reply(error=f"nobody subscribed within {DISCOVERY_LIMIT_S:.0f} s")
            return 1
        time.sleep(0.02)
    time.sleep(0.5)  # the other side has to have found this one, too
    message = image_message(np.zeros((HEIGHT, WIDTH, 3), np.uint8), time_message(0), "camera")
    deadline = time.monotonic()
    for _ in range(count):
        message.header.stamp = time_message(time.time_ns())
        publisher.publish(message)
        deadline += 1.0 / rate_hz
        time.sleep(max(deadline - time.monotonic(), 0.0))
    time.sleep(0.3)  # the last one is on its way
    reply(sent=count)
    node.destroy_node()
    return 0


if __name__ == "__main__":
    sys.exit(main())
