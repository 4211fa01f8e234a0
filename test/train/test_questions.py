# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from vla_ros.core.tabletop import PROMPT_TEMPLATE
from vla_ros.train.config import DataConfig
from vla_ros.train.questions import QuestionDataset, QuestionMaker, answer_loss, encode_answers
from vla_ros.train.shards import DataError
from vla_ros.train.synthetic import write_questions
from vla_ros.train.tokenizer import PAD_ID, train_tokenizer

CONFIG = DataConfig(question_frames=4, questions_per_frame=2)


@pytest.fixture
def folder(tmp_path):
    return write_questions(tmp_path / "questions")


@pytest.fixture
def maker(folder) -> QuestionMaker:
    dataset = QuestionDataset([folder], 0.3)
    return QuestionMaker(dataset, train_tokenizer(dataset.texts(), PROMPT_TEMPLATE), CONFIG, seed=0, answer_tokens=6)


def test_a_batch_depends_on_its_number_only_and_holds_right_pairs(maker, folder):
    first, again, other = maker.training_batch(3), maker.training_batch(3), maker.training_batch(4)
    assert torch.equal(first.images["front"], again.images["front"]) and torch.equal(first.answer_ML, again.answer_ML)
    assert not torch.equal(first.images["front"], other.images["front"])
    assert first.images["front"].shape == (4, 128, 128, 3) and first.text_MT.shape[0] == first.answer_ML.shape[0] == 8
    tokenizer_texts = {tuple(row) for row in maker._answers[maker.dataset.shards[0].path].tolist()}
    assert {tuple(row) for row in first.answer_ML.tolist()} <= tokenizer_texts


def test_validation_never_shows_a_training_picture(maker):
    trained = {picture.numpy().tobytes() for number in range(30) for picture in QuestionMaker.training_batch(_plain(maker), number).images["front"]}
    held_out = {picture.numpy().tobytes() for batch in maker.validation_batches(20) for picture in batch.images["front"]}
    assert held_out and not trained & held_out


def _plain(maker: QuestionMaker) -> QuestionMaker:
    maker.config = DataConfig(question_frames=4, questions_per_frame=2, brightness=0, contrast=0, tint=0)
    return maker


def test_every_recorded_question_is_asked_however_many_another_dataset_has(folder, tmp_path):
    """Two questions a picture here and three there: the third is drawn too."""
    other = write_questions(tmp_path / "other", seed=1)
    for name in ("question", "answer", "kind"):
        path = other / "shard_0000" / f"{name}.npy"
        array = np.load(path)
        np.save(path, np.concatenate([array, array[:, :1]], axis=1))
    texts = other / "shard_0000" / "texts.json"
    known = json.loads(texts.read_text())
    question = np.load(other / "shard_0000" / "question.npy")
    question[:, 2] = len(known["questions"])
    np.save(other / "shard_0000" / "question.npy", question)
    texts.write_text(json.dumps({**known, "questions": [*known["questions"], "which colour has it?"]}))
    dataset = QuestionDataset([folder, other], 0.3)
    tokenizer = train_tokenizer(dataset.texts(), PROMPT_TEMPLATE)
    maker = QuestionMaker(dataset, tokenizer, CONFIG, seed=0, answer_tokens=6)
    asked = {tokenizer.decode(row.tolist()) for number in range(20) for row in maker.training_batch(number).text_MT}
    assert any("which" in text.replace("Ġ", "") for text in asked)


def test_only_the_answer_and_its_end_count(maker):
    batch = maker.training_batch(0)
    length = (batch.answer_ML != PAD_ID).sum(1)
    assert torch.equal(batch.counts_ML.sum(1), length + 1)

    class Sure:
        def answer_with_table(self, images, text, answer):
            return 50.0 * torch.nn.functional.one_hot(answer, 512), None

    answered = answer_loss(Sure(), batch)
    assert answered.language < 1e-6 and answered.objects == 0 and answered.right_M.all()

    class SureButEndless(Sure):
        def answer_with_table(self, images, text, answer):
            return super().answer_with_table(images, text, torch.where(answer == PAD_ID, 7, answer))

    answered = answer_loss(SureButEndless(), batch)
    assert answered.language > 1 and not answered.right_M.any()


def test_answers_are_read_back_as_they_were_written(folder):
    tokenizer = train_tokenizer(["on the left", "red"], PROMPT_TEMPLATE)
    ids = encode_answers(tokenizer, ["on the left", "red"], 6)
    assert ids[0].tolist()[3:] == [PAD_ID] * 3 and ids[1].tolist()[1:] == [PAD_ID] * 5
    assert tokenizer.id_to_token(int(ids[1, 0])).endswith("red")


