# SPDX-License-Identifier: Apache-2.0
"""Episodes of recorded shards, in order, as features of a LeRobotDataset.

Axes: T frames of an episode, K labels of a frame, H steps, D dimensions, S proprioception entries, M objects.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vla_ros.core.action import ActionSpec
from vla_ros.dataset import lerobot_format as fmt
from vla_ros.train.shards import DataError, DatasetMeta, Shard, find_shards, open_shard, read_meta

HOLDING = ("grasp", "lift", "carry", "lower")  # phases in which the expert commands a closed gripper


@dataclass(frozen=True, kw_only=True)
class ShardEpisode:
    """One episode: ``rows`` of a shard from the first to the last frame."""

    shard: Shard
    rows: slice

    @property
    def instructions(self) -> list[str]:
        """The texts of the task being carried out, one a frame."""
        return [self.shard.instructions[i] for i in self.shard.arrays["text_index"][self.rows, 0]]


def features(meta: DatasetMeta, touch: int = 0) -> dict[str, dict[str, Any]]:
    """What is written of each frame, in LeRobot's form; ``touch`` fingers with contact forces."""
    spec, body = meta.action, meta.body
    chunk_names = {"step": [f"{(k + 1) * spec.dt_s:g} s" for k in range(spec.horizon)], "dimension": list(spec.names)}
    cameras = {
        fmt.CAMERA + camera.name: {"dtype": "video", "shape": list(camera.shape), "names": ["height", "width", "channels"]}
        for camera in body.cameras
    }
    return {
        **cameras,
        fmt.STATE: {"dtype": "float32", "shape": [len(body.proprio)], "names": list(body.proprio_names)},
        fmt.ACTION: {"dtype": "float32", "shape": [spec.num_dims], "names": list(spec.names)},
        fmt.CHUNK: {"dtype": "float32", "shape": list(spec.shape), "names": chunk_names},
        fmt.COMMITTED: {"dtype": "int64", "shape": [1], "names": None},
        fmt.PLAN: {"dtype": "float32", "shape": [3], "names": ["phase", "x", "y"]},
        fmt.OBJECT_UV: {"dtype": "float32", "shape": [meta.objects, 2], "names": None},
        fmt.OBJECT_CLASS: {"dtype": "int64", "shape": [meta.objects, 2], "names": None},
        **({"vla.touch": {"dtype": "float32", "shape": [touch], "names": None}} if touch > 1 else {}),
    }


def read_episodes(folder: Path) -> Iterator[ShardEpisode]:
    """The episodes of a folder that `vla collect` wrote.

    Raises:
        DataError: a shard is damaged, or holds snapshots or frames out of order; names file and row.
    """
    meta = read_meta(folder)
    paths = find_shards(folder, meta.body)
    if not paths:
        raise DataError(f"no finished shard_* in {folder}: run `vla collect` first")
    for path in paths:
        yield from episodes_of(open_shard(path, meta))


def episodes_of(shard: Shard) -> list[ShardEpisode]:
    """The episodes of a shard, in order.

    Raises:
        DataError: frames are single or out of order.
    """
    episode_N, frame_N = shard.arrays["episode"], shard.arrays["frame"]
    starts = np.flatnonzero(np.diff(episode_N, prepend=episode_N[0] - 1) != 0)
    ends = np.append(starts[1:], len(episode_N))
    if (ends - starts).max() == 1:
        raise DataError(
            f"{shard.path / 'frame.npy'}: row 0: every episode has a single frame: these are snapshots with several labels, which are no "
            "episodes; export what `vla collect` wrote without --snapshots"
        )
    seen: set[int] = set()
    for start, end in zip(starts, ends):
        wrong = np.flatnonzero(frame_N[start:end] != np.arange(end - start))
        if len(wrong) or int(episode_N[start]) in seen:
            row = int(start + (wrong[0] if len(wrong) else 0))
            raise DataError(
                f"{shard.path / 'frame.npy'}: row {row}: frame {frame_N[row]} of episode {episode_N[row]} is out of order: "
                "an episode has frames 0, 1, 2... in rows that follow each other"
            )
        seen.add(int(episode_N[start]))
    return [ShardEpisode(shard=shard, rows=slice(int(a), int(b))) for a, b in zip(starts, ends)]


