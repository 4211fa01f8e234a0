# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from vla_ros import cli
from vla_ros.core.embodiment import TABLETOP
from vla_ros.core.errors import ConfigError
from vla_ros.core.paths import robot_config_path
from vla_ros.dataset.checks import findings
from vla_ros.dataset.lerobot import export_lerobot, import_lerobot
from vla_ros.dataset.lerobot_writer import LeRobotWriter
from vla_ros.dataset.mapping import JointSource
from vla_ros.robot.description import RobotDescription
from vla_ros.train.shards import DataError, open_shard, read_meta

ROBOT = RobotDescription.load(robot_config_path("tabletop_arm"))
ROWS, EPISODES = "data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet"


@pytest.fixture(scope="session")
def exported(shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lerobot") / "data"
    export_lerobot(shards, folder)
    return folder


def arrays_of(folder: Path) -> dict[str, np.ndarray]:
    meta = read_meta(folder)
    parts = [open_shard(path, meta).arrays for path in sorted(folder.glob("shard_*"))]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def test_exported_shards_come_back(shards, exported, tmp_path):
    assert list(findings(exported)) == []
    import_lerobot(exported, tmp_path / "back", body=TABLETOP, robot=ROBOT)
    assert list(findings(tmp_path / "back")) == []
    before, after = arrays_of(shards), arrays_of(tmp_path / "back")
    for name in ("proprio", "object_uv", "object_class", "touch"):
        assert np.array_equal(before[name], after[name]), name
    for name in ("actions", "plan", "committed"):
        assert np.array_equal(before[name][:, :1], after[name]), name
    for camera in ("front", "wrist"):  # flat squares through a film of quality 18
        assert np.abs(before[camera].astype(int) - after[camera]).mean() < 4, camera
    texts = [
        json.loads((folder / name / "instructions.json").read_text())
        for folder, name in ((shards, "shard_0000"), (tmp_path / "back", "shard_lerobot_0000"))
    ]
    first = [texts[0][row] for row in before["text_index"][:, 0]]
    assert [texts[1][row] for row in after["text_index"][:, 0]] == first


def test_the_layout_is_that_of_version_3(exported):
    info = json.loads((exported / "meta/info.json").read_text())
    assert (info["codebase_version"], info["fps"], info["total_episodes"], info["total_frames"]) == ("v3.0", 5, 16, 64)
    for name in ("meta/stats.json", "meta/tasks.parquet", EPISODES, ROWS, "videos/observation.images.front/chunk-000/file-000.mp4"):
        assert (exported / name).is_file(), name
    stats = json.loads((exported / "meta/stats.json").read_text())
    state = np.array(pq.read_table(exported / ROWS)["observation.state"].to_pylist())
    np.testing.assert_allclose(stats["observation.state"]["mean"], state.mean(0), rtol=1e-6)
    np.testing.assert_allclose(stats["observation.state"]["q99"], np.quantile(state, 0.99, axis=0), rtol=1e-6)
    assert np.shape(stats["observation.images.front"]["mean"]) == (3, 1, 1)


def set_cell(folder, name, column, row, value):
    table = pq.read_table(folder / name)
    values = table[column].to_pylist()
    values[row] = value(values[row])
    index = table.column_names.index(column)
    pq.write_table(table.set_column(index, table.field(column), pa.array(values, table.field(column).type)), folder / name)


def drop_rows(folder, name, keep):
    table = pq.read_table(folder / name)
    pq.write_table(table.filter(pa.array([keep(row) for row in table.to_pylist()])), folder / name)


def edit_info(folder, change):
    path = folder / "meta/info.json"
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json.dumps(info))


FAULTS = [
    (lambda f: set_cell(f, ROWS, "observation.state", 7, lambda v: [float("nan"), *v[1:]]), r"file-000\.parquet: row 7: observation\.state must be finite, got nan"),
    (lambda f: set_cell(f, ROWS, "action", 3, lambda v: [float("inf"), *v[1:]]), r"row 3: action must be finite, got inf"),
    (lambda f: set_cell(f, ROWS, "timestamp", 6, lambda v: v + 0.05), r"row 6: timestamp must be frame_index / 5, got 0\.45"),
    (lambda f: set_cell(f, ROWS, "task_index", 2, lambda v: 9), r"row 2: task_index must be one of the 1 tasks, got 9"),
    (lambda f: set_cell(f, ROWS, "frame_index", 9, lambda v: 3), r"row 9: frame_index must count 0, 1, 2"),
    (lambda f: drop_rows(f, ROWS, lambda row: row["index"] != 5), r"episode 1 has 3 rows, meta/episodes says 4"),
    (lambda f: set_cell(f, EPISODES, "length", 4, lambda v: 0), r"meta/episodes/chunk-000/file-000\.parquet: row 4: episode 4 is empty"),
    (lambda f: pq.write_table(pq.read_table(f / ROWS).drop_columns(["action"]), f / ROWS), r"file-000\.parquet: columns action are missing"),
    (lambda f: edit_info(f, lambda info: info.update(codebase_version="v2.1")), r"info\.json: codebase_version is v2\.1, v3\.\* is read"),
    (lambda f: edit_info(f, lambda info: info.pop("fps")), r"info\.json: key 'fps' is missing"),
    (lambda f: edit_info(f, lambda info: info.update(total_frames=63)), r"info\.json: says 16 episodes, 63 frames"),
    (lambda f: (f / "videos/observation.images.wrist/chunk-000/file-000.mp4").unlink(), r"cannot read .*observation\.images\.wrist/chunk-000/file-000\.mp4"),
    (lambda f: (f / ROWS).write_bytes(b"PAR1"), r"cannot read .*file-000\.parquet"),
    (lambda f: shutil.rmtree(f / "meta/episodes"), r"meta/episodes has no parquet file"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "message"), FAULTS)
