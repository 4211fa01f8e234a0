# SPDX-License-Identifier: Apache-2.0
"""The pieces in `vla train` and `vla export`, chosen by configuration."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from vla_ros.core.errors import ConfigError
from vla_ros.train.action_bins import quantile_spec
from vla_ros.train.checkpoint import load_checkpoint, restore_policy
from vla_ros.train.config import TrainConfig
from vla_ros.train.data import BatchMaker, Dataset
from vla_ros.train.image_config import ImageTrainConfig
from vla_ros.train.image_tokens import ImageTrainer
from vla_ros.train.questions import QuestionDataset
from vla_ros.train.synthetic import write_dataset, write_questions
from vla_ros.train.trainer import Trainer

export = pytest.importorskip("vla_ros.export", reason="needs onnx")

SMALL_TOKENIZER = {"channels": 8, "codes": 16, "code_width": 4}
SMALL_VIT = {"width": 32, "depth": 1, "heads": 4}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("pieces") / "data")


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    return write_questions(tmp_path_factory.mktemp("pieces") / "questions", pictures=48)


@pytest.fixture(scope="module")
def pretrained(data, tmp_path_factory):
    """Checkpoints of `vla train-image-tokens` after two steps, by model."""
    folder = tmp_path_factory.mktemp("pretrained")
    for model in ("vqvae", "mae"):
        run = {"model": model, "max_steps": 2, "frames_per_batch": 4, "val_fraction": 0.3, "val_frames": 4, "threads": 1}
        config = ImageTrainConfig.from_dict({"run": run, "tokenizer": SMALL_TOKENIZER, "vit": SMALL_VIT, "mae": {"width": 16, "depth": 1, "heads": 2}})
        ImageTrainer(config, Dataset([data], val_fraction=0.3), folder / model).run()
    return {model: folder / model / "best.pt" for model in ("vqvae", "mae")}


@pytest.fixture
def train(data, questions, tmp_path, tiny_settings):
    """Trains a policy with changed sections and returns the trainer; with questions if it is to answer."""

    def run(**sections) -> Trainer:
        settings = {name: {**tiny_settings.get(name, {}), **sections.get(name, {})} for name in {*tiny_settings, *sections}}
        config = TrainConfig.from_dict(settings)
        asked = QuestionDataset([questions], 0.3) if config.model.get("answer_tokens") else None
        trainer = Trainer(config, Dataset([data], val_fraction=0.3), tmp_path / "run", questions=asked)
        trainer.run()
        return trainer

    return run


def exported(trainer: Trainer, data, out) -> dict:
    """The export's report; it compares graph and network and refuses what differs."""
    return export.export_bundle(trainer.out / "last.pt", out, data, frames=2, threads=1)


def test_a_vision_transformer_from_a_masked_autoencoder_with_experts_and_a_regression_head(train, data, pretrained, tmp_path):
    model = {"stem": "vit", "vit_depth": 1, "feed_forward": "moe", "experts": 2, "action_head": "l1"}
    trainer = train(model=model, run={"vision_init": str(pretrained["mae"]), "max_steps": 2})
    assert {"loss_continuous", "loss_action", "loss_plan", "loss_vision"} <= set(trainer.metrics)
    trained = {name: tensor for name, tensor in load_checkpoint(pretrained["mae"])["image_model"].items() if name.startswith("vit.blocks")}
    fresh = Trainer(trainer.config, trainer.dataset, tmp_path / "fresh")
    assert all(torch.equal(fresh.model.vision.state_dict()[name], tensor) for name, tensor in trained.items())
    assert exported(trainer, data, tmp_path / "bundle")["max_logit_difference"] < export.MAX_LOGIT_DIFFERENCE


def test_image_tokens_with_cross_attention_a_flow_head_and_touch(train, data, pretrained, tmp_path):
    model = {"stem": "tokens", "fusion": "cross", "depth": 4, "action_head": "flow", "touch_dim": 2}
    trainer = train(model=model, run={"image_tokens": str(pretrained["vqvae"]), "max_steps": 2})
    tokenizer = load_checkpoint(pretrained["vqvae"])["image_model"]
    kept = trainer.model.vision.ids.tokenizer.state_dict()
    assert all(torch.equal(kept[name], tensor) for name, tensor in tokenizer.items())  # training the policy moves no code
    assert trainer.model_config.vocab_size == trainer.model_config.first_action_token + 256 + 16  # text, actions, image tokens: one vocabulary
    exported(trainer, data, tmp_path / "bundle")


