# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from vla_ros.core.errors import ConfigError
from vla_ros.train.checkpoint import load_checkpoint, restore_policy, save_checkpoint
from vla_ros.train.config import TrainConfig
from vla_ros.train.data import Dataset
from vla_ros.train.command import main
from vla_ros.train.trainer import Trainer


def make(config, folder, out, **states) -> Trainer:
    return Trainer(config, Dataset([folder], val_fraction=config.data.val_fraction), out, **states)


def lines(out) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_resume_continues_bit_exactly(dataset_folder, tmp_path, tiny_settings):
    def config(steps):
        return TrainConfig.from_dict({**tiny_settings, "run": {**tiny_settings["run"], "max_steps": steps}})

    whole = make(config(6), dataset_folder, tmp_path / "whole")
    whole.run()
    # The schedule follows the whole budget: interrupt the same run after three steps instead of shortening it.
    part = make(config(6), dataset_folder, tmp_path / "part")
    update = part._update

    def stop_after_three(batch):
        parts = update(batch)
        part.stop_requested = part.step == 3
        return parts

    part._update = stop_after_three
    part.run()
    assert part.step == 3
    rest = make(config(6), dataset_folder, tmp_path / "part", resume=load_checkpoint(tmp_path / "part" / "last.pt"))
    assert rest.step == 3
    rest.run()
    a, b = (load_checkpoint(tmp_path / name / "last.pt") for name in ("whole", "part"))
    for key in ("model", "averaged"):
        assert all(torch.equal(tensor, b[key][name]) for name, tensor in a[key].items())
    moments_a, moments_b = a["optimizer"]["state"], b["optimizer"]["state"]
    assert all(torch.equal(moments_a[i][k], moments_b[i][k]) for i in moments_a for k in moments_a[i])
    assert a["metrics"] == b["metrics"]


def test_overfits_one_batch(dataset_folder, tmp_path, tiny_settings):
    settings = {**tiny_settings, "data": {**tiny_settings["data"], "proprio_dropout": 0}}
    settings["optim"] = {"warmup_steps": 10, "learning_rate": 3e-3, "weight_decay": 0}
    settings["loss"] = {"sigma_bins": 0.5}
    trainer = make(TrainConfig.from_dict({**settings, "run": {**settings["run"], "max_steps": 10_000}}), dataset_folder, tmp_path / "out")
    batch = trainer.maker.training_batch(0)
    losses = [float(trainer._update(batch)["action"]) for _ in range(250)]
    assert losses[0] > 2.0
    assert losses[-1] < 0.35 * losses[0], losses[::50]


def test_init_starts_from_weights_and_tokenizer_of_another_run(dataset_folder, tmp_path, tiny_run):
    make(tiny_run, dataset_folder, tmp_path / "first").run()
    state = load_checkpoint(tmp_path / "first" / "last.pt")
    second = make(tiny_run, dataset_folder, tmp_path / "second", init=state)
    assert second.step == 0
    assert second.tokenizer.to_str() == state["tokenizer"]
    assert all(torch.equal(tensor, state["averaged"][name]) for name, tensor in second.model.state_dict().items())


def test_a_checkpoint_of_another_shape_is_refused(dataset_folder, tmp_path, tiny_settings):
    make(TrainConfig.from_dict(tiny_settings), dataset_folder, tmp_path / "first").run()
    state = load_checkpoint(tmp_path / "first" / "last.pt")
    other = TrainConfig.from_dict({**tiny_settings, "model": {**tiny_settings["model"], "width": 64}})
    with pytest.raises(ConfigError, match="another shape"):
        make(other, dataset_folder, tmp_path / "second", init=state)


def test_a_run_without_a_budget_is_refused(dataset_folder, tmp_path, tiny_settings):
    config = TrainConfig.from_dict({**tiny_settings, "run": {"max_steps": 0, "max_minutes": 0}})
    with pytest.raises(ConfigError, match="budget"):
        make(config, dataset_folder, tmp_path / "out")


def test_the_time_budget_ends_a_run_and_its_decay(dataset_folder, tmp_path, tiny_settings):
    config = TrainConfig.from_dict({**tiny_settings, "run": {**tiny_settings["run"], "max_steps": 0, "max_minutes": 0.03}})
    make(config, dataset_folder, tmp_path / "out").run()
    training = [line for line in lines(tmp_path / "out") if line["kind"] == "training"]
    assert 1.0 < training[-1]["elapsed_s"] < 20
    assert training[-1]["learning_rate"] < 0.2 * max(line["learning_rate"] for line in training)