def test_a_damaged_dataset_is_refused_with_file_and_row(exported, tmp_path, spoil, message):
    folder = tmp_path / "data"
    shutil.copytree(exported, folder)
    spoil(folder)
    with pytest.raises(DataError, match=message):
        import_lerobot(folder, tmp_path / "back", body=TABLETOP, robot=ROBOT)
    assert not (tmp_path / "back").exists()


SHARD_FAULTS = [
    ("proprio", lambda a: a.__setitem__((9, 2), np.nan), r"shard_0001/proprio\.npy: row 9: values must be finite, got nan"),
    ("frame", lambda a: a.__setitem__(6, 3), r"shard_0001/frame\.npy: row 6: frame 3 of episode \d+, expected 2.*the rate is wrong"),
    ("actions", None, r"shard_0001 lacks a file|cannot read .*actions\.npy"),
    ("episode", lambda a: np.zeros(0, np.int32), r"shard_0001/episode\.npy is empty"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "spoil", "message"), SHARD_FAULTS)
def test_damaged_shards_are_found_by_check_and_refused_by_export(shards, tmp_path, capfd, name, spoil, message):
    folder = tmp_path / "data"
    shutil.copytree(shards, folder)
    path = folder / "shard_0001" / f"{name}.npy"
    if spoil is None:
        path.unlink()
    else:
        array = np.load(path)
        changed = spoil(array)
        np.save(path, array if changed is None else changed)
    with pytest.raises(DataError, match=message):
        export_lerobot(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert cli.main(["dataset", "check", str(folder), "--json", str(tmp_path / "found.json")]) == 1
    assert len(json.loads((tmp_path / "found.json").read_text())["findings"]) == 1
    capfd.readouterr()


def test_a_wrong_record_rate_is_found(shards, tmp_path):
    shutil.copytree(shards, tmp_path / "data")
    meta = yaml.safe_load((tmp_path / "data/meta.yaml").read_text())
    (tmp_path / "data/meta.yaml").write_text(yaml.safe_dump({**meta, "record_rate_hz": 10.0}))
    assert [found for found in findings(tmp_path / "data") if "record_rate_hz is 10.0, the action's step of 0.2 s needs 5" in found]


def test_what_exists_is_not_written_over(shards, exported):
    with pytest.raises(ConfigError, match="exists: choose another name"):
        export_lerobot(shards, exported)


def foreign_dataset(folder: Path, fps: int = 10) -> Path:
    """As LeRobot's own robots write: joints by name in degrees, the gripper in percent."""
    names = [f"{joint}.pos" for joint in ROBOT.joint_names]
    features = {
        "observation.state": {"dtype": "float32", "shape": [7], "names": names},
        "observation.images.top": {"dtype": "video", "shape": [96, 128, 3], "names": ["height", "width", "channels"]},
    }
    with LeRobotWriter(folder, fps=fps, features=features, robot_type="arm", extra={}) as writer:
        state = np.degrees(np.tile(ROBOT.home, (12, 1)))
        state[:, 0] += np.arange(12)
        state[:, -1] = 100.0
        writer.add_episode(
            {"observation.state": state.astype(np.float32)},
            {"observation.images.top": np.full((12, 96, 128, 3), 90, np.uint8)},
            ["look around"] * 12,
        )
    return folder


PERCENT = {name: JointSource(name=name, factor=np.pi / 180) for name in ROBOT.arm_joints} | {
    ROBOT.gripper_joint: JointSource(name=ROBOT.gripper_joint, factor=0.00042)
}


def test_a_foreign_dataset_is_labelled_by_what_the_robot_did(tmp_path):
    root = foreign_dataset(tmp_path / "data")
    cameras = {"front": "observation.images.top", "wrist": "observation.images.top"}
    counts = import_lerobot(root, tmp_path / "shards", body=TABLETOP, robot=ROBOT, cameras=cameras, joints=PERCENT)
    assert (counts.episodes, counts.frames) == (1, 6)  # every second frame: 10 a second, an action step is 0.2 s
    arrays = arrays_of(tmp_path / "shards")
    np.testing.assert_allclose(arrays["proprio"][:, 0], ROBOT.home[0] + np.radians(2.0 * np.arange(6)), atol=1e-5)
    np.testing.assert_allclose(arrays["proprio"][:, 6], 0.042, atol=1e-6)
    np.testing.assert_allclose(arrays["actions"][0, 0, 0, 4], np.radians(2.0), atol=1e-4)  # yaw turns with the base


REFUSED = [
    ({"cameras": {}}, 10, r"no pictures 'observation\.images\.front' for camera 'front': choose one of observation\.images\.top with --camera"),
    ({"joints": {}}, 10, r"observation\.state: row \d+: \w+ is .*, robot 'tabletop_arm' allows .*: are unit, factor"),
    ({"joints": {"elbow_joint": JointSource(name="knee")}}, 10, r"info\.json: features: observation\.state: names lack knee of robot"),
    ({}, 12, r"info\.json: fps is 12, expected a multiple of 5, the rate of action steps"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "fps", "message"), REFUSED)
def test_a_foreign_dataset_that_does_not_fit_is_refused(tmp_path, changes, fps, message):
    root = foreign_dataset(tmp_path / "data", fps)
    settings = {"cameras": {"front": "observation.images.top", "wrist": "observation.images.top"}, "joints": PERCENT, **changes}
    with pytest.raises(DataError, match=message):
        import_lerobot(root, tmp_path / "shards", body=TABLETOP, robot=ROBOT, **settings)


def lerobot_python() -> str | None:
    """An interpreter with `lerobot`: the one that VLA_LEROBOT_PYTHON names, or this one."""
    return os.environ.get("VLA_LEROBOT_PYTHON") or (sys.executable if importlib.util.find_spec("lerobot") else None)


needs_lerobot = pytest.mark.skipif(lerobot_python() is None, reason="needs lerobot: set VLA_LEROBOT_PYTHON to a Python that has it")


def with_lerobot(*words: object) -> dict:
    program = Path(__file__).with_name("read_with_lerobot.py")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [lerobot_python(), program, *map(str, words)], capture_output=True, text=True, timeout=300, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@needs_lerobot
def test_lerobot_reads_what_we_write(shards, exported):
    before = arrays_of(shards)
    rows = [0, 5, 37, 63]
    found = with_lerobot("read", exported, *rows)
    assert (found["episodes"], found["frames"], found["fps"], found["robot"]) == (16, 64, 5, "tabletop_arm")
    np.testing.assert_allclose(found["stats"]["mean"], before["proprio"].mean(0), rtol=1e-5, atol=1e-6)
    for row, item in zip(rows, found["items"]):
        np.testing.assert_array_equal(np.float32(item["observation.state"]), before["proprio"][row])
        np.testing.assert_array_equal(np.float32(item["vla.action_chunk"]), before["actions"][row, 0])
        assert (item["episode_index"], item["frame_index"], item["task"]) == (row // 4, row % 4, "go to the red thing")
        assert item["timestamp"] == pytest.approx(0.2 * (row % 4))
        for camera, picture in item["pictures"].items():
            assert np.abs(np.array(picture) - before[camera][row]).mean() < 4, (row, camera)


@needs_lerobot
def test_we_read_what_lerobot_writes(tmp_path):
    with_lerobot("write", tmp_path / "data")
    assert list(findings(tmp_path / "data")) == []
    cameras = {"front": "observation.images.top", "wrist": "observation.images.hand"}
    joints = {
        joint: JointSource(name=joint.removesuffix("_joint"), factor=0.00042 if joint == ROBOT.gripper_joint else np.pi / 180)
        for joint in ROBOT.joint_names
    }
    counts = import_lerobot(tmp_path / "data", tmp_path / "shards", body=TABLETOP, robot=ROBOT, cameras=cameras, joints=joints)
    assert (counts.episodes, counts.frames) == (2, 12)
    arrays = arrays_of(tmp_path / "shards")
    np.testing.assert_allclose(arrays["proprio"][:6, 0], np.radians(4.0 * np.arange(6)), atol=1e-5)
    assert np.abs(arrays["front"][3].astype(int) - 120).max() <= 6 and (arrays["wrist"][3] == 60).all()
    instructions = json.loads((tmp_path / "shards/shard_lerobot_0000/instructions.json").read_text())
    assert [instructions[row] for row in arrays["text_index"][[0, 11], 0]] == ["do thing 0", "do thing 1"]
