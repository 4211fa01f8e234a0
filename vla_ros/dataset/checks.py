# SPDX-License-Identifier: Apache-2.0
"""Is a dataset whole? Every finding names the file and, where there is one, the row. For shards and for LeRobotDataset v3."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from vla_ros.dataset import lerobot_format as fmt
from vla_ros.train.shards import DataError, Shard, find_shards, open_shard, read_meta


def findings(folder: Path, *, films: bool = True) -> Iterator[str]:
    """What is wrong with a dataset, at most one finding a file, or nothing.

    Args:
        folder: shards (`meta.yaml`) or a LeRobotDataset (`meta/info.json`).
        films: also count the films' frames.

    Raises:
        DataError: the folder is neither.
    """
    if (folder / fmt.INFO).exists():
        yield from _lerobot_findings(folder, films)
    elif (folder / "meta.yaml").exists():
        yield from _shard_findings(folder)
    else:
        raise DataError(f"{folder} is no dataset: it has neither {fmt.INFO} (LeRobotDataset) nor meta.yaml (shards)")


def require(folder: Path) -> None:
    """Raises DataError with the first finding, if there is one."""
    for finding in findings(folder):
        raise DataError(finding)


# ---- shards ----


def _shard_findings(folder: Path) -> Iterator[str]:
    try:
        meta = read_meta(folder)
        values = yaml.safe_load((folder / "meta.yaml").read_text(encoding="utf-8"))
    except DataError as error:
        yield str(error)
        return
    rate = values.get("record_rate_hz")
    if rate is not None and abs(float(rate) * meta.action.dt_s - 1.0) > 1e-3:
        yield f"{folder / 'meta.yaml'}: record_rate_hz is {rate}, the action's step of {meta.action.dt_s} s needs {1 / meta.action.dt_s:g}"
    paths = sorted(path for path in folder.glob("shard_*") if not path.suffix)
    if not paths:
        yield f"no finished shard_* in {folder}: run `vla collect` or an import"
    finished = set(find_shards(folder, meta.body))
    for path in paths:
        try:
            shard = open_shard(path, meta)
            frame_order(shard)
        except DataError as error:
            yield str(error)
        else:
            if path not in finished:
                yield f"{path} lacks a file"


def frame_order(shard: Shard) -> None:
    """Raises DataError unless each episode's frame numbers rise by one from row to row, starting at 0."""
    episode_N, frame_N = shard.arrays["episode"], shard.arrays["frame"]
    begins_N = np.append(True, np.diff(episode_N) != 0)
    expected_N = np.where(begins_N, 0, np.append(0, frame_N[:-1] + 1))
    for row in np.flatnonzero(frame_N != expected_N)[:1]:
        raise DataError(
            f"{shard.path / 'frame.npy'}: row {row}: frame {frame_N[row]} of episode {episode_N[row]}, expected {expected_N[row]}: "
            "rows are missing or out of order, so that the rate is wrong"
        )


# ---- LeRobotDataset ----


def _lerobot_findings(root: Path, films: bool) -> Iterator[str]:
    from vla_ros.dataset.lerobot_reader import open_lerobot

    try:
        folder = open_lerobot(root)
        totals = len(folder.episodes), sum(episode["length"] for episode in folder.episodes)
        yield from _episode_findings(folder)
        if totals != folder.totals:
            yield f"{root / fmt.INFO}: says {folder.totals[0]} episodes, {folder.totals[1]} frames; meta/episodes has {totals[0]} and {totals[1]}"
    except DataError as error:
        yield str(error)
        return
    for path in sorted({folder.data_file(episode) for episode in folder.episodes}):
        yield from _first(lambda path=path: _check_data_file(folder, path))
    if films:
        yield from _film_findings(folder)


def _first(check: Callable[[], None]) -> Iterator[str]:
    try:
        check()
    except DataError as error:
        yield str(error)


