# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import numpy as np
import pytest
import yaml

from vla_ros.sim.question_data import CAMERA, OBJECTS, QuestionRecorder, write_question_meta, write_question_shard
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


def test_a_shard_says_where_everything_is(tmp_path):
    """Against the simulator itself, read back as training reads it."""
    pytest.importorskip("torch")
    from vla_ros.train.questions import QuestionDataset

    recorder, frames, truth = QuestionRecorder(2, randomize_look=0.0), [], []
    for seed in range(8):
        for frame in recorder.episode(seed):
            frames.append(frame)
            world = recorder.env.world_state()
            shares = recorder.env.visible_shares(CAMERA.name)
            seen = {str(ref): recorder.env.project(CAMERA.name, state.position) for ref, state in world.objects.items() if shares[ref] > 0.001}
            hidden = {name for name in map(str, OBJECTS) if name not in {str(ref) for ref, share in shares.items() if share > 0.0003}}
            truth.append((seen, hidden, recorder.env.project(CAMERA.name, world.tool), world.tool[2], world.gripper))
    recorder.env.close()
    write_question_meta(tmp_path, 2, 0)
    write_question_shard(tmp_path / "shard_ask_0", frames, list(range(len(frames))), [0] * len(frames))
    dataset = QuestionDataset([tmp_path], 0.3)
    arrays = dataset.shards[0].arrays
    for place_R2, tool_4, (seen, hidden, tool_uv, height, opening) in zip(arrays["place"], arrays["tool"], truth):
        np.testing.assert_allclose(tool_4, [*tool_uv, height, opening], rtol=1e-6)
        for name, place in zip(dataset.objects, place_R2):
            if name in seen and (seen[name] > 0).all() and (seen[name] < 1).all():
                np.testing.assert_allclose(place, seen[name], rtol=1e-6, err_msg=name)
            elif name in hidden:
                assert np.isnan(place).all(), name
    assert len(frames) > 4 and 3 <= np.isfinite(arrays["place"][..., 0]).sum(1).min()


def test_questions_and_snapshots_do_not_mix(tmp_path, capsys):
    from vla_ros.sim.collect import main

    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path), "--questions", "--snapshots"])
    assert "two folders" in capsys.readouterr().err
