# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from vla_ros.core.action_tokens import ActionTokenizer
from vla_ros.core.errors import ConfigError
from vla_ros.core.tabletop import ACTION_SPEC, PROMPT_TEMPLATE
from vla_ros.train.augment import insert_foreign_words, jitter_pictures
from vla_ros.train.config import DataConfig
from vla_ros.train.data import BatchMaker, Dataset, is_held_out, object_targets
from vla_ros.train.shards import DataError
from vla_ros.train.synthetic import write_dataset, write_shard
from vla_ros.train.tokenizer import train_tokenizer

CONFIG = DataConfig(frames_per_batch=6, labels_per_frame=2, val_fraction=0.3)


def make(folder, config=CONFIG, seed=0) -> BatchMaker:
    dataset = Dataset([folder], val_fraction=config.val_fraction)
    return BatchMaker(dataset, train_tokenizer(dataset.instructions(), PROMPT_TEMPLATE), config, seed)


def tensors(batch) -> dict[str, torch.Tensor]:
    return {**batch.images, **{name: value for name, value in vars(batch).items() if isinstance(value, torch.Tensor)}}


def test_a_batch_depends_on_seed_and_number_only(dataset_folder):
    first, second = make(dataset_folder), make(dataset_folder)
    second.training_batch(0)
    for name, tensor in tensors(first.training_batch(7)).items():
        assert torch.equal(tensor, tensors(second.training_batch(7))[name]), name
    assert not torch.equal(first.training_batch(7).images["front"], first.training_batch(8).images["front"])
    assert not torch.equal(first.training_batch(7).images["front"], make(dataset_folder, seed=1).training_batch(7).images["front"])


def test_shapes_and_types(dataset_folder):
    batch = make(dataset_folder).training_batch(0)
    shapes = {name: (str(tensor.dtype)[6:], tuple(tensor.shape)) for name, tensor in tensors(batch).items()}
    text = shapes.pop("text_NT")
    assert text[0] == "int64" and text[1][0] == 12 and text[1][1] < 24
    assert shapes == {
        "front": ("uint8", (6, 128, 128, 3)),
        "wrist": ("uint8", (6, 64, 64, 3)),
        "proprio_BS": ("float32", (6, 11)),
        "withheld_B": ("bool", (6,)),
        "prefix_NQ": ("int64", (12, 30)),
        "given_NQ": ("int64", (12, 30)),
        "actions_NHD": ("float32", (12, 5, 6)),
        "committed_NH": ("bool", (12, 5)),
        "phase_N": ("int64", (12,)),
        "point_N2": ("float32", (12, 2)),
        "seen_BVC": ("float32", (6, 64, 5)),
        "offset_BV2": ("float32", (6, 64, 2)),
        "occupied_BV": ("bool", (6, 64)),
    }


def test_labels_belong_to_their_frame(dataset_folder):
    """In the made-up data the place that a label names is where the state plus the last step lead."""
    batch = make(dataset_folder, replace(CONFIG, labels_per_frame=3)).training_batch(3)
    tool = batch.proprio_BS[:, 7:9].repeat_interleave(3, dim=0)
    place = batch.point_N2 * torch.tensor([0.5, 0.6]) + torch.tensor([0.1, -0.3])
    inside = ((place - tool).abs() < 0.25).all(-1)
    assert inside.any()
    torch.testing.assert_close((tool + batch.actions_NHD[:, -1, 1:3])[inside], place[inside], rtol=0, atol=1e-5)


def test_text_is_cropped_to_the_longest(dataset_folder):
    batch = make(dataset_folder).training_batch(0)
    assert (batch.text_NT[:, -1] != 0).any()


def test_held_out_episodes_are_never_trained_on(dataset_folder):
    dataset = Dataset([dataset_folder], val_fraction=0.3)
    assert dataset.num_frames() + dataset.num_frames(held_out=True) == 64
    episodes = {}
    for held_out in (False, True):
        drawn = dataset.draw(np.random.default_rng(0), 500, held_out)
        episodes[held_out] = {int(e) for shard, rows in drawn for e in shard.arrays["episode"][rows]}
    assert episodes[True] and not episodes[True] & episodes[False]
    assert len(episodes[True] | episodes[False]) == 16


def test_about_the_asked_share_of_episodes_is_held_out():
    assert is_held_out(np.arange(10_000_000, 10_020_000), 0.03).mean() == pytest.approx(0.03, abs=0.005)


