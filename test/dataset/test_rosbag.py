# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from recorded_motion import ROBOT, joints_at, recording, tool_at, write_recording

from vla_ros import cli
from vla_ros.core.errors import ConfigError
from vla_ros.core.paths import share_dir
from vla_ros.core.tabletop import ACTION_SPEC
from vla_ros.dataset.checks import findings
from vla_ros.dataset.hindsight import PHASES
from vla_ros.dataset.mapping import read_mapping
from vla_ros.dataset.rosbag import import_rosbag
from vla_ros.train.dataset import Dataset
from vla_ros.train.shards import DataError, open_shard, read_meta

TABLETOP = share_dir() / "config" / "recordings" / "tabletop.yaml"


def mapping_with(path: Path, **changes: object) -> Path:
    """The tabletop's mapping with other values; None removes a key."""
    values = {**yaml.safe_load(TABLETOP.read_text(encoding="utf-8")), **changes}
    path.write_text(yaml.safe_dump({key: value for key, value in values.items() if value is not None}), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rosbag")
    bag = write_recording(folder / "bag" / "bag_0.mcap", recording())
    counts = import_rosbag([bag.parent], folder / "shards", read_mapping(TABLETOP))
    return folder / "shards", counts


def test_an_episode_lasts_from_its_instruction_to_the_empty_one(imported):
    folder, counts = imported
    assert (counts.episodes, counts.frames) == (1, 28)  # 0.5 to 6.0 s in steps of 0.2 s; the repeated text does not begin another
    shard = open_shard(folder / "shard_rosbag_0000", read_meta(folder))
    assert shard.instructions == ["pick up the red cube"]
    assert list(findings(folder)) == []


def test_frames_hold_what_the_robot_saw_and_measured(imported):
    folder, _ = imported
    arrays = open_shard(folder / "shard_rosbag_0000", read_meta(folder)).arrays
    for t in (0, 10, 25):
        time_s = 0.5 + 0.2 * t
        np.testing.assert_allclose(arrays["proprio"][t], [*joints_at(time_s), *tool_at(time_s)], atol=1e-4)
        assert (arrays["front"][t] == 3 * int(round(10 * time_s, 6) // 1)).all()


def test_chunks_lead_where_the_robot_went(imported):
    folder, _ = imported
    chunks = open_shard(folder / "shard_rosbag_0000", read_meta(folder)).arrays["actions"][:, 0]
    names = ACTION_SPEC.names
    for t, step in ((0, 4), (12, 0), (16, 3)):
        begin_s, end_s = 0.5 + 0.2 * t, 0.5 + 0.2 * (t + step + 1)
        wanted = dict(zip(("x", "y", "z", "yaw"), tool_at(end_s) - tool_at(begin_s))) | {"gripper": joints_at(end_s)[-1], "terminate": 0.0}
        np.testing.assert_allclose(chunks[t, step], [wanted[name] for name in names], atol=1e-4)
    assert chunks[-1, :, names.index("terminate")].tolist() == [1.0] * 5
    assert chunks[-3, :, names.index("terminate")].tolist() == [0.0, 0.0, 1.0, 1.0, 1.0]


def test_phases_follow_from_the_motion(imported):
    folder, _ = imported
    phases = [PHASES[int(value)] for value in open_shard(folder / "shard_rosbag_0000", read_meta(folder)).arrays["plan"][:, 0, 0]]
    assert phases[0] == "approach" and phases[-1] == "done"
    assert "grasp" in phases[16:22]


def test_a_command_topic_gives_the_actions(tmp_path):
    messages = recording()
    ahead = [
        ("/command", "std_msgs/msg/Float64MultiArray", time_s, {"layout": {"dim": [], "data_offset": 0}, "data": (joints_at(time_s + 0.2) * 1000).tolist()})
        for _, kind, time_s, _ in messages if kind == "sensor_msgs/msg/JointState"
    ]  # fmt: skip
    bag = write_recording(tmp_path / "bag.mcap", sorted(messages + ahead, key=lambda message: message[2]))
    joints = {name: {"factor": 0.001} for name in ROBOT.joint_names}
    action = {"topic": "/command", "order": list(ROBOT.joint_names), "joints": joints, "rate_hz": 50}
    import_rosbag([bag], tmp_path / "shards", read_mapping(mapping_with(tmp_path / "m.yaml", action=action)))
    chunks = np.load(tmp_path / "shards" / "shard_rosbag_0000" / "actions.npy")
    np.testing.assert_allclose(chunks[3, 0, 0, 1:4], (tool_at(1.5) - tool_at(1.1))[:3], atol=1e-4)


def test_two_drivers_on_two_topics_with_names_and_units_of_their_own(tmp_path):
    split = []
    for topic, kind, time_s, message in recording():
        if topic != "/joint_states":
            split.append((topic, kind, time_s, message))
            continue
        position = dict(zip(message["name"], message["position"]))
        arm = [f"ur_{name}" for name in ROBOT.arm_joints]
        split.append(
            (topic, kind, time_s, {**message, "name": arm, "position": np.degrees([position[name] for name in ROBOT.arm_joints]).tolist()})
        )
        split.append((topic, kind, time_s, {**message, "name": ["width"], "position": [2000 * position[ROBOT.gripper_joint]]}))
    bag = write_recording(tmp_path / "bag.mcap", split)
    state = [
        {"topic": "/joint_states", "rate_hz": 50, "joints": {name: {"name": f"ur_{name}", "unit": "deg"} for name in ROBOT.arm_joints}},
        {"topic": "/joint_states", "joints": {ROBOT.gripper_joint: {"name": "width", "unit": "mm", "factor": 0.5}}},
    ]
    import_rosbag([bag], tmp_path / "shards", read_mapping(mapping_with(tmp_path / "m.yaml", state=state)))
    proprio = np.load(tmp_path / "shards" / "shard_rosbag_0000" / "proprio.npy")
    np.testing.assert_allclose(proprio[5, :7], joints_at(1.5), atol=1e-5)


def test_a_body_of_its_own_trains(tmp_path):
    """The example's UR5e is no robot of the package's simulators: its description goes with the data."""
    names = ("front", "wrist")
    body = yaml.safe_load((TABLETOP.parent / "example.yaml").read_text(encoding="utf-8"))["embodiment"]
    robot = read_mapping(TABLETOP.parent / "example.yaml").robot
    messages = []
    for topic, kind, time_s, message in recording():
        if kind == "sensor_msgs/msg/JointState":
            positions = robot.home.copy()
            positions[0] += 0.05 * time_s
            message = {**message, "name": list(robot.joint_names), "position": positions.tolist()}
        messages.append((topic, kind, time_s, message))
    bag = write_recording(tmp_path / "bag.mcap", messages)
    mapping = read_mapping(mapping_with(tmp_path / "m.yaml", embodiment=body, robot="ur5e"))
    import_rosbag([bag], tmp_path / "shards", mapping)
    dataset = Dataset([tmp_path / "shards"], None, 0.0)
    assert dataset.meta.body == mapping.body and dataset.meta.body.name == "my_ur5e"
    assert [camera.name for camera in dataset.meta.body.cameras] == list(names)
    assert dataset.num_frames() == 28


def nan_in_joints(messages):
    messages = [*messages]
    row = [index for index, message in enumerate(messages) if message[0] == "/joint_states"][99]
    topic, kind, time_s, message = messages[row]
    messages[row] = (topic, kind, time_s, {**message, "position": [float("nan"), *message["position"][1:]]})
    return messages


def without(messages, topic, since_s=-1.0, until_s=99.0):
    return [message for message in messages if not (message[0] == topic and since_s <= message[2] < until_s)]


def renamed(messages):
    return [(t, k, s, {**m, "name": ["a", *m["name"][1:]]}) if t == "/joint_states" else (t, k, s, m) for t, k, s, m in messages]


def degrees(messages):
    return [
        (t, k, s, {**m, "position": np.degrees(m["position"]).tolist()}) if t == "/joint_states" else (t, k, s, m)
        for t, k, s, m in messages
    ]


def truncated_picture(messages):
    first = next(message for message in messages if message[0] == "/front/image_raw")
    return [message if message is not first else (*first[:3], {**first[3], "data": b"123"}) for message in messages]


def unstamped(messages):
    return [
        (t, k, s, {**m, "header": {"stamp": {"sec": 0, "nanosec": 0}, "frame_id": ""}}) if t == "/joint_states" else (t, k, s, m)
        for t, k, s, m in messages
    ]


RATE = {"cameras": {"front": {"topic": "/front/image_raw", "rate_hz": 30}, "wrist": {"topic": "/wrist/image_raw"}}}
FAULTS = [
    (nan_in_joints, {}, r"bag\.mcap: /joint_states: message 99: gripper_joint is nan: positions must be finite"),
    (lambda m: without(m, "/wrist/image_raw"), {}, r"bag\.mcap: no topic /wrist/image_raw \(camera wrist.*there are /front/image_raw, /instruction"),
    (lambda m: without(m, "/joint_states", 2.0, 3.0), {}, r"bag\.mcap: /joint_states: message 99 at 1700000001\.980 s: the next one came more than max_gap_s = 0\.5 s"),
    (lambda m: without(m, "/front/image_raw", 1.0), {}, r"the episode 'pick up the red cube' has 3 frames .*at least 5"),
    (lambda m: m, RATE, r"/front/image_raw: 10 Hz, the mapping says 30 Hz"),
    (renamed, {}, r"message 0: no joint 'gripper_joint' for gripper_joint: there are a, "),
    (degrees, {}, r"/joint_states: message \d+ at .*: \w+_joint is .*, robot 'tabletop_arm' allows .*unit"),
    (truncated_picture, {}, r"/front/image_raw: message 0: the image has 3 bytes"),
    (unstamped, {}, r"/joint_states: message 0 has no stamp: set 'time: received'"),
    (lambda m: without(m, "/instruction", 0.0, 5.0), {}, r"no instruction with words came over /instruction"),
    (lambda m: m, {"state": {"topic": "/instruction"}}, r"/instruction is a std_msgs/msg/String, state 0 needs sensor_msgs/msg/JointState"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "changes", "message"), FAULTS)
def test_a_bad_recording_is_refused_with_file_topic_and_message(tmp_path, spoil, changes, message):
    bag = write_recording(tmp_path / "bag.mcap", spoil(recording()))
    mapping = read_mapping(mapping_with(tmp_path / "m.yaml", min_frames=5, **changes))
    with pytest.raises(DataError, match=message):
        import_rosbag([bag], tmp_path / "shards", mapping)
    assert not list(tmp_path.glob("shards/shard_*"))


def test_a_file_that_is_no_recording_is_refused(tmp_path):
    (tmp_path / "bag.mcap").write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match=r"cannot read .*bag\.mcap"):
        import_rosbag([tmp_path / "bag.mcap"], tmp_path / "shards", read_mapping(TABLETOP))
    with pytest.raises(DataError, match=r"is no MCAP recording and no folder with one"):
        import_rosbag([tmp_path / "elsewhere"], tmp_path / "shards", read_mapping(TABLETOP))


MAPPINGS = [
    ({"camera": 1}, r"unknown keys \['camera'\]"),
    ({"cameras": {"front": {"topic": "/a"}}}, r"cameras must be front, wrist, as embodiment 'tabletop' has them, got front"),
    ({"instruction": "pick"}, r"give either 'instruction_topic'"),
    ({"state": {"topic": "/j", "joints": {"elbow": {}}}}, r"m\.yaml: state: joints: elbow: robot 'tabletop_arm' has no such joint: it has shoulder_pan"),
    ({"state": [{"topic": "/j", "joints": {"elbow_joint": {}}}] * 2}, r"must hold each of .* once, they hold elbow_joint, elbow_joint"),
    ({"state": {"topic": "/j", "rate_hz": 0}}, r"'rate_hz' must be positive"),
    ({"embodiment": "ur5e"}, r"no environment 'ur5e'"),
    ({"embodiment": {"name": "tabletop"}}, r"key 'robot' is missing"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), MAPPINGS)
def test_a_wrong_mapping_is_refused_with_its_key(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        read_mapping(mapping_with(tmp_path / "m.yaml", **changes))


def test_the_command_imports_and_exports(tmp_path, capfd):
    bag = write_recording(tmp_path / "bag.mcap", recording())
    shards, lerobot = tmp_path / "shards", tmp_path / "lerobot"
    assert (
        cli.main(
            ["dataset", "import-rosbag", str(bag), "--mapping", str(TABLETOP), "--out", str(shards), "--json", str(tmp_path / "c.json")]
        )
        == 0
    )
    assert yaml.safe_load((tmp_path / "c.json").read_text(encoding="utf-8"))["frames"] == 28
    assert cli.main(["dataset", "check", str(shards), "--statistics", str(tmp_path / "dataset_statistics.json")]) == 0
    assert cli.main(["dataset", "export-lerobot", str(shards), "--out", str(lerobot)]) == 0
    assert cli.main(["dataset", "check", str(lerobot)]) == 0
    assert cli.main(["dataset", "import-rosbag", str(bag), "--mapping", str(TABLETOP), "--out", str(shards)]) == 2
    assert "exists: import into another folder" in capfd.readouterr().err