def episode_rows(episode: ShardEpisode, meta: DatasetMeta, gripper_closed: float) -> dict[str, np.ndarray]:
    """The values of ``features`` that are no pictures, [T, ...]; ``gripper_closed`` is the gripper's joint when closed."""
    cameras = [camera.name for camera in meta.body.cameras]
    arrays = {name: np.asarray(array[episode.rows]) for name, array in episode.shard.arrays.items() if name not in cameras}
    classes = arrays["object_class"]
    absent = (classes < 0).any(-1)
    rows = {
        fmt.STATE: arrays["proprio"],
        fmt.ACTION: done_actions(arrays["proprio"], arrays["plan"][:, 0, 0].astype(int), meta, gripper_closed),
        fmt.CHUNK: arrays["actions"][:, 0],
        fmt.COMMITTED: arrays["committed"][:, 0],
        fmt.PLAN: arrays["plan"][:, 0],
        fmt.OBJECT_UV: np.where(absent[..., None], np.float32(0.0), arrays["object_uv"]),  # LeRobot's statistics know no NaN
        fmt.OBJECT_CLASS: classes,
    }
    touch = arrays.get("touch")
    if touch is not None and touch.shape[1] > 1 and np.isfinite(touch).all():
        rows["vla.touch"] = touch
    return rows


def episode_pictures(episode: ShardEpisode, meta: DatasetMeta) -> dict[str, np.ndarray]:
    """uint8 [T, H, W, 3] of each camera's feature."""
    return {fmt.CAMERA + camera.name: np.asarray(episode.shard.arrays[camera.name][episode.rows]) for camera in meta.body.cameras}


def done_actions(proprio_TS: np.ndarray, phase_T: np.ndarray, meta: DatasetMeta, gripper_closed: float) -> np.ndarray:
    """What the robot did until the next frame, float32 [T, D] within the action's bounds: LeRobot's ``action``.

    Relative dimensions are the next frame's state minus this one's; a dimension that moves no entry of proprioception is 0. A gripper that holds something stands at its width; what was commanded
    is "closed", so that is the action while something is held. ``terminate`` is 1 in the phase "done". The last frame stays where it is.
    """
    spec, moved = meta.action, dict(meta.body.moved_state)
    next_TS = np.concatenate([proprio_TS[1:], proprio_TS[-1:]])
    actions = np.zeros((len(proprio_TS), spec.num_dims))
    holding = np.isin(phase_T, [meta.phases.index(word) for word in HOLDING if word in meta.phases])
    for index, dim in enumerate(spec.dims):
        if dim.kind == "terminate":
            actions[:, index] = phase_T == (meta.phases.index("done") if "done" in meta.phases else -1)
            continue
        if dim.name not in moved:
            continue
        column = meta.body.proprio_names.index(moved[dim.name])
        actions[:, index] = next_TS[:, column] - (proprio_TS[:, column] if dim.relative else 0.0)
        if dim.kind == "rotation":
            actions[:, index] = np.mod(actions[:, index] + np.pi, 2 * np.pi) - np.pi
        if dim.kind == "gripper":
            actions[holding, index] = gripper_closed
    return spec.clip(actions).astype(np.float32)


def check_spec(spec: ActionSpec, where: Path) -> int:
    """Frames a second of an action's time step.

    Raises:
        DataError: it is no whole number, which LeRobot needs.
    """
    fps = round(1.0 / spec.dt_s)
    if abs(fps * spec.dt_s - 1.0) > 1e-6:
        raise DataError(f"{where}: the action's step of {spec.dt_s} s is {1 / spec.dt_s:.3f} a second, LeRobot needs a whole number")
    return fps