def test_validation_batches_repeat_and_are_plain(dataset_folder):
    maker = make(dataset_folder)
    once, again = list(maker.validation_batches(8)), list(maker.validation_batches(8))
    assert [len(b.proprio_BS) for b in once] == [6, 2]
    for a, b in zip(once, again):
        assert all(torch.equal(x, tensors(b)[name]) for name, x in tensors(a).items())
        assert a.committed_NH.any() and not a.withheld_B.any()
        assert len(a.text_NT) == 3 * len(a.proprio_BS)


def test_committed_steps_are_the_true_tokens(dataset_folder):
    maker = make(dataset_folder)
    batch = maker.training_batch(0)
    counts = batch.committed_NH.sum(1)
    assert set(counts.tolist()) == {0, 1, 2}
    assert (batch.committed_NH == (torch.arange(5) < counts[:, None])).all()
    first = maker._tokenizer.get_vocab_size()
    prefix = batch.prefix_NQ.view(-1, 5, 6)
    assert ((prefix >= 0) == batch.committed_NH[..., None]).all()
    codec = ActionTokenizer(ACTION_SPEC, first)
    expected = codec.bins_to_ids(codec.actions_to_bins(batch.actions_NHD.numpy(), clip=True))
    assert np.array_equal(prefix.numpy()[batch.committed_NH], expected[batch.committed_NH])


def test_new_shards_are_found_and_damaged_ones_left_out(dataset_folder, caplog):
    dataset = Dataset([dataset_folder], val_fraction=0.3)
    before = dataset.num_frames() + dataset.num_frames(True)
    write_shard(dataset_folder / "shard_0002", np.random.default_rng(9), 16, 8, 4, 3)
    shutil.copytree(dataset_folder / "shard_0002", dataset_folder / "shard_0003")
    (dataset_folder / "shard_0003" / "wrist.npy").write_bytes(b"x")
    assert dataset.rescan() == 1
    assert dataset.num_frames() + dataset.num_frames(True) == before + 32
    assert "wrist.npy" in caplog.text
    assert dataset.rescan() == 0


def test_a_damaged_shard_stops_the_start(dataset_folder):
    (dataset_folder / "shard_0001" / "actions.npy").write_bytes(b"")
    with pytest.raises(DataError, match="shard_0001.actions.npy"):
        Dataset([dataset_folder])


def test_weights_decide_how_often_a_folder_is_drawn_from(tmp_path):
    small, large = write_dataset(tmp_path / "a", episodes=4), write_dataset(tmp_path / "b", episodes=16, seed=1)
    dataset = Dataset([small, large], weights=[3, 1], val_fraction=0.0)
    drawn = dataset.draw(np.random.default_rng(0), 4000)
    share = sum(len(rows) for shard, rows in drawn if shard.path.parent == small) / 4000
    assert share == pytest.approx(0.75, abs=0.03)
    with pytest.raises(ConfigError, match="2 datasets need as many"):
        Dataset([small, large], weights=[1])


def test_a_policy_of_several_folders_says_where_each_came_from(tmp_path):
    one, two = (Dataset([write_dataset(tmp_path / name, shards=count)], val_fraction=0.3) for name, count in (("one", 1), ("two", 2)))
    both = Dataset([*one.folders, *two.folders], val_fraction=0.3).provenance()
    assert one.provenance() == one.meta.provenance
    assert both == {"sources": [{"frames": data.num_frames(), **data.meta.provenance} for data in (one, two)]}


def test_datasets_of_different_meaning_are_refused(tmp_path):
    first, second = write_dataset(tmp_path / "a"), write_dataset(tmp_path / "b")
    meta = yaml.safe_load((second / "meta.yaml").read_text())
    (second / "meta.yaml").write_text(yaml.safe_dump({**meta, "colours": ["green", "red", "blue"]}))
    with pytest.raises(DataError, match="colours differs"):
        Dataset([first, second])


def test_no_held_out_episode_says_what_to_do(dataset_folder):
    with pytest.raises(ConfigError, match="data.val_fraction"):
        Dataset([dataset_folder], val_fraction=0.0).draw(np.random.default_rng(0), 1, held_out=True)


def test_a_folder_without_shards_is_refused(tmp_path):
    folder = write_dataset(tmp_path / "data", shards=0)
    with pytest.raises(DataError, match="vla collect"):
        Dataset([folder])


