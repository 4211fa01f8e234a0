# SPDX-License-Identifier: Apache-2.0
"""Compressed pictures of rows 19 and 20 over DDS: a node of its own."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest

pytestmark = pytest.mark.ros


def pixels(message):
    return np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)


def test_rows_19_and_20_corrupt_pictures_and_bombs_are_dropped(make_rig):
    import cv2
    from sensor_msgs.msg import CompressedImage

    rig = make_rig(cameras__transport="compressed")
    publishers = {n: rig.robot.node.create_publisher(CompressedImage, f"{n}/image_raw/compressed", 1) for n in ("front", "wrist")}
    damage = [lambda data: data]

    def compress(name, message):
        packed = CompressedImage(format="jpeg", data=damage[0](cv2.imencode(".jpg", pixels(message))[1].tobytes()))
        packed.header = message.header
        publishers[name].publish(packed)

    rig.robot.alter_image = compress
    rig.start()
    for harm, code in ((lambda data: data[: len(data) // 2], "image_corrupt"), (lambda _: bomb(), "image_too_large")):
        damage[0] = harm
        rig.until_code("IMAGE_LOST")
        rig.until(lambda c=code: rig.node.session.link.figures().get(f"image_dropped.front.{c}"), f"{code} is counted")
        damage[0] = lambda data: data
        rig.until_code("ACTING")


def bomb():
    """A PNG of a few bytes that claims 3.6 gigapixels."""
    parts = ((b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b""))
    chunks = b"".join(struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts)
    return b"\x89PNG\r\n\x1a\n" + chunks
