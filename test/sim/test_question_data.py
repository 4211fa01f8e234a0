# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import numpy as np
import pytest
import yaml

from vla_ros.sim.question_data import CAMERA, QuestionRecorder, write_question_meta, write_question_shard
from vla_ros.sim.questions import QUESTION_KINDS, all_texts


@pytest.fixture(scope="module")
def frames() -> list[dict]:
    recorder = QuestionRecorder(3, randomize_look=0.0)
    made = [frame for seed in range(12) for frame in recorder.episode(seed)]
    again = [frame for seed in range(2) for frame in QuestionRecorder(3, randomize_look=0.0).episode(seed)]
    recorder.env.close()
    assert all(np.array_equal(a[CAMERA.name], b[CAMERA.name]) and a["questions"] == b["questions"] for a, b in zip(made, again))
    return made


def test_every_picture_comes_with_questions_that_have_answers(frames):
    assert len(frames) > 8
    known = set(all_texts())
    for frame in frames:
        assert frame[CAMERA.name].shape == CAMERA.shape and frame[CAMERA.name].dtype == np.uint8 and frame[CAMERA.name].std() > 5
        assert len(frame["questions"]) == 3
        assert all(question.text in known and question.answer in known for question in frame["questions"])
    assert len({question.kind for frame in frames for question in frame["questions"]}) == len(QUESTION_KINDS)


def test_a_shard_keeps_pictures_questions_and_answers_together(frames, tmp_path):
    write_question_meta(tmp_path, 3, 0)
    write_question_shard(tmp_path / "shard_ask_0", frames, list(range(len(frames))), [0] * len(frames))
    assert yaml.safe_load((tmp_path / "meta.yaml").read_text())["kinds"] == list(QUESTION_KINDS)
    assert set((tmp_path / "texts.txt").read_text().splitlines()) == set(all_texts())
    texts = json.loads((tmp_path / "shard_ask_0" / "texts.json").read_text())
    question, answer, kind, picture = (np.load(tmp_path / "shard_ask_0" / f"{name}.npy") for name in ("question", "answer", "kind", CAMERA.name))
    for row, frame in enumerate(frames):
        assert np.array_equal(picture[row], frame[CAMERA.name])
        for column, asked in enumerate(frame["questions"]):
            read = (texts["questions"][question[row, column]], texts["answers"][answer[row, column]], QUESTION_KINDS[kind[row, column]])
            assert read == (asked.text, asked.answer, asked.kind)


def test_questions_and_snapshots_do_not_mix(tmp_path, capsys):
    from vla_ros.sim.collect import main

    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path), "--questions", "--snapshots"])
    assert "two folders" in capsys.readouterr().err