def test_a_text_that_is_too_long_is_refused_by_file(dataset_folder):
    (dataset_folder / "shard_0000" / "instructions.json").write_text('["' + "x9" * 40 + '", "b", "c"]')
    with pytest.raises(DataError, match="shard_0000.instructions.json.*tokens"):
        make(dataset_folder)


def test_objects_fall_into_their_cells():
    uv = np.array([[[0.1, 0.6], [0.95, 0.0], [1.2, 0.5], [np.nan, np.nan]]], dtype=np.float32)
    classes = np.array([[[0, 1], [2, 0], [1, 1], [-1, -1]]], dtype=np.int16)
    target = object_targets(uv, classes, (4, 4), (3, 2))
    assert np.flatnonzero(target["occupied_BV"][0]).tolist() == [3, 8]
    assert target["seen_BVC"][0, 8].tolist() == [1, 0, 0, 0, 1]
    assert target["seen_BVC"][0, 3].tolist() == [0, 0, 1, 1, 0]
    assert target["offset_BV2"][0, 8] == pytest.approx([0.4, 0.4], abs=1e-5)


def test_foreign_words_are_inserted_inside_and_change_nothing_else():
    text = np.array([[1, 2, 3, 4, 0, 0, 0, 0], [1, 5, 6, 7, 8, 9, 3, 4]])
    seen = set()
    for seed in range(100):
        row, full = insert_foreign_words(text, np.array([20, 21]), np.random.default_rng(seed), 1.0, 0)
        assert full.tolist() == text[1].tolist()  # no room
        kept = [i for i in row if i and i < 20]
        assert kept == [1, 2, 3, 4] and row[0] == 1 and row[row != 0][-1] == 4
        seen.add(int((row >= 20).sum()))
    assert seen == {1, 2, 3}
    assert np.array_equal(insert_foreign_words(text, np.array([20]), np.random.default_rng(0), 0.0, 0), text)


def test_colour_jitter_is_light_and_alike_in_all_cameras():
    pictures = {"front": np.full((3, 4, 4, 3), 120, np.uint8), "wrist": np.full((3, 2, 2, 3), 120, np.uint8)}
    jitter_pictures(pictures, np.random.default_rng(0), DataConfig())
    assert np.array_equal(pictures["front"][:, 0, 0], pictures["wrist"][:, 0, 0])
    changed = pictures["front"].astype(int) - 120
    assert len(np.unique(changed)) > 3 and np.abs(changed).max() < 40
    plain = {"front": np.random.default_rng(1).integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)}
    before = plain["front"].copy()
    jitter_pictures(plain, np.random.default_rng(0), DataConfig(brightness=0, contrast=0, tint=0))
    assert np.array_equal(plain["front"], before)


def test_touch_is_drawn_with_its_frame_and_nan_where_it_is_withheld_or_was_not_recorded(dataset_folder):
    dataset = Dataset([dataset_folder], val_fraction=0.3)
    tokenizer = train_tokenizer(dataset.instructions(), PROMPT_TEMPLATE)

    def maker(fingers, dropout):
        shape = SimpleNamespace(action=dataset.meta.action, frames=1, touch_dim=fingers)
        return BatchMaker(dataset, tokenizer, DataConfig(frames_per_batch=16, labels_per_frame=1, touch_dropout=dropout), 0, shape)

    plain, held_back = maker(2, 0.0).training_batch(0), maker(2, 1.0).training_batch(0)
    by_state = {tuple(state): force for shard in dataset.shards for state, force in zip(shard.arrays["proprio"].tolist(), shard.arrays["touch"].tolist())}
    assert all(by_state[tuple(state)] == force for state, force in zip(plain.proprio_BS.tolist(), plain.touch_BP.tolist()))
    assert {0.0, 10.0} == set(plain.touch_BP.flatten().tolist()) and held_back.touch_BP.isnan().all()
    assert maker(0, 0.0).training_batch(0).touch_BP is None
    with pytest.raises(DataError, match="2 fingers"):
        maker(3, 0.0).training_batch(0)
    dataset.shards[0].arrays.pop("touch")
    assert maker(2, 0.0).training_batch(0).touch_BP.isnan().any()
    dataset.shards[1].arrays.pop("touch")
    with pytest.raises(ConfigError, match="touch.npy"):
        maker(2, 0.0)