def damage(folder, name, change):
    path = folder / "shard_0000" / f"{name}.npy"
    array = np.load(path)
    change(array)
    np.save(path, array)


def test_bad_data_is_refused_with_file_and_row(folder, tmp_path):
    damage(folder, "answer", lambda array: array.__setitem__((5, 1), 99))
    with pytest.raises(DataError, match=r"answer\.npy: row 5"):
        QuestionDataset([folder], 0.3)
    damage(folder, "answer", lambda array: array.__setitem__((5, 1), 0))
    damage(folder, "tool", lambda array: array.__setitem__((7, 2), np.nan))
    with pytest.raises(DataError, match=r"tool\.npy: row 7: expected finite"):
        QuestionDataset([folder], 0.3)
    np.save(folder / "shard_0000" / "answer.npy", np.zeros((3, 2), dtype=np.int32))
    with pytest.raises(DataError, match=r"answer\.npy: expected int32 \[32, 2\]"):
        QuestionDataset([folder], 0.3)
    (folder / "shard_0000" / "texts.json").write_text(json.dumps({"questions": []}))
    with pytest.raises(DataError, match="texts.json"):
        QuestionDataset([folder], 0.3)
    with pytest.raises(DataError, match="vla collect --questions"):
        QuestionDataset([tmp_path / "none"], 0.3)


def test_demonstrations_are_no_questions(dataset_folder):
    with pytest.raises(DataError, match="no question dataset"):
        QuestionDataset([dataset_folder], 0.3)


def run_only_answers(folder, tmp_path, eye=False, **run):
    from vla_ros.train.config import TrainConfig
    from vla_ros.train.data import Dataset
    from vla_ros.train.synthetic import write_dataset
    from vla_ros.train.trainer import Trainer

    settings = {
        "model": {"width": 32, "depth": 3, "vision_depth": 2, "heads": 4, "stem_channels": [4, 8], "answer_tokens": 6, "answer_depth": 1, "answer_eye": eye},
        "data": {"frames_per_batch": 2, "labels_per_frame": 1, "question_frames": 4, "questions_per_frame": 2, "val_fraction": 0.3, "rescan_s": 0},
        "run": {"max_steps": 60, "val_frames": 4, "threads": 1, "only": "answers", "vision_fraction": 0.0, **run},
        "optim": {"learning_rate": 3e-3, "warmup_steps": 5},
    }
    data = write_dataset(tmp_path / "data")
    return Trainer(TrainConfig.from_dict(settings), Dataset([data], val_fraction=0.3), tmp_path / "run", questions=QuestionDataset([folder], 0.3))


@pytest.mark.parametrize("eye", [False, True])
def test_answers_are_learned_beside_a_policy_that_stays_bit_for_bit(folder, tmp_path, eye):
    trainer = run_only_answers(folder, tmp_path, eye)
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    batch = trainer.maker.questions.training_batch(0)
    first = answer_loss(trainer.model.eval(), batch)
    trainer.run()
    last = answer_loss(trainer.model, batch)
    assert last.language + last.objects < 0.7 * (first.language + first.objects)
    changed = {name.split(".")[0] for name, tensor in trainer.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"answers", "finder", "answer_blocks", "eye" if eye else "read_offset"}  # the last one tells questions and the vision loss, and no action
    assert trainer.metrics.keys() >= {"loss_language", "answer_accuracy", *(["loss_objects"] if eye else [])}


def test_an_eye_needs_questions_about_the_objects_of_the_data(folder, tmp_path):
    from vla_ros.core.errors import ConfigError

    meta = folder / "meta.yaml"
    meta.write_text(meta.read_text().replace("red bowl", "red cup"))
    with pytest.raises(ConfigError, match="red cup"):
        run_only_answers(folder, tmp_path, eye=True)


def test_answers_alone_need_layers_of_their_own(folder, tmp_path):
    from vla_ros.core.errors import ConfigError
    from vla_ros.train.config import RunConfig

    with pytest.raises(ConfigError, match="valid are '', 'answers'"):
        RunConfig(only="answer")
    with pytest.raises(ConfigError, match="model.answer_tokens"):
        from vla_ros.model import PolicyConfig

        PolicyConfig(vocab_size=600, first_action_token=300, seen_tokens=(1,), answer_depth=2)
