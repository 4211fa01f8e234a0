# SPDX-License-Identifier: Apache-2.0
"""Pictures converted by cv_bridge are those converted without it, bit for bit. cv_bridge is a ROS package: where it is not installed only the
choice is tested."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from vla_ros.core.errors import InputError
from vla_ros.ros import cv_bridge_images
from vla_ros.ros.cv_bridge_images import BridgedImages, different_encodings, image_conversion
from vla_ros.ros.images import ENCODINGS, image_to_rgb


def needs_cv_bridge():
    pytest.importorskip("cv_bridge", reason="cv_bridge is not installed (ROS package)")
    if problem := cv_bridge_images.problem():
        pytest.skip(f"the installed cv_bridge is not used: {problem}")


def message(name, *, height=30, width=42, padding=0, big=0, seed=0):
    encoding = ENCODINGS[name]
    step = width * encoding.channels * np.dtype(encoding.dtype).itemsize + padding
    data = np.random.default_rng(seed).integers(0, 256, height * step, dtype=np.uint8).tobytes()
    return SimpleNamespace(height=height, width=width, encoding=name, is_bigendian=big, step=step, data=data)


def test_every_encoding_is_the_same_bit_for_bit():
    needs_cv_bridge()
    for name, big, padding, seed in itertools.product(ENCODINGS, (0, 1), (0, 1, 4, 12), range(3)):
        sent = message(name, big=big, padding=padding, seed=seed)
        np.testing.assert_array_equal(
            BridgedImages().convert(sent), image_to_rgb(sent), err_msg=f"{name}, big endian {big}, padding {padding}"
        )


def test_every_16_bit_value_is_the_same():
    needs_cv_bridge()
    for name in ("mono16", "rgb16"):
        sent = message(name, height=256, width=256)
        sent.data = np.repeat(np.arange(65536, dtype="<u2"), ENCODINGS[name].channels).tobytes()
        np.testing.assert_array_equal(BridgedImages().convert(sent), image_to_rgb(sent))


def test_what_is_refused_without_it_is_refused_with_it():
    convert = BridgedImages().convert  # checks come first: no cv_bridge is needed to refuse
    for change, code in (({"step": 1}, "image_step"), ({"data": b""}, "image_data"), ({"encoding": "32FC1"}, "image_encoding")):
        with pytest.raises(InputError) as caught:
            convert(SimpleNamespace(**{**vars(message("bgr8")), **change}))
        assert caught.value.code == code


def test_it_converts_what_is_interpolated_and_nothing_else(monkeypatch):
    bridged = []
    monkeypatch.setattr(BridgedImages, "convert", lambda self, sent, max_pixels: bridged.append(sent.encoding))
    for name in ENCODINGS:
        BridgedImages()(message(name))
    assert len(bridged) == 12 and all("bayer" in name or "yu" in name or "uy" in name for name in bridged)


def test_a_conversion_that_differs_is_found():
    def darker(sent):
        return image_to_rgb(sent) - (sent.encoding == "bgr8")

    assert different_encodings(image_to_rgb) == [] and different_encodings(darker) == ["bgr8"]


def test_a_cv_bridge_that_cannot_be_used_is_left_alone_with_its_reason(tmp_path, monkeypatch):
    """One that ends its process, as a build for another NumPy does, and one that makes other pictures."""
    for body, reason in (
        ("import os; os.kill(os.getpid(), 11)", "another NumPy"),
        (
            "import numpy\nclass CvBridge:\n    def imgmsg_to_cv2(self, m, e): return numpy.zeros((m.height, m.width, 3), 'u1')",
            "other pictures of rgb8, bgr8",
        ),
    ):
        folder = tmp_path / str(len(body))
        folder.mkdir()
        (folder / "cv_bridge.py").write_text(body)
        monkeypatch.setenv("PYTHONPATH", str(folder))
        monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
        importlib.invalidate_caches()
        cv_bridge_images.problem.cache_clear()
        convert, why_not = image_conversion()
        assert convert is image_to_rgb and reason in why_not
    cv_bridge_images.problem.cache_clear()


@pytest.mark.skipif(importlib.util.find_spec("cv_bridge") is not None, reason="cv_bridge is installed")
def test_without_cv_bridge_nothing_is_said():
    assert image_conversion() == (image_to_rgb, "")
