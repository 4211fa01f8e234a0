# SPDX-License-Identifier: Apache-2.0
"""`vla checkpoint`: training goes on from a bundle alone."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
import yaml

export = pytest.importorskip("vla_ros.export", reason="needs torch and onnx")

from vla_ros.bundle_checkpoint import bundle_state  # noqa: E402
from vla_ros.cli import main as vla  # noqa: E402
from vla_ros.core.errors import ConfigError  # noqa: E402
from vla_ros.model.config import PolicyConfig  # noqa: E402
from vla_ros.model.cross_attention import make_policy  # noqa: E402
from vla_ros.runtime.bundle import load_bundle  # noqa: E402
from vla_ros.train import continual  # noqa: E402
from vla_ros.train.checkpoint import load_checkpoint, restore_policy, restore_tokenizer  # noqa: E402
from vla_ros.train.config import TrainConfig  # noqa: E402
from vla_ros.train.data import BatchMaker, Dataset  # noqa: E402
from vla_ros.train.losses import PolicyLoss  # noqa: E402
from vla_ros.train.questions import QuestionDataset  # noqa: E402
from vla_ros.train.synthetic import write_dataset, write_questions  # noqa: E402
from vla_ros.train.trainer import Trainer  # noqa: E402
from vla_ros.train.transfer import settle_batch_norm  # noqa: E402

TRAINING_ONLY = {"rarity_C", "read_offset.bias", "read_offset.weight", "state.none_E"}
SETTINGS = {
    "model": {"width": 32, "depth": 3, "vision_depth": 2, "heads": 4, "stem_channels": [4, 8]},
    "data": {"frames_per_batch": 4, "labels_per_frame": 2, "val_fraction": 0.3, "rescan_s": 0},
    "optim": {"ema_decay": 0.1},
    "run": {"max_steps": 4, "val_frames": 4, "threads": 1},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle_checkpoint")
    write_dataset(folder / "data")
    write_questions(folder / "questions")
    return folder


def trained(folder, out, transfer=None, questions=False, **model) -> Trainer:
    config = TrainConfig.from_dict({**SETTINGS, "model": {**SETTINGS["model"], **model}})
    asked = QuestionDataset([folder / "questions"], 0.3) if questions else None
    trainer = Trainer(config, Dataset([folder / "data"], val_fraction=0.3), out, transfer=transfer, questions=asked)
    if transfer is None:
        trainer.run()
    return trainer


EYE = {"answer_depth": 1, "answer_eye": True}


@pytest.fixture(scope="module")
def run(folder):
    """Checkpoint, and the bundle made of it, of a policy that acts and answers."""
    trained(folder, folder / "run", questions=True, answer_tokens=6, **EYE)
    export.export_bundle(folder / "run" / "last.pt", folder / "bundle", folder / "data", frames=2, threads=1)
    return load_checkpoint(folder / "run" / "last.pt"), folder / "bundle"


def test_every_weight_comes_back_but_those_of_training_alone(run):
    state, bundle = run
    found = bundle_state(bundle)
    assert set(found["missing"]) <= TRAINING_ONLY
    assert PolicyConfig.from_dict(found["model_config"]) == PolicyConfig.from_dict(state["model_config"])
    assert restore_tokenizer(found).to_str() == restore_tokenizer(state).to_str()
    stems = [name for name in found["averaged"] if name.startswith("vision.") and (".shrink." in name or ".around." in name)]
    assert len(stems) == 2 * 3 * 6  # cameras, convolutions, tensors of a convolution and its norm
    for name, tensor in found["averaged"].items():
        if name not in (*stems, *found["missing"]):
            torch.testing.assert_close(tensor, state["averaged"][name], rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("model", [{"fusion": "cross", "depth": 4}, {"stem": "patch", "packing": "token"}])
def test_other_shapes_come_back_too(folder, tmp_path, model):
    """`bundle_state` itself compares what the network says with what the bundle says."""
    trained(folder, tmp_path / "run", **model)
    export.export_bundle(tmp_path / "run" / "last.pt", tmp_path / "bundle", folder / "data", frames=2, threads=1)
    assert set(bundle_state(tmp_path / "bundle")["missing"]) <= TRAINING_ONLY


def test_training_begins_where_the_bundle_is(run, folder, tmp_path):
    """As a user would: the command's file, and the same answers before the first step."""
    state, bundle = run
    assert vla(["checkpoint", str(bundle), "--out", str(tmp_path / "begin.pt")]) == 0
    trainer = trained(folder, tmp_path / "next", transfer=load_checkpoint(tmp_path / "begin.pt"), questions=True, answer_tokens=6, **EYE)
    old, batch = restore_policy(state), trainer.maker.training_batch(7)
    assert trainer.tokenizer.get_vocab() == restore_tokenizer(state).get_vocab()
    with torch.inference_mode():
        before, after = (policy(batch.images, batch.text_NT, batch.proprio_BS, batch.prefix_NQ).action_NQA for policy in (old, trainer.averaged.model))
    torch.testing.assert_close(after, before, rtol=0, atol=export.MAX_LOGIT_DIFFERENCE)
    trainer.run()
    assert trainer.step == SETTINGS["run"]["max_steps"]


