# SPDX-License-Identifier: Apache-2.0
"""Reads a LeRobotDataset v3 folder, whoever wrote it. Axes: T frames of an episode."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vla_ros.core.schema import Fields
from vla_ros.dataset import lerobot_format as fmt
from vla_ros.dataset.pictures import FilmReader
from vla_ros.train.shards import DataError

_EPISODE_COLUMNS = ("episode_index", "length", "data/chunk_index", "data/file_index", "dataset_from_index", "dataset_to_index")


@dataclass
class LeRobotFolder:
    """What `meta/` says.

    Attributes:
        root: the folder.
        fps: frames a second.
        features: by name, as in `info.json`.
        tasks: texts by ``task_index``.
        episodes: one mapping each, in order, without statistics.
        episode_files: file and row of each episode's entry, for messages.
        ours: content of `meta/vla_ros.json`, empty in folders of others.
    """

    root: Path
    fps: float
    robot_type: str
    features: dict[str, dict[str, Any]]
    tasks: dict[int, str]
    episodes: list[dict[str, Any]]
    episode_files: list[str]
    ours: dict[str, Any]
    data_path: str
    video_path: str
    totals: tuple[int, int]
    _table: tuple[Path, pa.Table] | None = field(default=None, repr=False)
    _films: dict[str, FilmReader] = field(default_factory=dict, repr=False)

    @property
    def cameras(self) -> list[str]:
        """Features that are pictures, as films or in the rows."""
        return [key for key, feature in self.features.items() if feature["dtype"] in ("video", "image")]

    def data_file(self, episode: dict[str, Any]) -> Path:
        """The parquet file with the episode's rows."""
        return self.root / self.data_path.format(chunk_index=episode["data/chunk_index"], file_index=episode["data/file_index"])

    def film_file(self, episode: dict[str, Any], key: str) -> Path:
        """The mp4 with the episode's pictures of a camera; raises DataError if the entry does not say."""
        names = [f"videos/{key}/{name}" for name in ("chunk_index", "file_index", "from_timestamp", "to_timestamp")]
        missing = [name for name in names if episode.get(name) is None]
        if missing:
            raise DataError(f"{self.root}: meta/episodes: episode {episode['episode_index']} has no {', '.join(missing)}")
        return self.root / self.video_path.format(video_key=key, chunk_index=episode[names[0]], file_index=episode[names[1]])

    def table(self, path: Path) -> pa.Table:
        """A parquet file's rows; the last one read is kept."""
        if self._table is None or self._table[0] != path:
            self._table = (path, read_table(path))
        return self._table[1]

    def rows(self, episode: dict[str, Any]) -> dict[str, np.ndarray]:
        """The episode's values of each feature that is no picture, [T, ...], in the type that `info.json` says."""
        table = self.table(self.data_file(episode))
        table = table.filter(pc.equal(table["episode_index"], episode["episode_index"]))
        return {key: column_values(table[key], self.features[key]) for key in self.features if key not in self.cameras}

    def pictures(self, episode: dict[str, Any], key: str) -> np.ndarray:
        """uint8 [T, H, W, 3] of a camera."""
        if self.features[key]["dtype"] == "image":
            table = self.table(self.data_file(episode))
            table = table.filter(pc.equal(table["episode_index"], episode["episode_index"]))
            return np.stack([_decode_picture(cell, self.root) for cell in table[key].to_pylist()])
        path = self.film_file(episode, key)
        film = self._films.get(key)
        if film is None or film.path != path:
            if film is not None:
                film.__exit__()
            film = self._films[key] = FilmReader(path)
        return film.read(episode[f"videos/{key}/from_timestamp"], episode["length"], self.fps)


