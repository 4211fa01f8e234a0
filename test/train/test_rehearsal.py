# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from vla_ros.core.errors import ConfigError
from vla_ros.train.data import Dataset, is_held_out
from vla_ros.train.rehearsal import rehearsal_weights, write_memory
from vla_ros.train.synthetic import write_dataset


def test_the_old_datasets_get_their_share_by_size():
    weights = rehearsal_weights([100, 300], [50, 150], 0.2)
    assert weights == pytest.approx([0.2, 0.6, 0.05, 0.15])


def test_batches_hold_the_share(tmp_path):
    old, new = write_dataset(tmp_path / "old", episodes=20), write_dataset(tmp_path / "new", episodes=5, seed=1)
    counts = [Dataset([folder], val_fraction=0.0).num_frames() for folder in (new, old)]
    dataset = Dataset([new, old], rehearsal_weights(counts[:1], counts[1:], 0.25), val_fraction=0.0)
    rng = np.random.default_rng(0)
    drawn = [(shard.path.parent.name, len(rows)) for _ in range(40) for shard, rows in dataset.draw(rng, 50)]
    from_old = sum(count for name, count in drawn if name == "old")
    # of 2000 draws a quarter, deviation sqrt(2000 * 3 / 16) = 19; five of them
    assert abs(from_old - 500) < 97


def test_a_memory_is_a_dataset_of_whole_episodes_that_are_not_held_out(tmp_path):
    folder = write_dataset(tmp_path / "data", shards=2, episodes=10, frames=3)
    assert write_memory(folder, tmp_path / "memory", 5, 0.3) == 15
    memory, whole = Dataset([tmp_path / "memory"], val_fraction=0.0), Dataset([folder], val_fraction=0.3)
    assert memory.meta == whole.meta
    originals = {int(shard.arrays["episode"][row]): (shard, row) for shard in whole.shards for row in range(0, len(shard), 3)}
    seen = set()
    for shard in memory.shards:
        for row in range(0, len(shard), 3):
            episode = int(shard.arrays["episode"][row])
            seen.add(episode)
            source, first = originals[episode]
            for name, array in shard.arrays.items():
                np.testing.assert_array_equal(array[row : row + 3], source.arrays[name][first : first + 3])
            assert shard.instructions == source.instructions
    assert len(seen) == 5 and not is_held_out(np.array(sorted(seen)), 0.3).any()


def test_the_choice_depends_on_the_seed(tmp_path):
    folder = write_dataset(tmp_path / "data", episodes=20, frames=1)
    chosen = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_memory(folder, tmp_path / name, 5, 0.0, seed)
        chosen.append(np.concatenate([shard.arrays["episode"] for shard in Dataset([tmp_path / name], val_fraction=0.0).shards]).tolist())
    assert chosen[0] == chosen[1] != chosen[2]


def test_what_cannot_be_rehearsed_is_refused(tmp_path):
    folder = write_dataset(tmp_path / "data", episodes=3)
    for share in (0.0, 1.0, -1.0):
        with pytest.raises(ConfigError, match="between 0 and 1"):
            rehearsal_weights([1], [1], share)
    with pytest.raises(ConfigError, match="every old dataset"):
        rehearsal_weights([1], [], 0.5)
    with pytest.raises(ConfigError, match="3 episodes to train on, a memory of 4"):
        write_memory(folder, tmp_path / "memory", 4, 0.0)
    with pytest.raises(ConfigError, match="exists"):
        write_memory(folder, folder, 1, 0.0)
