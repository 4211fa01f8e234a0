# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from vla_ros.core.errors import ConfigError
from vla_ros.train.checkpoint import load_checkpoint, restore_policy
from vla_ros.train.config import TrainConfig
from vla_ros.train.continual import ContinualRun, continual_config, forgetting, main
from vla_ros.train.data import Dataset
from vla_ros.train.synthetic import write_dataset
from vla_ros.train.trainer import Trainer


@pytest.fixture
def stage(dataset_folder, tmp_path, tiny_settings):
    """Old and new data, and the checkpoint of a policy that has seen the old."""
    config = TrainConfig.from_dict(tiny_settings)
    Trainer(config, Dataset([dataset_folder], val_fraction=config.data.val_fraction), tmp_path / "first").run()
    return dataset_folder, write_dataset(tmp_path / "new", shards=2, seed=9), tmp_path / "first" / "last.pt"


def command(stage, out, *more: str) -> list[str]:
    old, new, checkpoint = map(str, stage)
    return ["--checkpoint", checkpoint, "--old", old, "--new", new, "--out", str(out), "--samples", "3", *more]


def lines(out) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_forgetting_by_hand():
    """Task 0 fell from its best 0.9 to 0.5, task 1 rose from 0.6 to 0.7 (negative forgetting)."""
    report = forgetting(np.array([[0.8, 0.1, 0.0], [0.9, 0.6, 0.2], [0.5, 0.7, 0.8]]))
    assert report["by_task"] == pytest.approx([0.4, -0.1])
    assert report["forgetting"] == pytest.approx(0.15)
    assert report["backward_transfer"] == pytest.approx(((0.5 - 0.8) + (0.7 - 0.6)) / 2)
    for wrong in (np.zeros((1, 1)), np.zeros((2, 3)), np.zeros(4)):
        with pytest.raises(ConfigError, match="two tasks or more"):
            forgetting(wrong)


@pytest.mark.parametrize("method", ["none", "both"])
def test_the_command_reports_what_was_learned_and_lost(method, stage, tmp_path):
    out = tmp_path / "out"
    assert main(command(stage, out, "--method", method, "--json", str(tmp_path / "r.json"))) == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert report == json.loads((out / "continual.json").read_text())
    assert report["method"] == method and report["finished"] and report["step"] == 4
    for part in ("old", "new"):
        assert report["before"][part]["loss_action"] != report["after"][part]["loss_action"]
    lost = report["after"]["old"]["loss_action"] - report["before"]["old"]["loss_action"]
    assert report["by_task"] == pytest.approx([lost]) and report["forgetting"] == pytest.approx(lost)
    training = [line for line in lines(out) if line["kind"] == "training"]
    validation = [line for line in lines(out) if line["kind"] == "validation"]
    assert all(("ewc" in line) == (method == "both") for line in training)
    assert not any("loss_ewc" in line for line in validation)
    assert (out / "ewc.pt").exists() == (method == "both")
    with pytest.raises(ConfigError, match="--resume"):
        main(command(stage, out))


def test_the_penalty_is_zero_at_the_start_and_then_grows(stage, tmp_path):
    main(command(stage, tmp_path / "out", "--method", "ewc"))
    penalties = [line["ewc"] for line in lines(tmp_path / "out") if line["kind"] == "training"]
    assert penalties[0] == 0.0 and penalties[-1] > 0.0


def test_a_strong_penalty_keeps_the_weights_that_mattered(stage, tmp_path):
    distance = []
    for name, strength in (("weak", "1e-9"), ("strong", "1e6")):
        main(command(stage, tmp_path / name, "--method", "ewc", "--strength", strength, "--set", "run.max_steps=25", "--set", "optim.learning_rate=0.003"))
        memory = load_checkpoint(tmp_path / name / "ewc.pt")
        model = load_checkpoint(tmp_path / name / "last.pt")["model"]
        distance.append(sum(float((fisher * (model[key] - memory["anchor"][key]).square()).sum()) for key, fisher in memory["fisher"].items()))
    assert distance[1] < 0.5 * distance[0]


def test_it_starts_from_the_averaged_policy_and_its_tokenizer(stage, tmp_path):
    old, new, checkpoint = stage
    state = load_checkpoint(checkpoint)
    run = ContinualRun(continual_config(state, None, []), state, [old], [new], tmp_path / "out", method="rehearsal")
    assert run.trainer.tokenizer.to_str() == state["tokenizer"]
    expected = restore_policy(state).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in run.trainer.model.state_dict().items())
    assert {shard.path.parent for shard in run.trainer.dataset.shards} == {old, new}


def test_an_interrupted_stage_goes_on_with_the_same_memory(stage, tmp_path):
    old, new, checkpoint = stage
    state = load_checkpoint(checkpoint)
    config = continual_config(state, None, [])

    def make(out, resume=False):
        return ContinualRun(config, state, [old], [new], tmp_path / out, method="both", samples=3, resume=resume)

    make("whole").run()
    part = make("part")
    update = part.trainer._update

    def stop_after_two(batch):
        parts = update(batch)
        part.trainer.stop_requested = part.trainer.step == 2
        return parts

    part.trainer._update = stop_after_two
    part.run()
    make("part", resume=True).run()
    a, b = (load_checkpoint(tmp_path / name / "last.pt")["model"] for name in ("whole", "part"))
    assert all(torch.equal(tensor, b[name]) for name, tensor in a.items())


def test_an_earlier_memory_is_joined(stage, tmp_path):
    main(command(stage, tmp_path / "a", "--method", "ewc"))
    main(command(stage, tmp_path / "b", "--method", "ewc", "--memory", str(tmp_path / "a" / "ewc.pt")))
    single, joined = (load_checkpoint(tmp_path / name / "ewc.pt")["fisher"] for name in ("a", "b"))
    assert all(torch.allclose(joined[name], 2 * fisher) for name, fisher in single.items())


def test_settings_are_the_earlier_runs_with_changes(stage):
    state = load_checkpoint(stage[2])
    config = continual_config(state, None, ["run.max_steps=7"])
    assert config.run.max_steps == 7 and config.run.vision_fraction == 0.0
    assert config.model == state["train_config"]["model"] and config.data == TrainConfig.from_dict(state["train_config"]).data


def test_files_of_something_else_are_refused(stage, tmp_path):
    main(command(stage, tmp_path / "a", "--method", "ewc"))
    memory = tmp_path / "a" / "ewc.pt"
    with pytest.raises(ConfigError, match="holds no policy"):
        main(command((stage[0], stage[1], memory), tmp_path / "b"))
    with pytest.raises(ConfigError, match="holds no memory"):
        main(command(stage, tmp_path / "c", "--method", "ewc", "--memory", str(stage[2])))
