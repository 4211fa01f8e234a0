# SPDX-License-Identifier: Apache-2.0
"""Writes imported episodes as shards that `vla train` reads: one label a frame. Axes: T frames, H steps, D dimensions."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from vla_ros.core.embodiment import EMBODIMENTS, TABLETOP, Embodiment
from vla_ros.core.errors import ConfigError
from vla_ros.robot.description import RobotDescription
from vla_ros.train.shards import FORMAT_VERSION, DatasetMeta, open_shard, read_meta

# What `vla collect` writes into meta.yaml, repeated since the simulator is not imported here; a test keeps them equal.
PHASES = ("approach", "descend", "grasp", "lift", "carry", "lower", "release", "retreat", "push", "done")
COLOURS = ("red", "green", "blue", "yellow", "purple")
KINDS = ("cube", "cylinder", "brick", "bowl", "pad")
MAX_OBJECTS = 8
PLAN_LOW, PLAN_HIGH = (0.10, -0.35), (0.60, 0.35)  # m, base_link
_FRAMES_PER_SHARD = 1000


@dataclass(frozen=True, kw_only=True)
class LabelledEpisode:
    """An episode with the arrays of a shard, [T, ...] with one label, and T instructions."""

    arrays: dict[str, np.ndarray]
    instructions: list[str]


def default_meta(body: Embodiment, robot: RobotDescription) -> dict[str, Any]:
    """The content of meta.yaml for a body with one label a frame. Places of other bodies than the tabletop's lie in the robot's workspace."""
    low, high = PLAN_LOW, PLAN_HIGH
    if body is not TABLETOP:
        low, high = robot.workspace_min[:2].tolist(), robot.workspace_max[:2].tolist()
    return {
        "format_version": FORMAT_VERSION, "K": 1, "M": MAX_OBJECTS, "phases": list(PHASES), "colours": list(COLOURS), "kinds": list(KINDS),
        "plan": {"low": list(low), "high": list(high), "unit": "m", "frame": body.base_frame},
        "action": body.action.to_dict(), "record_rate_hz": 1.0 / body.action.dt_s, "proprio": list(body.proprio_names),
        "embodiment": body.name if body.name in EMBODIMENTS else body.to_dict(),
    }  # fmt: skip


@dataclass
class ShardWriter:
    """Collects episodes and writes a shard whenever there is enough; each is opened and checked before it gets its name.

    Attributes:
        folder: of the dataset; shards are added to what is there if its meta.yaml says the same.
        name: part of the shards' names.
        meta: content of meta.yaml.
    """

    folder: Path
    name: str
    meta: dict[str, Any]
    frames: int = 0
    episodes: int = 0
    _waiting: list[LabelledEpisode] = field(default_factory=list)
    _texts: set[str] = field(default_factory=set)
    _written: int = 0

    def add(self, episode: LabelledEpisode) -> None:
        """Takes an episode."""
        self._waiting.append(episode)
        self._texts.update(episode.instructions)
        self.frames += len(episode.instructions)
        if sum(len(e.instructions) for e in self._waiting) >= _FRAMES_PER_SHARD:
            self._flush()

    def close(self) -> None:
        """Writes what is left, and ``texts.txt``, from which the tokenizer learns words.

        Raises:
            ConfigError: there was no episode.
        """
        self._flush()
        if not self.episodes:
            raise ConfigError(f"no episode to write into {self.folder}")
        path = self.folder / "texts.txt"
        known = set(path.read_text(encoding="utf-8").splitlines()) if path.exists() else set()
        path.write_text("\n".join(sorted(known | self._texts)) + "\n", encoding="utf-8")

    def _flush(self) -> None:
        if not self._waiting:
            return
        meta = self._open_meta()
        episodes, self._waiting = self._waiting, []
        texts = sorted({text for e in episodes for text in e.instructions})
        index = {text: number for number, text in enumerate(texts)}
        lengths = [len(e.instructions) for e in episodes]
        arrays = {name: np.concatenate([e.arrays[name] for e in episodes]) for name in episodes[0].arrays}
        arrays["text_index"] = np.array([[index[text]] for e in episodes for text in e.instructions], dtype=np.int32)
        arrays["episode"] = np.repeat(np.arange(self.episodes, self.episodes + len(episodes)), lengths).astype(np.int32)
        arrays["frame"] = np.concatenate([np.arange(n) for n in lengths]).astype(np.int32)
        path = self.folder / f"shard_{self.name}_{self._written:04d}"
        if path.exists():
            raise ConfigError(f"{path} exists: import into another folder, or remove it")
        partial = path.with_name(path.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name, array in arrays.items():
            np.save(partial / f"{name}.npy", array)
        (partial / "instructions.json").write_text(json.dumps(texts, indent=0, ensure_ascii=False), encoding="utf-8")
        open_shard(partial, meta)
        partial.rename(path)
        self.episodes += len(episodes)
        self._written += 1

    def _open_meta(self) -> DatasetMeta:
        """Reads, or writes and reads, what the folder's arrays mean."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "meta.yaml"
        own = yaml.safe_dump(self.meta, sort_keys=False)
        if not path.exists():
            path.write_text(own, encoding="utf-8")
            return read_meta(self.folder)
        found = read_meta(self.folder)
        for key in ("K", "M", "phases", "colours", "kinds", "plan", "action", "embodiment"):
            there, here = (
                yaml.safe_load(text).get(key, "tabletop" if key == "embodiment" else None)
                for text in (path.read_text(encoding="utf-8"), own)
            )
            if there != here:
                raise ConfigError(f"{path}: {key} is {there}, the import writes {here}: import into another folder")
        return found


def blank_objects(count: int, objects: int = MAX_OBJECTS) -> dict[str, np.ndarray]:
    """The arrays of frames in which nobody marked the objects."""
    return {
        "object_uv": np.full((count, objects, 2), np.nan, dtype=np.float32),
        "object_class": np.full((count, objects, 2), -1, dtype=np.int16),
    }
