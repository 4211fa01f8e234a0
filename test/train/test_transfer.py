# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from vla_ros.core.errors import ConfigError
from vla_ros.train.checkpoint import load_checkpoint, restore_policy, restore_tokenizer
from vla_ros.train.config import TrainConfig
from vla_ros.train.data import Dataset
from vla_ros.train.questions import QuestionDataset
from vla_ros.train.synthetic import write_questions
from vla_ros.train.trainer import Trainer


@pytest.fixture
def acting(dataset_folder, tmp_path, tiny_run) -> dict:
    """Checkpoint of a policy that only acts."""
    Trainer(tiny_run, Dataset([dataset_folder], val_fraction=0.3), tmp_path / "acting").run()
    return load_checkpoint(tmp_path / "acting" / "last.pt")


def answering(dataset_folder, tmp_path, settings, state, **model) -> Trainer:
    config = TrainConfig.from_dict({**settings, "model": {**settings["model"], "answer_tokens": 6, **model}})
    questions = QuestionDataset([write_questions(tmp_path / "questions")], 0.3)
    return Trainer(config, Dataset([dataset_folder], val_fraction=0.3), tmp_path / "answering", transfer=state, questions=questions)


def test_a_policy_that_learns_to_answer_acts_as_before(acting, dataset_folder, tmp_path, tiny_settings):
    """Before its first step: the same instruction, spelled in another vocabulary, has the same logits."""
    trainer = answering(dataset_folder, tmp_path, tiny_settings, acting)
    old, old_tokenizer = restore_policy(acting), restore_tokenizer(acting)
    assert trainer.tokenizer.get_vocab_size() > old_tokenizer.get_vocab_size()
    new = trainer.averaged.model
    text = "robot: go to the red thing action:"
    assert trainer.tokenizer.encode(text).tokens == old_tokenizer.encode(text).tokens
    batch = trainer.maker.training_batch(0)
    one = {name: picture[:1] for name, picture in batch.images.items()}
    with torch.inference_mode():
        logits = [
            policy(one, torch.tensor([tokenizer.encode(text).ids]), batch.proprio_BS[:1], torch.full((1, 30), -1)).action_NQA
            for policy, tokenizer in ((old, old_tokenizer), (new, trainer.tokenizer))
        ]
    torch.testing.assert_close(logits[1], logits[0], rtol=0, atol=0)
    trainer.run()
    assert "answer_accuracy" in trainer.metrics


def test_pieces_that_are_new_start_anew(acting, dataset_folder, tmp_path, tiny_settings, caplog):
    caplog.set_level("INFO")
    trainer = answering(dataset_folder, tmp_path, tiny_settings, acting, action_head="l1")
    assert "answers.read.weight" in caplog.text and "action_head.layers.0.weight" in caplog.text and "blocks.0" not in caplog.text
    assert torch.equal(trainer.model.blocks[0].query.weight, acting["averaged"]["blocks.0.query.weight"])


def test_a_policy_of_another_width_is_refused(acting, dataset_folder, tmp_path, tiny_settings):
    with pytest.raises(ConfigError, match="another width"):
        answering(dataset_folder, tmp_path, tiny_settings, acting, width=48)


def test_the_first_camera_keeps_its_eyes_under_another_name(acting, dataset_folder, tmp_path, tiny_run):
    first = acting["model_config"]["cameras"][0]
    renamed = {name.replace(f"cameras.{first['name']}.", "cameras.elsewhere."): tensor for name, tensor in acting["averaged"].items()}
    state = {**acting, "averaged": renamed, "model_config": {**acting["model_config"], "cameras": [{**first, "name": "elsewhere"}]}}
    trainer = Trainer(tiny_run, Dataset([dataset_folder], val_fraction=0.3), tmp_path / "renamed", transfer=state)
    name = f"vision.cameras.{first['name']}.stem.embed.0.weight"
    assert torch.equal(trainer.model.state_dict()[name], acting["averaged"][name])