def open_lerobot(root: Path) -> LeRobotFolder:
    """Reads `meta/` of a folder.

    Raises:
        DataError: a file or a key is missing or wrong, or the folder has another version; names the file.
    """
    path = root / fmt.INFO
    info = Fields(_read_json(path), str(path), DataError)
    version = info.text("codebase_version")
    if not version.startswith("v3."):
        raise info.refuse(f"codebase_version is {version}, v3.* is read: convert it with LeRobot's convert_dataset_v21_to_v30.py")
    features = info.mapping("features")
    for key, feature in features.items():
        entry = Fields(feature, f"{path}: features: {key}", DataError)
        entry.text("dtype")
        if not all(isinstance(size, int) and size > 0 for size in entry.items("shape")):
            raise entry.refuse(f"'shape' must be positive whole numbers, got {feature['shape']}")
    missing = [key for key in fmt.ROW_FEATURES if key not in features]
    if missing:
        raise info.refuse(f"features lack {', '.join(missing)}")
    fps = info.number("fps")
    if fps <= 0:
        raise info.refuse(f"fps must be positive, got {fps}")
    episodes, where = _read_episodes(root)
    ours = root / fmt.OURS
    return LeRobotFolder(
        root=root, fps=fps, robot_type=str(info.raw("robot_type", "")), features=features, tasks=_read_tasks(root / fmt.TASKS),
        episodes=episodes, episode_files=where, ours=_read_json(ours) if ours.exists() else {},
        data_path=info.text("data_path"), video_path=str(info.raw("video_path", "")),
        totals=(info.integer("total_episodes", 0), info.integer("total_frames", 0)),
    )  # fmt: skip


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}; give the folder of a LeRobotDataset v3") from error


def read_table(path: Path) -> pa.Table:
    """A parquet file; raises DataError naming it."""
    try:
        return pq.read_table(path, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"cannot read {path}: {error}") from error


def _read_tasks(path: Path) -> dict[int, str]:
    table = read_table(path)
    texts = [name for name in table.column_names if name != "task_index"]
    if "task_index" not in table.column_names or len(texts) != 1:
        raise DataError(f"{path}: expected the columns task_index and a text, got {table.column_names}")
    return dict(zip(table["task_index"].to_pylist(), table[texts[0]].to_pylist()))


def _read_episodes(root: Path) -> tuple[list[dict[str, Any]], list[str]]:
    files = sorted((root / "meta" / "episodes").glob("*/*.parquet"))
    if not files:
        raise DataError(f"{root / 'meta' / 'episodes'} has no parquet file: copy the dataset again")
    episodes, where = [], []
    for path in files:
        table = read_table(path)
        missing = [name for name in _EPISODE_COLUMNS if name not in table.column_names]
        if missing:
            raise DataError(f"{path}: columns {', '.join(missing)} are missing")
        rows = table.select([name for name in table.column_names if not name.startswith("stats/")]).to_pylist()
        episodes += rows
        where += [f"{path}: row {row}" for row in range(len(rows))]
    return episodes, where


def column_values(column: pa.ChunkedArray, feature: dict[str, Any]) -> np.ndarray:
    """A column as an array [T, ...]; scalars have the shape [T]. A null is NaN."""
    shape = [] if list(feature["shape"]) == [1] else list(feature["shape"])
    if feature["dtype"] == "string":
        return np.array(column.to_pylist(), dtype=object)
    flat = column.combine_chunks()
    while pa.types.is_nested(flat.type):
        flat = flat.flatten()
    values = flat.to_numpy(zero_copy_only=False)
    if values.dtype == object or values.size != len(column) * int(np.prod(shape)):
        values = np.array([np.nan if v is None else v for v in flat.to_pylist()], dtype=np.float64)
        if values.size != len(column) * int(np.prod(shape)):
            raise DataError(f"rows have another shape than {shape}")
    return values.reshape(len(column), *shape)


def _decode_picture(cell: dict[str, Any], root: Path) -> np.ndarray:
    data = cell.get("bytes") or (root / cell["path"]).read_bytes()
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        raise DataError(f"{root}: the picture {cell.get('path')} is damaged")
    return picture[..., ::-1]