def test_answers_learned_beside_a_bundle_keep_what_is_known_of_it(run, folder, tmp_path):
    """A bundle, answers alone, a bundle, and everything again: the policy is said to be what it is, and its norms are settled before they learn."""
    _, bundle = run
    acting = load_bundle(bundle).manifest.provenance
    settings = {**SETTINGS, "model": {**SETTINGS["model"], "answer_tokens": 6, **EYE}, "run": {**SETTINGS["run"], "only": "answers", "vision_fraction": 0.0}}
    data, asked = Dataset([folder / "data"], val_fraction=0.3), QuestionDataset([folder / "questions"], 0.3)
    trainer = Trainer(TrainConfig.from_dict(settings), data, tmp_path / "run", transfer=bundle_state(bundle), questions=asked)
    trainer.run()
    export.export_bundle(tmp_path / "run" / "last.pt", tmp_path / "bundle", folder / "data", frames=2, threads=1)
    known = load_bundle(tmp_path / "bundle").manifest.provenance
    assert {name: known[name] for name in ("git", "training", "data", "validation")} == {name: acting[name] for name in ("git", "training", "data", "validation")}
    assert known["answers"]["training"]["steps"] == SETTINGS["run"]["max_steps"] and known["answers"]["questions"]["first_seeds"] == [0]
    assert "answer_accuracy" in known["answers"]["validation"] and "loss_action" not in known["answers"]["validation"]

    answering = load_checkpoint(tmp_path / "run" / "last.pt")
    for beginning in ({"transfer": answering}, {"init": answering}):
        again = Trainer(TrainConfig.from_dict({**SETTINGS, "model": settings["model"]}), data, tmp_path / "again", questions=asked, **beginning)
        assert not torch.equal(again.model.vision.cameras["front"].stem.shrink[1].running_var, torch.ones(8))
        assert "folded" not in again._facts()


def test_a_bundle_learns_new_tasks_without_losing_the_old(run, folder, tmp_path):
    """`vla continual` from what `vla checkpoint` made: the old policy is measured and remembered as it was."""
    state, bundle = run
    assert vla(["checkpoint", str(bundle), "--out", str(tmp_path / "begin.pt")]) == 0
    new = write_dataset(tmp_path / "new", shards=2, seed=9)
    command = ["continual", "--checkpoint", str(tmp_path / "begin.pt"), "--old", str(folder / "data"), "--new", str(new), "--samples", "3"]
    with pytest.raises(ConfigError, match="give --config"):
        continual.main([*command[1:], "--out", str(tmp_path / "none")])
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(SETTINGS))
    assert vla([*command, "--out", str(tmp_path / "out"), "--config", str(tmp_path / "settings.yaml")]) == 0
    report = json.loads((tmp_path / "out" / "continual.json").read_text())
    config, old = TrainConfig.from_dict(SETTINGS), restore_policy(state)
    maker = BatchMaker(Dataset([folder / "data"], None, 0.3), restore_tokenizer(state), config.data, config.run.seed, old.config)
    expected = continual.measure(old, maker, PolicyLoss(maker.meta, config.loss), config.run.val_frames)
    assert report["before"]["old"]["loss_action"] == pytest.approx(expected["loss_action"], abs=1e-4)
    assert report["finished"] and report["step"] == SETTINGS["run"]["max_steps"]
    anchor, begun = load_checkpoint(tmp_path / "out" / "ewc.pt")["anchor"], load_checkpoint(tmp_path / "begin.pt")["averaged"]
    norm = "vision.cameras.front.stem.shrink.1.weight"
    assert not torch.equal(anchor[norm], begun[norm]), "what is remembered is what training begins with: settled norms"


def test_settled_norms_do_in_training_what_they_do_in_use(run):
    """A batch's own variance is then the one that the norm was set to; before, it scaled what the convolution had scaled already."""
    found = bundle_state(run[1])
    policy = make_policy(PolicyConfig.from_dict(found["model_config"]))
    policy.load_state_dict(found["averaged"])
    rng = np.random.default_rng(0)
    images = {c.name: torch.from_numpy(rng.integers(0, 256, (16, *c.shape), dtype=np.uint8)) for c in policy.config.cameras}

    @torch.no_grad()
    def tokens(training: bool):
        return policy.train(training).vision(images)

    used, apart = tokens(False), (tokens(True) - tokens(False)).abs().max()
    policy.load_state_dict(found["averaged"], strict=False)  # a pass in training moved the means
    settle_batch_norm(policy, images)
    torch.testing.assert_close(tokens(False), used, rtol=1e-4, atol=1e-4)
    together = (tokens(True) - used).abs().max()
    assert together < 1e-3 < 0.1 < apart


def test_a_bundle_that_says_nothing_of_its_network_is_refused(run, tmp_path):
    changed = shutil.copytree(run[1], tmp_path / "bundle")
    manifest = yaml.safe_load((changed / "manifest.yaml").read_text())
    del manifest["provenance"]["model"]
    (changed / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    with pytest.raises(ConfigError, match="does not describe a network"):
        bundle_state(changed)


def test_a_stem_whose_constants_were_merged_is_refused(folder, tmp_path):
    trained(folder, tmp_path / "run", stem="vit", vit_depth=1)
    export.export_bundle(tmp_path / "run" / "last.pt", tmp_path / "bundle", folder / "data", frames=2, threads=1)
    with pytest.raises(ConfigError, match="best.pt"):
        bundle_state(tmp_path / "bundle")


@pytest.mark.parametrize(("change", "message"), [({"heads": 2}, "answers otherwise"), ({"stem_channels": [4, 12]}, "does not hold vision.*as the network has it")])
def test_a_network_that_is_not_the_bundles_is_refused(run, tmp_path, change, message):
    changed = shutil.copytree(run[1], tmp_path / "bundle")
    manifest = yaml.safe_load((changed / "manifest.yaml").read_text())
    manifest["provenance"]["model"] |= change
    (changed / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    with pytest.raises(ConfigError, match=message):
        bundle_state(changed)
