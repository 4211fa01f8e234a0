# SPDX-License-Identifier: Apache-2.0
"""Demonstrations of Meta-World: shards with the contract of training, and seeds that evaluation never uses."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml

pytest.importorskip("metaworld")

from vla_ros.core.embodiment import METAWORLD
from vla_ros.sim.collect import FIRST_TRAINING_SEED, main
from vla_ros.sim.metaworld import collect as module
from vla_ros.sim.metaworld.tasks import TASKS, MetaWorldTask, phrasings


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mt50")
    assert main(["--env", "metaworld:handle-press-v3", "--out", str(folder), "--episodes-per-task", "2", "--workers", "1", "--json", str(folder / "c.json")]) == 0
    return folder


@pytest.fixture(scope="module")
def shard(folder):
    (path,) = folder.glob("shard_*")
    return {file.stem: np.load(file) for file in path.glob("*.npy")} | {"path": path}


def test_arrays_have_the_shapes_that_meta_and_embodiment_say(folder, shard):
    meta = yaml.safe_load((folder / "meta.yaml").read_text())
    frames, labels = len(shard["episode"]), meta["K"]
    assert shard["corner2"].shape == (frames, *METAWORLD.cameras[0].shape) and shard["corner2"].dtype == np.uint8
    assert shard["proprio"].shape == (frames, len(METAWORLD.proprio))
    assert shard["actions"].shape == (frames, labels, *METAWORLD.action.shape)
    assert meta["action"] == METAWORLD.action.to_dict() and meta["embodiment"] == "metaworld"
    METAWORLD.action.validate_values(shard["actions"].astype(np.float64).clip(METAWORLD.action.low_D, METAWORLD.action.high_D))
    assert (shard["committed"] < METAWORLD.action.horizon).all() and (shard["plan"][..., 0] < len(meta["phases"])).all()
    assert (shard["object_class"] < [len(meta["colours"]), len(meta["kinds"])]).all()


def test_every_episode_succeeded_and_begins_at_its_first_frame(folder, shard):
    records = json.loads((shard["path"] / "episodes.json").read_text())
    assert [record["success"] for record in records] == [True, True]
    assert all(record["seed"] >= FIRST_TRAINING_SEED for record in records)
    assert sorted(np.unique(shard["episode"])) == [module.episode_number("handle-press-v3", record["seed"]) for record in records]
    assert (shard["frame"] == 0).sum() == 2
    assert json.loads((folder / "c.json").read_text())["by_task"]["handle-press-v3"]["success_rate"] == 1.0


def test_instructions_are_the_tasks_own(shard):
    texts = json.loads((shard["path"] / "instructions.json").read_text())
    assert set(texts) <= set(phrasings(MetaWorldTask("handle-press-v3")))
    assert shard["text_index"].max() < len(texts)


def test_the_first_label_is_what_the_hand_then_did(shard):
    """Waypoints lead the measured hand a little, since it is drawn to them by a weld that gives way."""
    rows = np.flatnonzero(shard["episode"] == shard["episode"][0])
    now, later = rows[1], rows[4]  # three times four steps of 12.5 ms: the sixth waypoint
    moved = shard["proprio"][later, :3] - shard["proprio"][now, :3]
    told = shard["actions"][now, 0, 5, :3]
    assert np.abs(moved - told).max() < 0.08 and np.dot(moved, told) > 0.0


def test_labels_are_what_the_expert_foresees():
    """Read from the track, they equal the chunk that the expert plays in its own copy of the physics."""
    recorder = module.DemonstrationRecorder()
    frames, _ = recorder.episode("drawer-open-v3", FIRST_TRAINING_SEED)
    recorder.env.reset(FIRST_TRAINING_SEED, family="drawer-open-v3")
    expected = METAWORLD.action.clip(recorder.expert.chunk(np.zeros((0, METAWORLD.action.num_dims))))
    np.testing.assert_allclose(frames[0]["actions"][0], expected, atol=1e-5)
    assert frames[0]["committed"][0] == 0


def test_no_label_says_a_push():
    track = module._Track()
    for step in range(80):
        track.add(np.array([0.01 * step, 0.0, 0.0]), 1.0, 20 <= step < 25)  # the push ends with action 12 of a chunk from step 0
    rng = np.random.default_rng(0)
    committed = [label["committed"] if (label := track.labels(step, np.zeros(3), rng)) else None for step in range(48)]
    assert committed[0] is None and committed[12] is None
    assert committed[13][0] == 6 and committed[24][0] == 1 and committed[25][0] == 0
    assert all(label is None or (label[1] >= label[0] and label[1] > 0) for label in committed)


def test_shards_that_are_there_are_kept(folder, shard, monkeypatch):
    monkeypatch.setattr(module, "record_round", None)  # would be called for a missing one
    rounds = module.plan_rounds(("handle-press-v3",), 2, FIRST_TRAINING_SEED, 0.0)
    assert len(module.collect(folder, rounds, workers=1)) == 2


def test_rounds_cover_every_task_before_any_gets_more():
    rounds = module.plan_rounds(TASKS, 12, FIRST_TRAINING_SEED, 0.0)
    assert [task for work in rounds[:5] for task in work.tasks] == list(TASKS)
    assert [work.episodes for work in rounds] == [5] * 10 + [2] * 5
    assert len({work.name for work in rounds}) == len(rounds)


def test_numbers_of_episodes_are_their_own():
    numbers = {module.episode_number(task, FIRST_TRAINING_SEED + seed) for task in TASKS for seed in (0, 1, 9_999)}
    assert len(numbers) == 150 and max(numbers) < 2**31


def test_pushes_change_the_way_and_never_the_fingers():
    pushes = module._Pushes(np.random.default_rng(0), 1.0)
    action = np.array([0.1, 0.2, -0.3, 0.6])
    changed = np.array([pushes.change(action) for _ in range(40)])
    assert (changed[:, 3] == 0.6).all() and np.abs(changed).max() <= 1.0 and (changed[:, :3] != action[:3]).any()
    quiet = module._Pushes(np.random.default_rng(0), 0.0)
    np.testing.assert_array_equal(quiet.change(action), action)


def test_evaluations_seeds_are_refused(tmp_path):
    with pytest.raises(SystemExit):
        main(["--env", "metaworld:mt50", "--out", str(tmp_path), "--seed", "5"])
