# SPDX-License-Identifier: Apache-2.0
"""``vla record`` beside a running node, and ``vla replay`` of what it wrote."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("mcap_ros2")


def start_recorder(path, *arguments):
    command = [sys.executable, "-m", "vla_ros.cli", "record", "--out", str(path), *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def stop_recorder(recorder):
    recorder.send_signal(signal.SIGINT)
    _, log = recorder.communicate(timeout=20.0)
    assert recorder.returncode == 0, log
    return log


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, shared_rig):
    """A recording of instructions, a stop, a resume and a deactivation, begun while the active robot stood still."""
    rig, path = shared_rig, tmp_path_factory.mktemp("recordings") / "some.mcap"
    robot = rig.robot
    assert rig.activate() == "active"
    loop = rig.node.session.loop
    recorder = start_recorder(path, "--sent-images")
    rig.until(lambda: loop.wanted, "the recorder listens", 30.0)
    time.sleep(1.0)  # it also finds the topics of the inference process
    rig.go("first")
    time.sleep(1.0)
    robot.instruct("second")
    rig.until(lambda: robot.plans and robot.code == "ACTING", "the second is followed")
    rig.run(lambda: rig.node.session.runner.call(lambda loop, _: loop.stop()))
    rig.until_code("STOPPED")
    rig.until(rig.resume, "it resumes")
    rig.until(lambda: robot.code == "ACTING", "it goes on")
    time.sleep(0.5)
    rig.run(rig.node.trigger_deactivate)
    time.sleep(0.5)
    stop_recorder(recorder)
    return path


def replay(path, *arguments):
    report = path.with_suffix(".json")
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "vla_ros.cli", "replay", str(path), "--json", str(report), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done, json.loads(report.read_text()) if report.exists() else None


def copy_recording(source, target, change):
    """A recording with ``change(topic, text)`` applied to every std_msgs/String; None leaves a message out."""
    from mcap.records import Attachment, Channel, Message, Schema
    from mcap.stream_reader import StreamReader
    from mcap.writer import Writer

    with source.open("rb") as stream, target.open("wb") as out:
        writer = Writer(out)
        writer.start(profile="ros2")
        schemas, channels = {}, {}
        for record in StreamReader(stream).records:
            if isinstance(record, Attachment):
                writer.add_attachment(0, record.log_time, record.name, record.media_type, record.data)
            elif isinstance(record, Schema) and record.id not in schemas:
                schemas[record.id] = (writer.register_schema(record.name, record.encoding, record.data), record.name)
            elif isinstance(record, Channel) and record.id not in channels:
                schema, kind = schemas[record.schema_id]
                channels[record.id] = (writer.register_channel(record.topic, record.message_encoding, schema), record.topic, kind)
            elif isinstance(record, Message):
                channel, topic, kind = channels[record.channel_id]
                data = record.data
                if kind == "std_msgs/msg/String":
                    text = change(topic, data[8:-1].rstrip(b"\0").decode())
                    if text is None:
                        continue
                    encoded = text.encode() + b"\0"
                    data = data[:4] + len(encoded).to_bytes(4, "little") + encoded
                writer.add_message(channel, record.log_time, data, record.publish_time)
        writer.finish()
    return target


def test_every_decision_and_tick_comes_out_bit_for_bit(recorded):
    done, report = replay(recorded)
    assert done.returncode == 0, done.stdout + done.stderr
    assert report["identical"] and report["is_complete"] and report["unexplained_chunks"] == 0
    for part in ("decisions", "control"):
        assert report[part]["recorded"] > 5 and report[part]["same"] == report[part]["recorded"], report[part]


def test_a_replay_needs_no_ros(recorded):
    program = (
        "import sys; from vla_ros.replay import main; code = main([sys.argv[1]]); "
        "assert code == 0 and not {'rclpy', 'torch', 'mujoco'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(recorded)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_the_file_is_what_ros_and_foxglove_read(recorded):
    """Profile, encodings and schema names of https://mcap.dev/spec/registry; every message is one that rclpy reads."""
    from mcap.reader import make_reader
    from rclpy.serialization import deserialize_message

    from vla_ros.ros.recorder import load_type

    with recorded.open("rb") as stream:
        reader = make_reader(stream)
        assert reader.get_header().profile == "ros2"
        for schema, channel, message in reader.iter_messages():
            assert schema.encoding == "ros2msg" and channel.message_encoding == "cdr"
            deserialize_message(message.data, load_type(schema.name))


EXPECTED = (
    "front/image_raw", "wrist/image_raw", "joint_states", "instruction", "command", "vla_policy/action", "vla_policy/action_tokens",
    "vla_policy/plan", "vla_policy/status", "vla_policy/tape", "vla_policy/decision", "vla_policy/decision/front",
    "vla_policy/decision/wrist", "diagnostics",
)  # fmt: skip


def test_everything_is_in_the_file(recorded):
    from vla_ros.recording import Recording

    recording, counts = Recording(recorded), {}
    for topic, _, message in recording.messages():
        counts[topic] = counts.get(topic, 0) + 1
        if topic == "/instruction":
            assert message.data in ("first", "second")
    missing = {f"/{topic}" for topic in EXPECTED} - set(counts)
    assert not missing and counts["/instruction"] == 2
    assert set(recording.attachments) == {"session.json", "manifest.yaml", "robot.yaml", "robot.urdf"}
    assert recording.session["parameters"]["control_rate_hz"] == 50.0


