# SPDX-License-Identifier: Apache-2.0
"""Faults at a running node: every one stops it, and it comes back."""

from __future__ import annotations

import json
import subprocess

import pytest

from vla_ros.processes import vla_command

pytestmark = [pytest.mark.ros, pytest.mark.slow]


def test_every_fault_begins_a_stop_and_a_killed_inference_process_is_replaced(tmp_path):
    pytest.importorskip("rclpy")
    path = tmp_path / "stops.json"
    subprocess.run(vla_command("bench", "stops", "--stops", "1", "--json", str(path)), check=True, timeout=300)  # rclpy in a process of its own
    found = {(row["name"], row["metric"]): row for row in json.loads(path.read_text())["results"]}
    assert {name for name, metric in found if metric == "stop_begins"} == {"e-stop", "joint states end", "pictures end", "inference killed"}
    assert all(row["n"] == 1 and row["max"] > 0 for row in found.values())
    stopped, back = (found["inference killed", metric] for metric in ("stop_begins", "back_in_operation"))
    assert back["max"] > stopped["max"] and back["limit"] == {"max": 5000.0}
    assert found["e-stop", "stop_begins"]["limit"] == {"max": 20.0}
