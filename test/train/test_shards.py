# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from vla_ros.core.errors import ConfigError
from vla_ros.train.shards import ARRAYS, DataError, find_shards, open_shard, read_meta


def change(path: Path, at: tuple, value: float) -> None:
    array = np.load(path)
    array[at] = value
    np.save(path, array)


def test_a_good_shard_opens_without_copying(dataset_folder):
    shard = open_shard(dataset_folder / "shard_0000", read_meta(dataset_folder))
    assert len(shard) == 32
    assert isinstance(shard.arrays["front"], np.memmap)


@pytest.mark.parametrize("name", ARRAYS)
def test_a_truncated_file_is_refused_by_name(dataset_folder, name):
    path = dataset_folder / "shard_0001" / f"{name}.npy"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(DataError, match=f"shard_0001.{name}.npy"):
        open_shard(path.parent, read_meta(dataset_folder))


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_of_another_length_is_refused_by_name(dataset_folder, name):
    path = dataset_folder / "shard_0000" / f"{name}.npy"
    np.save(path, np.load(path)[:-1])
    named = "front" if name == "episode" else name  # the episodes' length is what the others are compared with
    with pytest.raises(DataError, match=rf"{named}.npy: expected \w+ \[3[12]"):
        open_shard(path.parent, read_meta(dataset_folder))


@pytest.mark.parametrize(
    ("name", "at", "value", "words"),
    [
        ("proprio", (3, 1), np.nan, "row 3: values must be finite"),
        ("actions", (5, 1, 2, 0), np.inf, "row 5: values must be finite"),
        ("actions", (7, 0, 0, 1), 0.26, "row 7: actions must be within bounds"),
        ("plan", (2, 1, 0), 3, "row 2: phase"),
        ("plan", (2, 1, 0), 0.5, "row 2: phase"),
        ("text_index", (4, 2), 3, "row 4: expected an index of the 3 instructions"),
        ("text_index", (4, 2), -1, "row 4: expected an index"),
        ("object_class", (6, 0, 1), 2, "row 6: expected colour, kind"),
        ("object_uv", (1, 2, 0), np.nan, "row 1: a present object needs finite coordinates"),
    ],
)
def test_a_wrong_value_is_refused_with_file_and_row(dataset_folder, name, at, value, words):
    path = dataset_folder / "shard_0000" / f"{name}.npy"
    change(path, at, value)
    with pytest.raises(DataError, match=f"{name}.npy: {words}"):
        open_shard(path.parent, read_meta(dataset_folder))


def test_pickled_arrays_are_never_loaded(dataset_folder):
    path = dataset_folder / "shard_0000" / "proprio.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="proprio.npy"):
        open_shard(path.parent, read_meta(dataset_folder))


def test_an_empty_shard_is_refused(dataset_folder):
    shard = dataset_folder / "shard_0000"
    for name in ARRAYS:
        np.save(shard / f"{name}.npy", np.load(shard / f"{name}.npy")[:0])
    with pytest.raises(DataError, match="episode.npy is empty"):
        open_shard(shard, read_meta(dataset_folder))


@pytest.mark.parametrize("text", ["[", "{}", '["go", 3]', '["go", " "]'])
def test_unusable_instructions_are_refused(dataset_folder, text):
    (dataset_folder / "shard_0000" / "instructions.json").write_text(text)
    with pytest.raises(DataError, match="instructions.json"):
        open_shard(dataset_folder / "shard_0000", read_meta(dataset_folder))


def test_unfinished_shards_are_not_found(dataset_folder):
    (dataset_folder / "shard_0001" / "plan.npy").unlink()
    (dataset_folder / "shard_0000").rename(dataset_folder / "shard_0000.partial")
    assert find_shards(dataset_folder) == []


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("format_version", 1, "collect again"),
        ("K", 0, "'K' must be in"),
        ("plan", {"low": [0.6, 0], "high": [0.1, 1]}, "must lie below"),
        ("plan", {"low": [0.6], "high": [0.1, 1]}, "'low' must be"),
        ("action", {"horizon": 5}, "dims"),
    ],
)
def test_a_wrong_meta_is_refused(dataset_folder, key, value, words):
    path = dataset_folder / "meta.yaml"
    meta = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**meta, key: value}))
    with pytest.raises(ConfigError, match=words):
        read_meta(dataset_folder)


def test_a_missing_meta_says_what_to_give(tmp_path):
    with pytest.raises(DataError, match="vla collect"):
        read_meta(tmp_path)


@pytest.mark.parametrize(("change", "words"), [(lambda a: a[:3], "fingers"), (lambda a: a.astype(np.float64), "float32"), (lambda a: np.where(np.arange(len(a))[:, None] == 4, np.inf, a).astype(np.float32), "row 4")])
def test_touch_that_cannot_be_is_refused(dataset_folder, change, words):
    path = dataset_folder / "shard_0000" / "touch.npy"
    np.save(path, change(np.load(path)))
    with pytest.raises(DataError, match=words):
        open_shard(path.parent, read_meta(dataset_folder))
    path.unlink()
    assert "touch" not in open_shard(path.parent, read_meta(dataset_folder)).arrays  # data from before it stay good
