# SPDX-License-Identifier: Apache-2.0
"""How much a dataset holds and the statistics of its numbers. Axes: N frames, D dimensions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vla_ros.core.dataset_statistics import DatasetStatistics, ValueStatistics, quantile_mask, write_dataset_statistics
from vla_ros.dataset import lerobot_format as fmt
from vla_ros.train.shards import DataError, find_shards, open_shard, read_meta


def summary(folder: Path) -> dict[str, Any]:
    """``episodes``, ``frames`` and ``statistics`` by feature: mean, std, min, max, q01, q99, each a list of D.

    Raises:
        DataError: the dataset is damaged.
    """
    if (folder / fmt.INFO).exists():
        return _lerobot_summary(folder)
    found = shard_statistics(folder)
    statistics = {"action": found.action.to_dict()} | ({"proprio": found.proprio.to_dict()} if found.proprio else {})
    return {"episodes": found.num_trajectories, "frames": found.num_transitions, "statistics": statistics}


def shard_statistics(folder: Path) -> DatasetStatistics:
    """Of all steps of all chunks of a folder of shards, and of all frames' proprioception."""
    meta = read_meta(folder)
    shards = [open_shard(path, meta) for path in find_shards(folder, meta.body)]
    actions_ND = np.concatenate([shard.arrays["actions"].reshape(-1, meta.action.num_dims) for shard in shards])
    proprio_ND = np.concatenate([shard.arrays["proprio"] for shard in shards])
    return DatasetStatistics(
        action=ValueStatistics.of(actions_ND, quantile_mask(meta.action)),
        proprio=ValueStatistics.of(proprio_ND),
        num_transitions=len(proprio_ND),
        num_trajectories=sum(len(np.unique(shard.arrays["episode"])) for shard in shards),
    )


def write_statistics(folder: Path, path: Path) -> None:
    """Writes OpenVLA's ``dataset_statistics.json``; raises DataError for what are no shards."""
    if (folder / fmt.INFO).exists():
        raise DataError(f"{folder} is a LeRobotDataset: its statistics are in {fmt.STATS}")
    write_dataset_statistics(path, {folder.name: shard_statistics(folder)})


def _lerobot_summary(root: Path) -> dict[str, Any]:
    from vla_ros.dataset.lerobot_reader import open_lerobot

    folder = open_lerobot(root)
    keys = [
        key for key, f in folder.features.items() if key not in fmt.ROW_FEATURES and f["dtype"].startswith("float") and len(f["shape"]) == 1
    ]
    parts: dict[str, list[np.ndarray]] = {key: [] for key in keys}
    for episode in folder.episodes:
        rows = folder.rows(episode)
        for key in keys:
            parts[key].append(rows[key].reshape(episode["length"], -1))
    statistics = {key: ValueStatistics.of(np.concatenate(values)).to_dict() for key, values in parts.items()}
    return {"episodes": len(folder.episodes), "frames": folder.totals[1], "statistics": statistics}