def test_a_decision_that_differs_by_one_bit_is_found(recorded, tmp_path):
    changed = []

    def change(topic, text):
        if topic == "/vla_policy/decision" and not changed:
            decision = json.loads(text)
            data = decision["answer"]["fields"]["joint_positions_HJ"]["data"]
            data[3] = data[3] + 1e-15
            changed.append(decision["decision"])
            return json.dumps(decision)
        return text

    done, report = replay(copy_recording(recorded, tmp_path / "changed.mcap", change))
    assert done.returncode == 1
    assert report["decisions"]["different"] == 1
    assert report["decisions"]["first_difference"].startswith(f"decision {changed[0]}, ") and "joint_positions_HJ[0, 3]" in done.stdout


def test_another_word_than_the_policy_heard_is_found(recorded, tmp_path):
    def change(topic, text):
        return (
            text.replace('"instruction":"second"', '"instruction":"something far too long ' + "x y " * 60 + '"')
            if topic.endswith("/decision")
            else text
        )

    done, report = replay(copy_recording(recorded, tmp_path / "words.mcap", change))
    assert done.returncode == 1 and report["decisions"]["different"] > 0
    assert "InstructionTooLong" in report["decisions"]["first_difference"]


def test_a_tick_that_differs_is_found_and_the_rest_still_repeated(recorded, tmp_path):
    changed = []

    def change(topic, text):
        if topic != "/vla_policy/tape" or changed:
            return text
        ticks = [json.loads(line) for line in text.splitlines()]
        for tick in ticks:
            put = [call for call in tick["calls"] if call[0] == "put_joints"]
            if put and tick["output"]["fields"]["state"]["name"] == "ACTING" and not changed:
                put[0][1][1]["data"][0] += 0.5  # the measured joint jumps
                changed.append(tick["tick"])
        return "\n".join(map(json.dumps, ticks))

    done, report = replay(copy_recording(recorded, tmp_path / "tick.mcap", change))
    assert done.returncode == 1 and report["control"]["different"] >= 1
    assert report["control"]["first_difference"].startswith(f"tick {changed[0]} at ")
    assert report["control"]["same"] > report["control"]["recorded"] // 2


def test_lost_ticks_are_skipped_until_the_next_whole_state(recorded, tmp_path):
    seen = []

    def change(topic, text):
        if topic == "/vla_policy/tape":
            seen.append(text)
            return None if len(seen) == 4 else text
        return text

    done, report = replay(copy_recording(recorded, tmp_path / "lost.mcap", change))
    control = report["control"]
    assert control["different"] == 0 and control["same"] + sum(control["skipped"].values()) == control["recorded"]
    assert 0 < sum(control["skipped"].values()) <= 60
    assert done.returncode == 0


def test_lost_decisions_are_said(recorded, tmp_path):
    def change(topic, text):
        return None if topic == "/vla_policy/decision" else text

    done, report = replay(copy_recording(recorded, tmp_path / "undecided.mcap", change))
    assert done.returncode == 1 and report["unexplained_chunks"] > 0 and "not in the recording" in done.stdout


def test_a_file_that_was_cut_short_is_repeated_as_far_as_it_goes(recorded, tmp_path):
    cut = tmp_path / "cut.mcap"
    data = recorded.read_bytes()
    cut.write_bytes(data[: len(data) * 3 // 4])
    _, report = replay(cut)
    assert not report["is_complete"] and report["control"]["same"] > 0 and report["control"]["different"] == 0


@pytest.mark.parametrize("content", [b"", b"not a recording at all", None])
def test_what_is_no_recording_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "no.mcap"
    if content is not None:
        path.write_bytes(content)
    done, _ = replay(path)
    assert done.returncode == 2 and "vla record" in done.stderr and len(done.stderr.splitlines()) == 1


def test_another_bundle_is_refused(recorded, tmp_path, make_bundle):
    other = make_bundle(tmp_path / "other", (0.0, 0.0, -0.05, 0.0, 0.0, 0.042))
    done, _ = replay(recorded, "--model", str(other))
    assert done.returncode == 2 and "recorded with the bundle tiny" in done.stderr


def test_recording_without_a_node_says_what_to_start(domain, tmp_path):
    recorder = start_recorder(tmp_path / "nothing.mcap", "--node", "/nobody")
    _, log = recorder.communicate(timeout=40.0)
    assert recorder.returncode == 1 and "/nobody" in log and "vla doctor" in log and "Traceback" not in log
    assert not (tmp_path / "nothing.mcap").exists()


def test_an_existing_file_is_not_overwritten(shared_rig, tmp_path):
    path = tmp_path / "there.mcap"
    path.write_text("mine")
    recorder = start_recorder(path, "--seconds", "1")
    _, log = recorder.communicate(timeout=40.0)
    assert recorder.returncode == 2 and "exists" in log and path.read_text() == "mine"


def test_without_a_recorder_nothing_is_kept(recorded, shared_rig):
    loop = shared_rig.node.session.loop
    shared_rig.until(lambda: not loop.wanted, "the node sees that nobody listens")
    time.sleep(0.1)
    loop.take()
    time.sleep(0.2)
    assert loop.take() == []
