# SPDX-License-Identifier: Apache-2.0
"""Writes a LeRobotDataset v3 folder, episode by episode. Axes: T frames of an episode."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vla_ros.core.errors import ConfigError
from vla_ros.dataset import lerobot_format as fmt
from vla_ros.dataset.pictures import FilmWriter, film_facts
from vla_ros.dataset.statistics import PixelStatistics, sampled_frames, vector_statistics

_EPISODES_PER_FILE = 5000  # some 5 kB of statistics each: below LeRobot's 100 MB


class LeRobotWriter:
    """A folder that appears under its name only when complete. One thread; use as a context manager.

    Args:
        root: must not exist.
        fps: frames a second.
        features: by name, in LeRobot's form: ``dtype`` (``video`` for pictures), ``shape``, ``names``.
        robot_type: name of the robot.
        extra: kept in `meta/vla_ros.json`, which LeRobot does not read.
        codec, crf: of the films.

    Raises:
        ConfigError: the folder exists.
    """

    def __init__(
        self,
        root: Path,
        *,
        fps: int,
        features: dict[str, dict[str, Any]],
        robot_type: str,
        extra: dict[str, Any],
        codec: str = "h264",
        crf: int = 18,
    ) -> None:
        if root.exists():
            raise ConfigError(f"{root} exists: choose another name, or remove it")
        self._final, self._root = root, root.with_name(root.name + ".partial")
        shutil.rmtree(self._root, ignore_errors=True)
        self._fps, self._robot_type, self._extra, self._codec, self._crf = fps, robot_type, extra, codec, crf
        self._features = {**features, **fmt.ROW_FEATURES}
        self._cameras = [key for key, feature in features.items() if feature["dtype"] == "video"]
        self._schema = pa.schema([(key, fmt.arrow_type(f)) for key, f in self._features.items() if f["dtype"] != "video"])
        self._tasks: dict[str, int] = {}
        self._episodes: list[dict[str, Any]] = []
        self._values: dict[str, list[np.ndarray]] = {name: [] for name in self._schema.names}
        self._pixels = {key: PixelStatistics() for key in self._cameras}
        self._films: dict[str, FilmWriter] = {}
        self._places = dict.fromkeys(("data", *self._cameras), (0, 0))
        self._data: pq.ParquetWriter | None = None
        self._frames = 0

    def add_episode(self, rows: dict[str, np.ndarray], pictures: dict[str, np.ndarray], tasks: list[str]) -> None:
        """Appends an episode of T >= 1 frames.

        Args:
            rows: [T, ...] of each feature that is no picture, without LeRobot's own columns.
            pictures: uint8 [T, H, W, 3] of each camera's feature.
            tasks: T texts.
        """
        count, number = len(tasks), len(self._episodes)
        for text in tasks:
            self._tasks.setdefault(text, len(self._tasks))
        rows = rows | {
            "timestamp": (np.arange(count) / self._fps).astype(np.float32),
            "frame_index": np.arange(count),
            "episode_index": np.full(count, number),
            "index": self._frames + np.arange(count),
            "task_index": np.array([self._tasks[text] for text in tasks]),
        }
        episode: dict[str, Any] = {"episode_index": number, "tasks": sorted(set(tasks), key=tasks.index), "length": count}
        episode |= self._write_rows(rows, count)
        statistics = {name: vector_statistics(rows[name]) for name in self._schema.names}
        for key in self._cameras:
            counted = PixelStatistics()
            counted.add(pictures[key][sampled_frames(count)])
            self._pixels[key].merge(counted)
            statistics[key] = counted.result()
            episode |= self._write_film(key, pictures[key])
        episode |= {f"stats/{key}/{name}": value for key, entries in statistics.items() for name, value in entries.items()}
        place = divmod(number // _EPISODES_PER_FILE, fmt.CHUNK_FILES)
        episode |= {"meta/episodes/chunk_index": place[0], "meta/episodes/file_index": place[1]}
        self._episodes.append(episode)

    def _write_rows(self, rows: dict[str, np.ndarray], count: int) -> dict[str, Any]:
        columns = []
        for field in self._schema:
            values = np.asarray(rows[field.name])
            self._values[field.name].append(values)
            columns.append(pa.array(values.tolist(), field.type))
        path = self._path(fmt.DATA_PATH, "data")
        if self._data is not None and path.stat().st_size >= fmt.DATA_FILE_MB << 20:
            self._data.close()
            self._data, self._places["data"] = None, fmt.next_file(self._places["data"])
            path = self._path(fmt.DATA_PATH, "data")
        if self._data is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._data = pq.ParquetWriter(path, self._schema, compression="snappy", use_dictionary=True)
        self._data.write_table(pa.Table.from_arrays(columns, schema=self._schema))
        begin, self._frames = self._frames, self._frames + count
        chunk, file = self._places["data"]
        return {"data/chunk_index": chunk, "data/file_index": file, "dataset_from_index": begin, "dataset_to_index": self._frames}

    def _write_film(self, key: str, pictures: np.ndarray) -> dict[str, Any]:
        film = self._films.get(key)
        if film is not None and film.path.stat().st_size >= fmt.VIDEO_FILE_MB << 20:
            film.close()
            film, self._places[key] = None, fmt.next_file(self._places[key])
        if film is None:
            height, width = self._features[key]["shape"][:2]
            film = FilmWriter(self._path(fmt.VIDEO_PATH, key), self._fps, height, width, self._codec, self._crf)
            self._films[key] = film
        begin_s = film.frames / self._fps
        film.add(pictures)
        chunk, file = self._places[key]
        entries = {"chunk_index": chunk, "file_index": file, "from_timestamp": begin_s, "to_timestamp": film.frames / self._fps}
        return {f"videos/{key}/{name}": value for name, value in entries.items()}

    def close(self) -> None:
        """Writes everything in `meta/` and gives the folder its name.

        Raises:
            ConfigError: there was no episode.
        """
        if not self._episodes or self._data is None:
            raise ConfigError("there is no episode to write")
        self._data.close()
        for key, film in self._films.items():
            film.close()
            first = self._root / fmt.VIDEO_PATH.format(video_key=key, chunk_index=0, file_index=0)
            self._features[key] = {**self._features[key], "info": film_facts(first)}
        for begin in range(0, len(self._episodes), _EPISODES_PER_FILE):
            batch = self._episodes[begin : begin + _EPISODES_PER_FILE]
            place = {"chunk_index": batch[0]["meta/episodes/chunk_index"], "file_index": batch[0]["meta/episodes/file_index"]}
            self._write_table(fmt.EPISODES_PATH.format(**place), pa.Table.from_pylist(batch))
        self._write_table(fmt.TASKS, fmt.tasks_table(list(self._tasks)))
        statistics = {key: pixels.result() for key, pixels in self._pixels.items()}
        statistics |= {name: vector_statistics(np.concatenate(parts)) for name, parts in self._values.items()}
        for name, content in ((fmt.STATS, statistics), (fmt.INFO, self._info()), (fmt.OURS, self._extra)):
            (self._root / name).write_text(json.dumps(content, indent=4, ensure_ascii=False, allow_nan=False), encoding="utf-8")
        self._root.rename(self._final)

    def _info(self) -> dict[str, Any]:
        return {
            "codebase_version": fmt.VERSION, "robot_type": self._robot_type,
            "total_episodes": len(self._episodes), "total_frames": self._frames, "total_tasks": len(self._tasks),
            "chunks_size": fmt.CHUNK_FILES, "data_files_size_in_mb": fmt.DATA_FILE_MB, "video_files_size_in_mb": fmt.VIDEO_FILE_MB,
            "fps": self._fps, "splits": {"train": f"0:{len(self._episodes)}"},
            "data_path": fmt.DATA_PATH, "video_path": fmt.VIDEO_PATH if self._cameras else None, "features": self._features,
        }  # fmt: skip

    def _path(self, pattern: str, key: str) -> Path:
        chunk, file = self._places[key]
        return self._root / pattern.format(video_key=key, chunk_index=chunk, file_index=file)

    def _write_table(self, name: str, table: pa.Table) -> None:
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path, compression="snappy")

    def __enter__(self) -> LeRobotWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self.close()
