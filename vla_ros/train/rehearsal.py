# SPDX-License-Identifier: Apache-2.0
"""Rehearsal: batches of a new task hold some frames of the old ones, drawn from whole datasets or from a small memory of episodes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vla_ros.core.errors import ConfigError
from vla_ros.train.data import is_held_out
from vla_ros.train.shards import DataError, find_shards, open_shard, read_meta


def rehearsal_weights(new_frames: Sequence[int], old_frames: Sequence[int], share: float) -> list[float]:
    """How often to draw from each dataset, the new ones first: together `share` from the old ones, within each group by size.

    Raises:
        ConfigError: a share outside 0..1, or a group without frames.
    """
    if not 0.0 < share < 1.0:
        raise ConfigError(f"the share of rehearsal must lie between 0 and 1, got {share}")
    for name, frames in (("new", new_frames), ("old", old_frames)):
        if not frames or min(frames) < 1:
            raise ConfigError(f"rehearsal needs frames in every {name} dataset, got {list(frames)}")
    return [(1.0 - share) * count / sum(new_frames) for count in new_frames] + [share * count / sum(old_frames) for count in old_frames]


def write_memory(folder: Path, out: Path, episodes: int, val_fraction: float, seed: int = 0) -> int:
    """Copies random whole episodes of a dataset into a new dataset folder, each equally likely, and returns how many frames they have.

    Args:
        folder: dataset that `vla collect` wrote.
        out: must not exist.
        episodes: how many; none of those held out by `val_fraction`, so that measuring on these stays honest.
        seed: of the choice.

    Raises:
        ConfigError: `out` exists, or the dataset has too few episodes.
    """
    if out.exists():
        raise ConfigError(f"{out} exists: give another folder for the memory")
    meta = read_meta(folder)
    shards = [open_shard(path, meta) for path in find_shards(folder, meta.body)]
    known = [(index, int(episode)) for index, shard in enumerate(shards) for episode in np.unique(shard.arrays["episode"]) if not is_held_out(episode, val_fraction)]
    if not 0 < episodes <= len(known):
        raise ConfigError(f"{folder} has {len(known)} episodes to train on, a memory of {episodes} was asked for")
    chosen = [known[index] for index in np.random.default_rng(seed).choice(len(known), size=episodes, replace=False)]
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    shutil.copyfile(folder / "meta.yaml", part / "meta.yaml")
    frames = 0
    for index, shard in enumerate(shards):
        wanted = [episode for shard_index, episode in chosen if shard_index == index]
        rows = np.flatnonzero(np.isin(shard.arrays["episode"], wanted))
        if not len(rows):
            continue
        target = part / f"shard_memory_{index:04d}"
        target.mkdir()
        for name in shard.arrays:
            np.save(target / f"{name}.npy", shard.arrays[name][rows])
        (target / "instructions.json").write_text(json.dumps(shard.instructions, ensure_ascii=False), encoding="utf-8")
        frames += len(rows)
    if not frames:
        raise DataError(f"{folder}: none of the chosen episodes has frames")
    part.rename(out)
    return frames
