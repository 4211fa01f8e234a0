# SPDX-License-Identifier: Apache-2.0
from functools import partial
import json

import numpy as np
import pytest
import yaml

from vla_ros.core import tabletop
from vla_ros.sim import collect
from vla_ros.sim.expert import PHASES
from vla_ros.sim.snapshots import SnapshotRecorder
from vla_ros.sim.tasks import is_held_out, parse_task


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    counts = collect.collect(folder, 120, make_recorder=partial(collect.EpisodeRecorder, 4), labels=4)
    assert counts["frames"] >= 120
    return folder


def shards(folder):
    return sorted(folder.glob("shard_*"))


def test_arrays_have_the_documented_shapes(dataset):
    meta = yaml.safe_load((dataset / "meta.yaml").read_text())
    assert meta["phases"] == list(PHASES) and meta["action"] == tabletop.ACTION_SPEC.to_dict()
    for shard in shards(dataset):
        arrays = {p.stem: np.load(p) for p in shard.glob("*.npy")}
        n, k = arrays["text_index"].shape
        assert k == meta["K"]
        assert arrays["front"].shape == (n, 128, 128, 3) and arrays["wrist"].shape == (n, 64, 64, 3)
        assert arrays["actions"].shape == (n, k, 5, 6) and np.isfinite(arrays["actions"]).all()
        assert arrays["proprio"].shape == (n, len(tabletop.PROPRIO_NAMES))
        for chunk in arrays["actions"].reshape(-1, 5, 6):
            tabletop.ACTION_SPEC.validate(chunk.astype(np.float64).clip(tabletop.ACTION_SPEC.low_D, tabletop.ACTION_SPEC.high_D))


def test_training_never_sees_a_held_out_combination(dataset):
    for shard in shards(dataset):
        for text in json.loads((shard / "instructions.json").read_text()):
            assert not is_held_out(parse_task(text)), text


def test_one_picture_has_different_instructions_with_different_actions(dataset):
    shard = shards(dataset)[0]
    texts, actions = np.load(shard / "text_index.npy"), np.load(shard / "actions.npy")
    different = [np.abs(a[0] - a[1:]).max() > 0.02 for t, a in zip(texts, actions) if len(set(t)) > 1]
    assert np.mean(different) > 0.5


def test_no_partial_shard_is_left(dataset):
    assert not list(dataset.glob("*.partial"))


def test_snapshots_show_another_scene_each_and_every_kind_of_state(tmp_path):
    collect.collect(tmp_path, 120, make_recorder=partial(SnapshotRecorder, 4), name="snap", labels=4)
    episodes = np.concatenate([np.load(s / "episode.npy") for s in shards(tmp_path)])
    phases = np.concatenate([np.load(s / "plan.npy")[:, 0, 0] for s in shards(tmp_path)])
    assert len(set(episodes)) == len(episodes)
    assert {"approach", "grasp", "lift", "carry", "lower"} <= {PHASES[int(p)] for p in phases}