def _episode_findings(folder: Any) -> Iterator[str]:
    expected = 0
    for number, (episode, where) in enumerate(zip(folder.episodes, folder.episode_files)):
        begin, end = episode["dataset_from_index"], episode["dataset_to_index"]
        if episode["length"] < 1:
            yield f"{where}: episode {episode['episode_index']} is empty"
        elif episode["episode_index"] != number:
            yield f"{where}: episode_index is {episode['episode_index']}, expected {number}"
        elif begin != expected or end - begin != episode["length"]:
            yield f"{where}: rows {begin} to {end} of length {episode['length']}, expected {expected} to {expected + episode['length']}"
        else:
            expected = end
            continue
        return


def _check_data_file(folder: Any, path: Path) -> None:
    from vla_ros.dataset.lerobot_reader import column_values

    table = folder.table(path)
    wanted = [key for key, feature in folder.features.items() if feature["dtype"] != "video"]
    missing = [key for key in wanted if key not in table.column_names]
    if missing:
        raise DataError(f"{path}: columns {', '.join(missing)} are missing")
    columns = {}
    for key in wanted:
        if folder.features[key]["dtype"] != "image":
            try:
                columns[key] = column_values(table[key], folder.features[key])
            except DataError as error:
                raise DataError(f"{path}: {key}: {error}") from error
    for key, values in columns.items():
        if values.dtype.kind == "f":
            _refuse(path, ~np.isfinite(values), f"{key} must be finite", values)
    episode_N, frame_N = columns["episode_index"], columns["frame_index"]
    entries = {e["episode_index"]: e for e in folder.episodes if folder.data_file(e) == path}
    _refuse(path, ~np.isin(episode_N, list(entries)), "episode_index is of no episode of this file", episode_N)
    for number, entry in entries.items():
        rows = int((episode_N == number).sum())
        if rows != entry["length"]:
            raise DataError(f"{path}: episode {number} has {rows} rows, meta/episodes says {entry['length']}")
    begins_N = np.append(True, np.diff(episode_N) != 0)
    _refuse(
        path, frame_N != np.where(begins_N, 0, np.append(0, frame_N[:-1] + 1)), "frame_index must count 0, 1, 2... in an episode", frame_N
    )
    late_N = np.abs(columns["timestamp"].astype(np.float64) - frame_N / folder.fps) > np.maximum(
        fmt.TIME_TOLERANCE_S, 1e-6 * columns["timestamp"]
    )
    _refuse(path, late_N, f"timestamp must be frame_index / {folder.fps:g}", columns["timestamp"])
    index_N = frame_N + np.array([entries[e]["dataset_from_index"] for e in episode_N.tolist()])
    _refuse(path, columns["index"] != index_N, "index must count all frames of the dataset", columns["index"])
    _refuse(
        path,
        ~np.isin(columns["task_index"], list(folder.tasks)),
        f"task_index must be one of the {len(folder.tasks)} tasks",
        columns["task_index"],
    )


def _refuse(path: Path, bad: np.ndarray, words: str, values: np.ndarray) -> None:
    if bad.any():
        at = tuple(int(i) for i in np.argwhere(bad)[0])
        raise DataError(f"{path}: row {at[0]}: {words}, got {values[at]}")


def _film_findings(folder: Any) -> Iterator[str]:
    from vla_ros.dataset.pictures import count_frames

    needed: dict[Path, int] = {}
    try:
        for episode in folder.episodes:
            for key in folder.cameras:
                if folder.features[key]["dtype"] == "video":
                    path = folder.film_file(episode, key)
                    end = round(episode[f"videos/{key}/from_timestamp"] * folder.fps) + episode["length"]
                    needed[path] = max(needed.get(path, 0), end)
    except DataError as error:
        yield str(error)
        return
    for path, frames in needed.items():
        try:
            there = count_frames(path)
        except DataError as error:
            yield str(error)
            continue
        if there < frames:
            yield f"{path}: has {there} frames, the episodes need {frames}"
