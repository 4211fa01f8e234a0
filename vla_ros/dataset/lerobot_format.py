# SPDX-License-Identifier: Apache-2.0
"""The layout of a LeRobotDataset v3 folder (https://huggingface.co/docs/lerobot/lerobot-dataset-v3), and the names of what is ours in it.

Every frame is a row of `data/`; episodes follow each other in few large files, and `meta/episodes/` says where each begins and ends.
Features that only this project knows are called `vla.*`: LeRobot's policies take what begins with `observation` or `action`.
"""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

VERSION = "v3.0"
CHUNK_FILES, DATA_FILE_MB, VIDEO_FILE_MB = 1000, 100, 200  # LeRobot's defaults
INFO, STATS, TASKS, OURS = "meta/info.json", "meta/stats.json", "meta/tasks.parquet", "meta/vla_ros.json"
FILE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
EPISODES_PATH = f"meta/episodes/{FILE}.parquet"
DATA_PATH = f"data/{FILE}.parquet"
VIDEO_PATH = f"videos/{{video_key}}/{FILE}.mp4"

STATE, ACTION, CAMERA = "observation.state", "action", "observation.images."
CHUNK, COMMITTED, PLAN, OBJECT_UV, OBJECT_CLASS = "vla.action_chunk", "vla.committed", "vla.plan", "vla.object_uv", "vla.object_class"

_SCALAR = {"shape": [1], "names": None}
ROW_FEATURES: dict[str, dict[str, Any]] = {
    "timestamp": {"dtype": "float32", **_SCALAR},
    "frame_index": {"dtype": "int64", **_SCALAR},
    "episode_index": {"dtype": "int64", **_SCALAR},
    "index": {"dtype": "int64", **_SCALAR},
    "task_index": {"dtype": "int64", **_SCALAR},
}
TIME_TOLERANCE_S = 1e-4  # LeRobot's, of a row's timestamp against frame_index / fps


def next_file(place: tuple[int, int]) -> tuple[int, int]:
    """The (chunk, file) after ``place``."""
    chunk, file = place
    return (chunk + 1, 0) if file == CHUNK_FILES - 1 else (chunk, file + 1)


def arrow_type(feature: dict[str, Any]) -> pa.DataType:
    """Column type of a feature that is no picture."""
    kind: pa.DataType = pa.type_for_alias({"bool": "bool_"}.get(feature["dtype"], feature["dtype"]))
    shape = list(feature["shape"])
    if shape == [1]:
        return kind
    if len(shape) == 1:
        return pa.list_(kind, shape[0])
    for _ in shape:
        kind = pa.list_(kind)
    return kind


def tasks_table(tasks: list[str]) -> pa.Table:
    """`meta/tasks.parquet`: LeRobot reads it by pandas with the text as the index, so pandas' own metadata has to be there."""
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "__index_level_0__": pa.array(tasks, pa.string())})
    index = {"name": None, "field_name": "__index_level_0__", "pandas_type": "unicode", "numpy_type": "object", "metadata": None}
    column = {"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64", "metadata": None}
    described = {
        "index_columns": ["__index_level_0__"],
        "column_indexes": [
            {"name": None, "field_name": None, "pandas_type": "unicode", "numpy_type": "object", "metadata": {"encoding": "UTF-8"}}
        ],
        "columns": [column, index],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.0.0",
    }
    return table.replace_schema_metadata({"pandas": json.dumps(described)})
