# SPDX-License-Identifier: Apache-2.0
"""Shards to LeRobotDataset v3 and back. Axes: T frames of an episode an action step apart, J joints, S proprioception entries."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from vla_ros.core.embodiment import Embodiment, embodiment_of
from vla_ros.core.image import prepare_image
from vla_ros.core.paths import robot_config_path
from vla_ros.dataset import lerobot_format as fmt
from vla_ros.dataset.checks import require
from vla_ros.dataset.hindsight import check_body, labels_of, motion_of
from vla_ros.dataset.lerobot_reader import LeRobotFolder, open_lerobot
from vla_ros.dataset.lerobot_writer import LeRobotWriter
from vla_ros.dataset.mapping import JointSource, check_limits
from vla_ros.dataset.shard_episodes import check_spec, episode_pictures, episode_rows, features, read_episodes
from vla_ros.dataset.shard_writer import LabelledEpisode, ShardWriter, default_meta
from vla_ros.robot.description import RobotDescription
from vla_ros.train.shards import DataError, read_meta


@dataclass
class Counts:
    """What an import or export did; ``notes`` are for the user."""

    episodes: int = 0
    frames: int = 0
    notes: list[str] = field(default_factory=list)


def export_lerobot(shards: Path, out: Path, *, codec: str = "h264", crf: int = 18) -> Counts:
    """Writes a dataset of `vla collect` as a LeRobotDataset.

    Raises:
        DataError: the shards are damaged or hold no episodes.
        ConfigError: ``out`` exists.
    """
    require(shards)
    meta, episodes = read_meta(shards), list(read_episodes(shards))
    fps = check_spec(meta.action, shards / "meta.yaml")
    closed = RobotDescription.load(robot_config_path(meta.body.robot)).gripper_closed
    rows = [episode_rows(episode, meta, closed) for episode in episodes]
    touched = [values.get("vla.touch") for values in rows]
    touch = touched[0].shape[1] if all(values is not None for values in touched) else 0
    described = features(meta, touch)
    extra = {"format": "vla_ros shards", "meta": yaml.safe_load((shards / "meta.yaml").read_text(encoding="utf-8"))}
    with LeRobotWriter(out, fps=fps, features=described, robot_type=meta.body.robot, extra=extra, codec=codec, crf=crf) as writer:
        for episode, values in zip(episodes, rows):
            kept = {key: values[key] for key in described if key in values}
            writer.add_episode(kept, episode_pictures(episode, meta), episode.instructions)
    notes = [f"of each frame the first of {meta.labels} labels, the one carried out, was written"] if meta.labels > 1 else []
    return Counts(episodes=len(episodes), frames=sum(len(e.instructions) for e in episodes), notes=notes)


def import_lerobot(
    root: Path,
    out: Path,
    *,
    body: Embodiment,
    robot: RobotDescription,
    cameras: dict[str, str] | None = None,
    joints: dict[str, JointSource] | None = None,
    name: str = "lerobot",
) -> Counts:
    """Writes a LeRobotDataset as shards.

    Args:
        root: the dataset; what `vla dataset export-lerobot` wrote gets its labels back, others get theirs from what the robot did.
        out: folder of shards.
        body: whose policies will be trained; what `vla dataset export-lerobot` wrote keeps its own.
        robot: whose joints `observation.state` holds.
        cameras: our camera's name to the dataset's feature; those left out are `observation.images.<name>`.
        joints: where `observation.state` has a joint of the description; those left out are called the same and have rad or m.
        name: part of the shards' names.

    Raises:
        DataError: the dataset is damaged, or lacks what the policy needs; names file and row.
    """
    require(root)
    folder = open_lerobot(root)
    own = fmt.CHUNK in folder.features and "meta" in folder.ours
    if own:
        meta = {**folder.ours["meta"], "K": 1}
        body = embodiment_of(meta.get("embodiment", body.name))
    else:
        check_body(body, robot)
        meta = default_meta(body, robot)
    keys, stride = _camera_keys(folder, cameras or {}, body), _stride(folder, body)
    writer, counts = ShardWriter(folder=out, name=name, meta=meta), Counts()
    moved = 0
    for episode in folder.episodes:
        rows = {key: values[::stride] for key, values in folder.rows(episode).items()}
        arrays, clipped = (
            _own_labels(rows) if own else labels_of(motion_of(_joints(folder, rows, robot, joints or {}), robot), body, robot, meta)
        )
        moved += clipped
        for camera in body.cameras:
            pictures = folder.pictures(episode, keys[camera.name])[::stride]
            arrays[camera.name] = np.stack([prepare_image(picture, camera.height, camera.width) for picture in pictures])
        writer.add(LabelledEpisode(arrays=arrays, instructions=_texts(folder, rows["task_index"])))
    writer.close()
    counts.episodes, counts.frames = writer.episodes, writer.frames
    if moved:
        counts.notes.append(clipped_note(moved))
    return counts


def clipped_note(steps: int) -> str:
    """What to tell about action steps outside the bounds."""
    return f"{steps} action steps lay outside the action's bounds and were moved to them: the robot was faster than the policy may be"


def _camera_keys(folder: LeRobotFolder, cameras: dict[str, str], body: Embodiment) -> dict[str, str]:
    keys = {camera.name: cameras.get(camera.name, fmt.CAMERA + camera.name) for camera in body.cameras}
    unknown = sorted(set(cameras) - set(keys))
    if unknown:
        raise DataError(f"no camera {', '.join(unknown)}: the policy's are {', '.join(keys)}")
    for name, key in keys.items():
        if key not in folder.cameras:
            raise DataError(
                f"{folder.root / fmt.INFO}: no pictures '{key}' for camera '{name}': choose one of {', '.join(folder.cameras) or 'none'} "
                f"with --camera {name}=FEATURE"
            )
    return keys


def _stride(folder: LeRobotFolder, body: Embodiment) -> int:
    """Frames of the dataset in one action step."""
    ratio = folder.fps * body.action.dt_s
    if ratio < 1 or abs(ratio - round(ratio)) > 1e-6:
        raise DataError(
            f"{folder.root / fmt.INFO}: fps is {folder.fps:g}, expected a multiple of {1 / body.action.dt_s:g}, the rate of action steps"
        )
    return round(ratio)


def _texts(folder: LeRobotFolder, task_T: np.ndarray) -> list[str]:
    texts = [folder.tasks[int(task)] for task in task_T]
    if not all(text.strip() for text in texts):
        raise DataError(f"{folder.root / fmt.TASKS}: a task is blank: every episode needs an instruction")
    return texts


def _own_labels(rows: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], int]:
    """The arrays of the shard that was exported."""
    classes = rows[fmt.OBJECT_CLASS].astype(np.int16)
    uv = np.where((classes < 0).any(-1)[..., None], np.float32(np.nan), rows[fmt.OBJECT_UV].astype(np.float32))
    arrays = {
        "proprio": rows[fmt.STATE].astype(np.float32), "actions": rows[fmt.CHUNK].astype(np.float32)[:, None],
        "committed": rows[fmt.COMMITTED].astype(np.int8)[:, None], "plan": rows[fmt.PLAN].astype(np.float32)[:, None],
        "object_uv": uv, "object_class": classes,
    }  # fmt: skip
    return arrays | ({"touch": rows["vla.touch"].astype(np.float32)} if "vla.touch" in rows else {}), 0


def _joints(folder: LeRobotFolder, rows: dict[str, np.ndarray], robot: RobotDescription, joints: dict[str, JointSource]) -> np.ndarray:
    """Joint positions [T, J] from `observation.state`, by name. LeRobot's own robots call them ``<joint>.pos``."""
    where = f"{folder.root / fmt.INFO}: features: {fmt.STATE}"
    if fmt.STATE not in folder.features:
        raise DataError(f"{folder.root / fmt.INFO}: no feature {fmt.STATE}; there are {', '.join(folder.features)}")
    names: Any = folder.features[fmt.STATE].get("names")
    names = next(iter(names.values())) if isinstance(names, dict) else names
    plain = [str(name).removesuffix(".pos") for name in names or ()]
    sources = [joints.get(joint, JointSource(name=joint)) for joint in robot.joint_names]
    missing = [source.name for source in sources if source.name not in plain]
    if missing:
        raise DataError(
            f"{where}: names lack {', '.join(missing)} of robot '{robot.name}': they are {plain}; say in --mapping how they are called"
        )
    columns = [plain.index(source.name) for source in sources]
    factor_J, offset_J = np.array([s.factor for s in sources]), np.array([s.offset for s in sources])
    joints_TJ = rows[fmt.STATE].astype(np.float64)[:, columns] * factor_J + offset_J
    check_limits(joints_TJ, robot, [f"{folder.root}: {fmt.STATE}: row {index}" for index in rows["index"]])
    return joints_TJ