def test_a_policy_answers_questions_in_the_bundle_as_in_the_network(train, data, questions, tmp_path):
    from vla_ros.runtime.answerer import Answerer
    from vla_ros.runtime.bundle import load_bundle

    settings = {
        "optim": {"learning_rate": 3e-3, "warmup_steps": 10, "weight_decay": 0, "ema_decay": 0.8},
        "data": {"action_bins": "quantile", "frames_per_batch": 2, "labels_per_frame": 1, "question_frames": 16, "brightness": 0, "contrast": 0, "tint": 0},
        "loss": {"language": 3.0},
    }
    trainer = train(model={"answer_tokens": 6}, run={"max_steps": 100, "val_frames": 32, "log_steps": 50}, **settings)
    assert trainer.metrics["answer_accuracy_colour"] > 0.9, trainer.metrics  # one of three colours: guessing gives a third
    report = exported(trainer, data, tmp_path / "bundle")
    assert report["max_answer_logit_difference"] < export.MAX_LOGIT_DIFFERENCE
    bundle = load_bundle(tmp_path / "bundle")
    assert bundle.manifest.action == trainer.model_config.action  # quantile bins are bounds like any others
    shard = QuestionDataset([questions], 0.3).shards[0]
    answerer = Answerer(bundle)
    said = [answerer.answer(shard.arrays["front"][row], "What colour is it?").text for row in range(12)]
    true = [shard.answers[index] for index in shard.arrays["answer"][:12, 0]]
    assert np.mean([a == b for a, b in zip(said, true)]) > 0.9, (said, true)


def test_past_frames_are_seen_and_their_graph_answers_as_the_network(train, data, tmp_path):
    import onnxruntime

    trainer = train(model={"stem": "vit", "vit_depth": 1, "frames": 2}, run={"max_steps": 2})
    batch = trainer.maker.training_batch(0)
    assert batch.images["front"].shape[1:] == (2, 128, 128, 3)
    assert not torch.equal(batch.images["front"][:, 0], batch.images["front"][:, 1])
    policy = restore_policy(load_checkpoint(trainer.out / "last.pt"))
    sample = export._samples(load_checkpoint(trainer.out / "last.pt"), data, 1)[0]
    export.export_graph(policy, sample, tmp_path / "policy.onnx")
    logits, _ = onnxruntime.InferenceSession(str(tmp_path / "policy.onnx"), providers=["CPUExecutionProvider"]).run(None, sample)
    with torch.inference_mode():
        expected, _ = export.ExportedPolicy(policy)(*(torch.from_numpy(array) for array in sample.values()))
    np.testing.assert_allclose(logits, expected.numpy(), atol=export.MAX_LOGIT_DIFFERENCE)


def test_quantile_bounds_hold_nearly_all_actions_and_stay_symmetric(data):
    dataset = Dataset([data], val_fraction=0.3)
    spec, wide = quantile_spec(dataset), dataset.meta.action
    actions = np.concatenate([shard.arrays["actions"].reshape(-1, 6) for shard in dataset.shards])
    for index, (dim, before) in enumerate(zip(spec.dims, wide.dims)):
        assert dim.high <= before.high and (dim.low == -dim.high if dim.relative else dim == before)
        inside = np.abs(actions[:, index]) <= dim.high + 1e-6
        assert inside.mean() > 0.95
    assert any(dim.high < before.high for dim, before in zip(spec.dims, wide.dims))


def test_actions_beyond_the_quantiles_become_the_outermost_bin(data, tiny_run):
    dataset = Dataset([data], val_fraction=0.3)
    trainer = Trainer(dataclasses.replace(tiny_run, data=dataclasses.replace(tiny_run.data, action_bins="quantile")), dataset, data / "unused")
    maker = BatchMaker(dataset, trainer.tokenizer, tiny_run.data, 0, trainer.model_config)
    assert maker._ids(np.full((1, 5, 6), 0.25)).max() == trainer.model_config.first_action_token + 255
    total, _ = trainer.loss(trainer.forward(trainer.model, maker.training_batch(0)), maker.training_batch(0))
    assert torch.isfinite(total)


def test_a_quantile_policy_keeps_its_bounds_on_other_data(train, tmp_path):
    trainer = train(data={"action_bins": "quantile"}, run={"max_steps": 1})
    other = write_dataset(tmp_path / "other", seed=9)
    state = load_checkpoint(trainer.out / "last.pt")
    again = Trainer(trainer.config, Dataset([other], val_fraction=0.3), tmp_path / "again", init=state)
    assert again.model_config.action == trainer.model_config.action


def test_pieces_that_lack_their_data_are_refused(data, questions, tmp_path, tiny_settings):
    def make(model, questions=None, **run):
        config = TrainConfig.from_dict({**tiny_settings, "model": {**tiny_settings["model"], **model}, "run": {**tiny_settings["run"], **run}})
        Trainer(config, Dataset([data], val_fraction=0.3), tmp_path / "out", questions=questions)

    with pytest.raises(ConfigError, match="--questions"):
        make({"answer_tokens": 6})
    with pytest.raises(ConfigError, match="answer_tokens"):
        make({}, questions=QuestionDataset([questions], 0.3))
    with pytest.raises(ConfigError, match="needs 5 tokens with its end: raise model.answer_tokens from 3|needs 4 tokens"):
        make({"answer_tokens": 3}, questions=QuestionDataset([questions], 0.3))
    with pytest.raises(ConfigError, match="model.stem vit"):
        make({}, vision_init="none.pt")
    with pytest.raises(ConfigError, match="none.pt"):
        make({"stem": "tokens"}, image_tokens="none.pt")
