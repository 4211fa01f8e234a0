# SPDX-License-Identifier: Apache-2.0
"""`vla renew`: a bundle with new graphs answers as before."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import yaml

onnx = pytest.importorskip("onnx", reason="needs torch and onnx")
pytest.importorskip("torch")

from vla_ros import export  # noqa: E402
from vla_ros.cli import main as vla  # noqa: E402
from vla_ros.core.errors import BundleError, ConfigError  # noqa: E402
from vla_ros.renew import main, renew  # noqa: E402
from vla_ros.runtime.bundle import load_bundle  # noqa: E402
from vla_ros.runtime.contract import ACTION_LOGITS  # noqa: E402
from vla_ros.runtime.session import OnnxPolicy, probe_inputs  # noqa: E402
from vla_ros.train.config import TrainConfig  # noqa: E402
from vla_ros.train.data import Dataset  # noqa: E402
from vla_ros.train.questions import QuestionDataset  # noqa: E402
from vla_ros.train.synthetic import write_dataset, write_questions  # noqa: E402
from vla_ros.train.trainer import Trainer  # noqa: E402

SETTINGS = {
    "model": {"width": 32, "depth": 3, "vision_depth": 2, "heads": 4, "stem_channels": [4, 8], "answer_tokens": 6, "answer_depth": 1, "answer_eye": True},
    "data": {"frames_per_batch": 4, "labels_per_frame": 2, "val_fraction": 0.3, "rescan_s": 0},
    "run": {"max_steps": 3, "val_frames": 4, "threads": 1},
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A bundle that acts and answers, its attention written out, as earlier releases did it."""
    folder = tmp_path_factory.mktemp("renew")
    data, questions = write_dataset(folder / "data"), folder / "questions"
    write_questions(questions)
    Trainer(TrainConfig.from_dict(SETTINGS), Dataset([data], val_fraction=0.3), folder / "run", questions=QuestionDataset([questions], 0.3)).run()
    export.export_bundle(folder / "run" / "last.pt", folder / "plain", data, frames=2, threads=1, plain_attention=True)
    (folder / "plain" / "evaluation.json").write_text("{}")
    return folder / "plain"


def operators(bundle):
    return {node.op_type for node in onnx.load(bundle / "policy.onnx").graph.node}


def test_weights_and_answers_stay_and_attention_becomes_one_operator(plain, tmp_path):
    assert vla(["renew", str(plain), "--out", str(tmp_path / "new"), "--threads", "1", "--json", str(tmp_path / "r.json")]) == 0
    assert "Attention" not in operators(plain) and "Attention" in operators(tmp_path / "new")
    before, after = load_bundle(plain), load_bundle(tmp_path / "new")
    assert after.sha256 != before.sha256 and after.manifest.name == before.manifest.name == "plain"
    for name, value in before.manifest.to_dict().items():
        if name not in ("sha256", "opset", "provenance"):
            assert after.manifest.to_dict()[name] == value, name
    assert after.manifest.provenance.items() > before.manifest.provenance.items()
    old, new = OnnxPolicy(before), OnnxPolicy(after)
    inputs = probe_inputs(old.inputs, before, np.random.default_rng(7), 1)
    np.testing.assert_allclose(new.infer(inputs)[ACTION_LOGITS], old.infer(inputs)[ACTION_LOGITS], atol=export.MAX_LOGIT_DIFFERENCE)
    assert not (tmp_path / "new" / "evaluation.json").exists(), "that was measured with the old graphs"
    report = json.loads((tmp_path / "r.json").read_text())
    assert 0.0 <= report["max_difference_from_before"] <= export.MAX_LOGIT_DIFFERENCE and set(report["inference_ms"]) == {"before", "after"}
    assert "max_answer_logit_difference" in report


def test_and_back_again_for_a_provider_that_lacks_the_operator(plain, tmp_path):
    renew(plain, tmp_path / "new", threads=1)
    renew(tmp_path / "new", tmp_path / "plain", plain_attention=True, threads=1)
    assert "Attention" not in operators(tmp_path / "plain")


@pytest.mark.parametrize("compared_with", ["network", "bundle"])
def test_a_graph_that_answers_otherwise_is_refused(plain, tmp_path, monkeypatch, capsys, caplog, compared_with):
    genuine = OnnxPolicy.infer

    def shifted(self, inputs):
        answer = genuine(self, inputs)
        return answer if self.bundle.directory == plain else {**answer, ACTION_LOGITS: answer[ACTION_LOGITS] + 0.01}

    monkeypatch.setattr(OnnxPolicy, "infer", shifted)
    if compared_with == "bundle":
        monkeypatch.setattr("vla_ros.renew.check_parity", lambda *_: {})
    assert main([str(plain), "--out", str(tmp_path / "new"), "--threads", "1"]) == 1
    assert ("otherwise than the bundle" if compared_with == "bundle" else "the export is faulty") in caplog.text + capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_renewed_is_refused_and_nothing_is_written(plain, tmp_path):
    with pytest.raises(ConfigError, match="exists: give another --out"):
        main([str(plain), "--out", str(plain)])
    damaged = shutil.copytree(plain, tmp_path / "damaged")
    (damaged / "policy.onnx").write_bytes(b"x")
    with pytest.raises(BundleError):
        renew(damaged, tmp_path / "out")
    stranger = shutil.copytree(plain, tmp_path / "stranger")
    manifest = yaml.safe_load((stranger / "manifest.yaml").read_text())
    del manifest["provenance"]["model"]
    (stranger / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    with pytest.raises(ConfigError, match="not of `vla export`"):
        renew(stranger, tmp_path / "out")
    assert not (tmp_path / "out").exists()
