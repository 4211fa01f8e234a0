# SPDX-License-Identifier: Apache-2.0
"""Pictures of rows 13 to 18 over DDS. That each conversion is exact is tested in ``test/ros/test_images.py``."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.ros


def pixels(message):
    return np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)


def send_as(message, encoding, data, channels, big=False):
    message.encoding, message.is_bigendian = encoding, int(big)
    message.step = message.width * channels * data.dtype.itemsize
    message.data = data.tobytes()


ENCODERS = {
    "bgr8": lambda m, p: send_as(m, "bgr8", np.ascontiguousarray(p[..., ::-1]), 3),
    "rgba8": lambda m, p: send_as(m, "rgba8", np.dstack([p, np.full(p.shape[:2], 255, np.uint8)]), 4),
    "bgra8": lambda m, p: send_as(m, "bgra8", np.dstack([p[..., ::-1], np.full(p.shape[:2], 255, np.uint8)]), 4),
    "mono8": lambda m, p: send_as(m, "mono8", np.ascontiguousarray(p[..., 1]), 1),
    "mono16": lambda m, p: send_as(m, "mono16", p[..., 1].astype("<u2") * 257, 1),
    "bayer_rggb8": lambda m, p: send_as(m, "bayer_rggb8", np.ascontiguousarray(p[..., 1]), 1),
    "rgb16": lambda m, p: send_as(m, "rgb16", p.astype("<u2") * 257, 3),
}


def goes_on(rig, count=4):
    before, drops = len(rig.robot.tokens), dropped(rig)
    rig.until(lambda: len(rig.robot.tokens) > before + count, "inference goes on")
    assert dropped(rig) == drops and rig.robot.state == "acting"


def dropped(rig):
    return {k: v for k, v in rig.node.session.link.figures().items() if k.startswith("image_dropped.") and "stamp_old" not in k}


def holds(rig, code):
    """Dropped and counted by its reason; the robot holds without a picture, and goes on after good ones."""
    rig.until_code("IMAGE_LOST")
    assert "camera '" in rig.robot.statuses[-1]["detail"]  # which one, for whoever has to mend it
    rig.until_at_rest()
    rig.until(lambda: rig.node.session.link.figures().get(f"image_dropped.front.{code}"), f"{code} is counted")
    rig.robot.alter_image = lambda _, __: None
    rig.until_code("ACTING")


@pytest.mark.parametrize("encoding", ENCODERS)
def test_row_13_other_encodings_are_converted(rig, encoding):
    rig.go()
    rig.robot.alter_image = lambda _, message: ENCODERS[encoding](message, pixels(message))
    goes_on(rig)


def test_row_14_padded_rows_are_read_by_their_stride(rig):
    rig.go()

    def pad(_, message):
        picture = pixels(message)
        message.step += 20
        message.data = np.pad(picture.reshape(message.height, -1), ((0, 0), (0, 20))).tobytes()

    rig.robot.alter_image = pad
    goes_on(rig)


def test_row_15_a_step_smaller_than_the_row_is_dropped(rig):
    rig.go()

    def shrink(_, message):
        message.step -= 1

    rig.robot.alter_image = shrink
    holds(rig, "image_step")


def test_row_16_data_that_is_too_short_is_dropped(rig):
    rig.go()

    def cut(_, message):
        message.data = message.data[:-1]

    rig.robot.alter_image = cut
    holds(rig, "image_data")


@pytest.mark.parametrize("side", ["width", "height"])
def test_row_17_no_pixels_are_dropped(rig, side):
    rig.go()
    rig.robot.alter_image = lambda _, message: setattr(message, side, 0)
    holds(rig, "image_empty")


def test_row_18_big_endian_16_bit_is_swapped(rig):
    rig.go()
    rig.robot.alter_image = lambda _, message: send_as(message, "rgb16", pixels(message).astype(">u2") * 257, 3, big=True)
    goes_on(rig)
