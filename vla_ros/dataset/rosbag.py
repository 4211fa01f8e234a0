# SPDX-License-Identifier: Apache-2.0
"""Recordings of a robot to shards: cut into episodes, brought to the action's rate, labelled by what the robot did.

Axes: T frames an action step apart, N messages, J joints.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vla_ros.dataset.bag import Bag, Samples, find_recordings, read_bag, texts_of
from vla_ros.dataset.hindsight import check_body, labels_of, motion_of
from vla_ros.dataset.lerobot import Counts, clipped_note
from vla_ros.dataset.mapping import Mapping, check_limits
from vla_ros.dataset.shard_writer import LabelledEpisode, ShardWriter, default_meta
from vla_ros.robot.description import RobotDescription
from vla_ros.train.shards import DataError


def import_rosbag(sources: list[Path], out: Path, mapping: Mapping, *, name: str = "rosbag") -> Counts:
    """Writes MCAP recordings as shards.

    An episode goes from one instruction to the next one, to an empty one (the robot was told to stop) or to the end of its file. The
    same text again goes on with the episode. Frames are an action step apart and begin when every topic has begun; each has the newest picture
    of its time and the joints interpolated at it.

    Args:
        sources: MCAP files, or folders with some.
        out: folder of shards.
        mapping: what the topics mean.
        name: part of the shards' names.

    Raises:
        DataError: a topic is missing, has a wrong rate or a gap, a value is not finite or out of the robot's limits, or an episode is
            empty; names file, topic and message.
    """
    check_body(mapping.body, mapping.robot)
    meta = default_meta(mapping.body, mapping.robot)
    writer, counts, moved = ShardWriter(folder=out, name=name, meta=meta), Counts(), 0
    for path in find_recordings(sources):
        bag = read_bag(path, mapping)
        for samples in (*bag.cameras.values(), *bag.state, *bag.action):
            check_rate(samples, mapping.rate_tolerance)
        for part in episodes_of(bag, mapping):
            arrays, clipped = _labelled(bag, part, mapping, meta)
            moved += clipped
            writer.add(LabelledEpisode(arrays=arrays, instructions=[part.text] * len(part.time_T)))
    writer.close()
    counts.episodes, counts.frames = writer.episodes, writer.frames
    if moved:
        counts.notes.append(clipped_note(moved))
    return counts


@dataclass(frozen=True, kw_only=True)
class Part:
    """An episode's place in a recording: the times of its frames, s."""

    time_T: np.ndarray
    text: str


def check_rate(samples: Samples, tolerance: float) -> None:
    """Raises DataError if a stream's median interval is not that of its rate."""
    rate = samples.stream.rate_hz
    if rate is None:
        return
    if len(samples.time_N) < 2:
        raise DataError(f"{samples.file}: {samples.stream.topic} has a single message, {rate:g} Hz are expected")
    median_s = float(np.median(np.diff(samples.time_N)))
    if not abs(median_s * rate - 1.0) <= tolerance:
        found = f"{1 / median_s:.3g} Hz" if median_s > 0 else "no time between messages"
        raise DataError(
            f"{samples.file}: {samples.stream.topic}: {found}, the mapping says {rate:g} Hz: record again, or correct rate_hz (or time, if stamps are not the sensor's)"
        )


def episodes_of(bag: Bag, mapping: Mapping) -> list[Part]:
    """The episodes of a recording.

    Raises:
        DataError: one is shorter than ``min_frames``, or there is none.
    """
    streams = [*bag.cameras.values(), *bag.state, *bag.action]
    begin_s, end_s = max(s.time_N[0] for s in streams), min(s.time_N[-1] for s in streams)
    parts = []
    for start_s, stop_s, text, where in _commands(bag, mapping):
        first_s, last_s = max(start_s, begin_s), min(stop_s, end_s)
        count = int(np.floor((last_s - first_s) / mapping.body.action.dt_s + 1e-6)) + 1 if last_s >= first_s else 0
        if count < mapping.min_frames:
            raise DataError(
                f"{where}: the episode '{text}' has {count} frames of {mapping.body.action.dt_s:g} s in which every topic has begun, at least "
                f"{mapping.min_frames} are needed: cut it off the recording, or lower min_frames in {mapping.path}"
            )
        parts.append(Part(time_T=first_s + mapping.body.action.dt_s * np.arange(count), text=text))
    if not parts:
        raise DataError(f"{bag.path}: no instruction with words came over {mapping.instruction.topic if mapping.instruction else ''}")
    return parts


def _commands(bag: Bag, mapping: Mapping) -> list[tuple[float, float, str, str]]:
    """(begin s, end s, text, place) of each instruction."""
    if bag.instruction is None:
        return [(-np.inf, np.inf, mapping.text, str(bag.path))]
    texts = texts_of(bag.instruction)
    new = [row for row, text in enumerate(texts) if row == 0 or text != texts[row - 1]]
    ends = [bag.instruction.time_N[row] for row in new[1:]] + [np.inf]
    return [(bag.instruction.time_N[row], end, texts[row], bag.instruction.where(row)) for row, end in zip(new, ends) if texts[row]]


def _labelled(bag: Bag, part: Part, mapping: Mapping, meta: dict) -> tuple[dict[str, np.ndarray], int]:
    joints_TJ = _joints_at(bag.state, part.time_T, mapping.robot)
    targets_TJ = _joints_at(bag.action, part.time_T, mapping.robot) if bag.action else None
    arrays, clipped = labels_of(motion_of(joints_TJ, mapping.robot, targets_TJ), mapping.body, mapping.robot, meta)
    for name, samples in bag.cameras.items():
        arrays[name] = samples.value_N[newest_at(samples, part.time_T)]
    return arrays, clipped


def newest_at(samples: Samples, time_T: np.ndarray) -> np.ndarray:
    """The newest message at each time, [T].

    Raises:
        DataError: it is older than ``max_gap_s``.
    """
    row_T = np.searchsorted(samples.time_N, time_T + 1e-9, side="right") - 1
    old = np.flatnonzero(time_T - samples.time_N[row_T] > samples.stream.max_gap_s)
    if len(old):
        t = old[0]
        raise DataError(
            f"{samples.where(row_T[t])}: the next one came more than max_gap_s = {samples.stream.max_gap_s:g} s later, in an episode: "
            "record again, or raise max_gap_s in the mapping"
        )
    return row_T


def _joints_at(streams: list[Samples], time_T: np.ndarray, robot: RobotDescription) -> np.ndarray:
    """Positions interpolated at each time in the description's order, [T, J]."""
    joints_TJ = np.full((len(time_T), len(robot.joint_names)), np.nan)
    for samples in streams:
        stream = samples.stream
        row_T = newest_at(samples, time_T)
        columns = [robot.joint_names.index(joint) for joint in stream.covers]
        for column, values_N in zip(columns, samples.value_N.T):
            joints_TJ[:, column] = np.interp(time_T, samples.time_N, values_N)
        _check(joints_TJ, columns, robot, [samples.where(row) for row in row_T])
    return joints_TJ


def _check(joints_TJ: np.ndarray, columns: list[int], robot: RobotDescription, where: list[str]) -> None:
    """Checks the columns that are known; the others stand at a place that is allowed."""
    full_TJ = np.tile(robot.home, (len(joints_TJ), 1))
    full_TJ[:, columns] = joints_TJ[:, columns]
    check_limits(full_TJ, robot, where)
