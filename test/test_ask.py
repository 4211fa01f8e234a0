# SPDX-License-Identifier: Apache-2.0
"""`vla ask` on a bundle that was trained for two steps: what it says is of no use, how it says it is."""

from __future__ import annotations

import json
import shutil

import cv2
import numpy as np
import pytest
import yaml

pytest.importorskip("torch")
export = pytest.importorskip("vla_ros.export", reason="needs onnx")

from vla_ros import ask  # noqa: E402
from vla_ros.cli import main as vla  # noqa: E402
from vla_ros.core.errors import BundleError, ConfigError, InputError  # noqa: E402
from vla_ros.export_answers import FILES  # noqa: E402
from vla_ros.runtime.answerer import Answerer  # noqa: E402
from vla_ros.runtime.bundle import file_sha256, load_bundle  # noqa: E402
from vla_ros.train.config import TrainConfig  # noqa: E402
from vla_ros.train.data import Dataset  # noqa: E402
from vla_ros.train.questions import QuestionDataset  # noqa: E402
from vla_ros.train.synthetic import write_dataset, write_questions  # noqa: E402
from vla_ros.train.trainer import Trainer  # noqa: E402

SETTINGS = {
    "model": {"width": 32, "depth": 3, "vision_depth": 2, "heads": 4, "stem_channels": [4, 8], "answer_tokens": 6},
    "data": {"frames_per_batch": 4, "labels_per_frame": 2, "val_fraction": 0.3, "rescan_s": 0},
    "run": {"max_steps": 2, "val_frames": 4, "threads": 1},
}


@pytest.fixture(scope="module", params=[{}, {"answer_depth": 1, "answer_eye": True}], ids=["the policy's layers", "an eye and layers of its own"])
def bundle(tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("ask")
    data, questions = write_dataset(folder / "data"), write_questions(folder / "questions")
    Trainer(TrainConfig.from_dict({**SETTINGS, "model": {**SETTINGS["model"], **request.param}}), Dataset([data], val_fraction=0.3), folder / "run", questions=QuestionDataset([questions], 0.3)).run()
    export.export_bundle(folder / "run" / "last.pt", folder / "tiny", data, frames=2, threads=1)
    return folder / "tiny"


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "view.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8))
    return path


def test_the_answer_is_printed_and_written(bundle, picture, tmp_path, capsys):
    assert vla(["ask", str(bundle), str(picture), "what colour is it?", "--json", str(tmp_path / "answer.json")]) == 0
    report = json.loads((tmp_path / "answer.json").read_text())
    assert report["answer"] == capsys.readouterr().out.strip()
    assert report["question"] == "what colour is it?" and 0 < report["probability"] <= 1
    assert report["bundle_sha256"] == load_bundle(bundle).sha256


def test_an_answer_is_text_even_if_the_policy_is_a_poor_one(bundle):
    """Every id that can be said is below the action ids, so that words never become motion."""
    answerer = Answerer(load_bundle(bundle))
    vocabulary = answerer.bundle.manifest.vocabulary
    logits = answerer._graph.infer({})["answer_logits"]
    assert logits.shape == (1, 6, vocabulary.first_action_token)
    picture = np.zeros((128, 128, 3), dtype=np.uint8)
    first = answerer.answer(picture, "Where is it?")
    assert answerer.answer(picture, "  where is it?  ") == first  # deterministic, and blanks and capitals do not matter


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["{bundle}", "{folder}/none.png", "what?"], "none.png"),
        (["{bundle}", "{bundle}/tokenizer.json", "what?"], "PNG or JPEG"),
        (["{bundle}", "{picture}", "   "], "blank"),
        (["{bundle}", "{picture}", "is it " * 60], "tokens"),
        (["{bundle}", "{picture}"], "question is missing"),
        (["{bundle}"], "--measure"),
        (["{folder}/nothing", "{picture}", "what?"], "nothing"),
    ],
)
def test_wrong_use_is_said_in_one_line(words, expected, bundle, picture, tmp_path, capsys):
    words = [word.format(bundle=bundle, picture=picture, folder=tmp_path) for word in words]
    assert vla(["ask", *words]) == 2
    error = capsys.readouterr().err
    assert expected in error and "Traceback" not in error


def rewritten(bundle, out, change):
    """A copy whose manifest and answers were changed, hashes brought up to date."""
    shutil.copytree(bundle, out)
    manifest = yaml.safe_load((out / "manifest.yaml").read_text())
    answers = yaml.safe_load((out / FILES["answers"]).read_text())
    change(manifest, answers)
    (out / FILES["answers"]).write_text(yaml.safe_dump(answers))
    manifest["sha256"] = {name: file_sha256(out / name) for name in manifest["sha256"] if name in {*manifest["files"].values(), "tokenizer.json"}}
    (out / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    return load_bundle(out)


def test_a_bundle_without_answers_says_how_to_get_them(bundle, tmp_path):
    def change(manifest, answers):
        manifest["files"] = {"policy": "policy.onnx"}

    with pytest.raises(BundleError, match="vla train --questions"):
        Answerer(rewritten(bundle, tmp_path / "b", change))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [("camera", "rear", "none of the manifest's"), ("tokens", 7, "do not fit"), ("end_token", 500_000, "text id"), ("prompt_template", "Q:", "exactly once"), ("more", 1, "more")],
)
def test_answers_that_do_not_fit_the_graph_are_refused(key, value, words, bundle, tmp_path):
    with pytest.raises(BundleError, match=words):
        Answerer(rewritten(bundle, tmp_path / "b", lambda manifest, answers: answers.__setitem__(key, value)))


def test_a_changed_answer_graph_is_refused(bundle, tmp_path):
    shutil.copytree(bundle, tmp_path / "b")
    graph = tmp_path / "b" / FILES["answer"]
    graph.write_bytes(graph.read_bytes() + b"\0")
    with pytest.raises(BundleError, match="answer.onnx"):
        load_bundle(tmp_path / "b")


def test_pictures_and_questions_are_checked_by_the_library_too(bundle):
    answerer = Answerer(load_bundle(bundle))
    with pytest.raises(InputError, match="uint8"):
        answerer.answer(np.zeros((8, 8), dtype=np.uint8), "what?")
    with pytest.raises(ConfigError, match="cannot read"):
        ask.read_picture(bundle / "none.png")


def test_measuring_counts_right_answers_of_the_simulators_questions(bundle, tmp_path):
    pytest.importorskip("mujoco")
    from vla_ros.sim.questions import Question, is_right

    result = tmp_path / "measured.json"
    assert ask.main([str(bundle), "--measure", "6", "--require", "0.99", "--json", str(result)]) == 1  # untrained: it cannot be right
    report = json.loads(result.read_text())
    assert report["questions"] == 6 == len(report["answers"]) and report["ci95"][0] <= report["accuracy"] <= report["ci95"][1]
    for row in report["answers"]:
        assert row["right"] == is_right(Question(kind=row["kind"], text=row["question"], answer=row["truth"]), row["answer"])
    assert sum(kind["n"] for kind in report["by_kind"].values()) == 6
