# SPDX-License-Identifier: Apache-2.0
"""``vla demo --sim gazebo``: the shipped policy drives the arm in Gazebo through both nodes, and Gazebo's ground truth decides."""

from __future__ import annotations

import json
import subprocess

import pytest

from vla_ros.processes import vla_command

pytestmark = [pytest.mark.gazebo, pytest.mark.ros, pytest.mark.slow]


def test_the_demo_succeeds_in_gazebo(tmp_path):
    pytest.importorskip("zmq", reason="needs pyzmq (extra gazebo)")
    pytest.importorskip("rclpy")
    options = ("--sim", "gazebo", "--instruction", "move to the red cube", "--no-video", "--out", str(tmp_path))
    done = subprocess.run(vla_command("demo", *options), capture_output=True, text=True, timeout=230)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["success"] is True and report["simulator"] == "gazebo"
