# SPDX-License-Identifier: Apache-2.0
"""What was going on before the node latched is in a file afterwards."""

from __future__ import annotations

import subprocess
import sys

import pytest

from vla_ros.flight_ring import FlightRing
from vla_ros.recording import Recording
from vla_ros.ros.flight_recorder import FlightTrigger

_S = 1_000_000_000


def test_a_stop_is_written_once_and_after_its_end():
    trigger = FlightTrigger(aftermath_s=1.0)
    trigger.note("acting", "ACTING", 0.0)
    assert not trigger.is_due(10.0)
    trigger.note("latched", "E_STOP", 10.0)
    trigger.note("latched", "E_STOP", 10.5)
    assert [trigger.is_due(t) for t in (10.9, 11.1, 11.2)] == [False, True, False] and trigger.reason == "E_STOP"
    trigger.note("fault", "INTERNAL_ERROR", 12.0)
    assert not trigger.is_due(20.0), "one stop is one flight, whatever follows"
    trigger.note("idle", "IDLE", 30.0)
    trigger.note("fault", "INTERNAL_ERROR", 31.0)
    assert trigger.is_due(32.1) and trigger.reason == "INTERNAL_ERROR"


@pytest.mark.parametrize("max_bytes, kept", [(10**6, 31), (200, 20)])
def test_only_the_newest_messages_are_kept(max_bytes, kept):
    ring = FlightRing(30.0, max_bytes)
    ring.open_topic("/a", "std_msgs/msg/String", "string data")
    for second in range(100):
        ring.write("/a", b"0123456789", second * _S)
    assert len(ring) == kept


def test_a_dump_is_a_recording_of_what_is_kept_and_keeps_it(tmp_path):
    ring = FlightRing(30.0)
    ring.open_topic("/a", "std_msgs/msg/String", "string data")
    ring.open_topic("/silent", "std_msgs/msg/String", "string data")
    cdr = b"\x00\x01\x00\x00" + (3).to_bytes(4, "little") + b"hi\x00"
    for second in range(100):
        ring.write("/a", cdr, second * _S)
    assert ring.dump(tmp_path / "flights" / "one.mcap", {"flight.json": "{}"}) == {"/a": 31}
    recording = Recording(tmp_path / "flights" / "one.mcap")
    messages = list(recording.messages())
    assert [time_ns for _, time_ns, _ in messages] == [s * _S for s in range(69, 100)]
    assert messages[0][2].data == "hi" and recording.attachments == {"flight.json": "{}"}
    assert len(ring) == 31


@pytest.mark.ros
def test_an_emergency_stop_leaves_a_file_with_what_came_before(make_rig, tmp_path):
    rig = make_rig()
    command = [sys.executable, "-m", "vla_ros.ros.flight_recorder", "--folder", str(tmp_path)]
    recorder = subprocess.Popen(command)
    try:
        robot = rig.start()
        count = rig.robot.node.count_subscribers
        rig.until(lambda: count("command") > 1 and count("joint_states") > 1 and count("vla_policy/action_tokens") > 1, "it records", 30.0)
        rig.until(lambda: count("instruction") > 1, "it hears instructions", 30.0)
        robot.instruct("push the other cube")  # the first one was given before it listened
        tokens = len(robot.tokens)
        rig.until(lambda: len(robot.tokens) > tokens + 3, "the robot acts")
        robot.press_e_stop(True)
        rig.until_code("E_STOP")
        rig.until(lambda: list(tmp_path.glob("flight_*_e_stop.mcap")), "the file is there", 30.0)
        rig.until(lambda: complete(tmp_path), "it is whole")
    finally:
        recorder.terminate()
        recorder.wait()
    topics = {topic for topic, _, _ in Recording(complete(tmp_path)).messages()}
    assert {"/command", "/joint_states", "/instruction", "/e_stop", "/vla_policy/status", "/vla_policy/action_tokens"} <= topics


def complete(folder):
    """The only flight, once its end is written."""
    (path,) = folder.glob("flight_*.mcap")
    recording = Recording(path)
    list(recording.messages())
    return path if recording.is_complete else None