def test_the_best_checkpoint_has_the_least_validation_loss(dataset_folder, tmp_path, tiny_settings):
    run = {**tiny_settings["run"], "validate_steps": 1, "max_steps": 5}
    make(TrainConfig.from_dict({**tiny_settings, "run": run}), dataset_folder, tmp_path / "out").run()
    validation = [line for line in lines(tmp_path / "out") if line["kind"] == "validation"]
    best = load_checkpoint(tmp_path / "out" / "best.pt")
    assert best["metrics"]["loss_action"] == min(line["loss_action"] for line in validation)
    assert "optimizer" not in best
    assert not restore_policy(best).training


def test_a_failing_batch_ends_the_run_with_its_error(dataset_folder, tmp_path, tiny_run):
    trainer = make(tiny_run, dataset_folder, tmp_path / "out")

    def fail(number):
        raise ConfigError("no more data")

    trainer.maker.training_batch = fail
    with pytest.raises(ConfigError, match="no more data"):
        trainer.run()


def test_a_damaged_checkpoint_is_refused(tmp_path):
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"step": 1})
    assert load_checkpoint(path)["step"] == 1
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ConfigError, match="last.pt"):
        load_checkpoint(path)
    with pytest.raises(ConfigError, match="nothing.pt"):
        load_checkpoint(tmp_path / "nothing.pt")


def test_a_checkpoint_with_code_in_it_is_never_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"format_version": 1, "x": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(ConfigError, match="evil.pt"):
        load_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


def arguments(folder, out, settings) -> list[str]:
    overrides = [f"{section}.{key}={json.dumps(value)}" for section, values in settings.items() for key, value in values.items()]
    return ["--data", str(folder), "--out", str(out), *(word for text in overrides for word in ("--set", text))]


def test_command_trains_and_refuses_to_overwrite(dataset_folder, tmp_path, tiny_settings):
    words = arguments(dataset_folder, tmp_path / "out", tiny_settings)
    assert main([*words, "--json", str(tmp_path / "result.json")]) == 0
    assert json.loads((tmp_path / "result.json").read_text())["finished"] is True
    with pytest.raises(ConfigError, match="--resume"):
        main(words)
    assert main([*words, "--resume"]) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_ends_cleanly(dataset_folder, tmp_path, tiny_settings, number):
    settings = {**tiny_settings, "run": {**tiny_settings["run"], "max_steps": 1_000_000}}
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-m", "vla_ros.train", *arguments(dataset_folder, out, settings)], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not (out / "metrics.jsonl").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors.decode()[-2000:]
    assert load_checkpoint(out / "last.pt")["step"] >= 1


def test_the_first_part_trains_vision_alone(dataset_folder, tmp_path, tiny_settings):
    settings = {**tiny_settings, "run": {**tiny_settings["run"], "max_steps": 4, "vision_fraction": 0.5}}
    trainer = make(TrainConfig.from_dict(settings), dataset_folder, tmp_path / "out")
    kinds = [set(trainer._update(trainer.maker.training_batch(step))) for step in range(4)]
    assert ["action" in names for names in kinds] == [False, False, True, True]


def test_mixed_precision_trains_alike_and_keeps_float32_weights(dataset_folder, tmp_path, tiny_settings):
    losses = {}
    for precision in ("float32", "bfloat16"):
        config = TrainConfig.from_dict({**tiny_settings, "run": {**tiny_settings["run"], "precision": precision}})
        trainer = make(config, dataset_folder, tmp_path / precision)
        trainer.run()
        assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}
        losses[precision] = [line["total"] for line in lines(tmp_path / precision) if line["kind"] == "training"]
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.02)  # 8 bits of mantissa: half a per cent a product


@pytest.mark.parametrize(("key", "value", "words"), [("precision", "float16", "bfloat16"), ("device", "tpu", "cuda")])
def test_unknown_precisions_and_devices_are_refused(key, value, words, tiny_settings):
    with pytest.raises(ConfigError, match=words):
        TrainConfig.from_dict({**tiny_settings, "run": {**tiny_settings["run"], key: value}})


def test_a_missing_gpu_is_said(dataset_folder, tmp_path, tiny_settings):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    config = TrainConfig.from_dict({**tiny_settings, "run": {**tiny_settings["run"], "device": "cuda"}})
    with pytest.raises(ConfigError, match="run.device=cpu"):
        make(config, dataset_folder, tmp_path / "out")
