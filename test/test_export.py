# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import yaml

from vla_ros import export
from vla_ros.core.errors import ConfigError
from vla_ros.core.observation import Observation
from vla_ros.core.paths import robot_config_path
from vla_ros.model.config import PolicyConfig
from vla_ros.robot import RobotDescription
from vla_ros.runtime.bundle import load_bundle
from vla_ros.runtime.contract import ACTION_LOGITS, PREFIX_TOKENS
from vla_ros.runtime.policy import Policy as RobotPolicy
from vla_ros.runtime.session import OnnxPolicy
from vla_ros.train.checkpoint import load_checkpoint, restore_policy
from vla_ros.train.config import TrainConfig
from vla_ros.train.data import Dataset
from vla_ros.train.synthetic import write_dataset
from vla_ros.train.trainer import Trainer

SETTINGS = {
    "model": {"width": 32, "depth": 3, "vision_depth": 2, "heads": 4, "stem_channels": [4, 8]},
    "data": {"frames_per_batch": 4, "labels_per_frame": 2, "val_fraction": 0.3, "rescan_s": 0},
    "run": {"max_steps": 3, "val_frames": 4, "threads": 1},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A dataset folder and a checkpoint of a run of three steps."""
    folder = tmp_path_factory.mktemp("export")
    data = write_dataset(folder / "data")
    config = TrainConfig.from_dict(SETTINGS)
    Trainer(config, Dataset([data], val_fraction=0.3), folder / "run").run()
    return data, folder / "run" / "last.pt"


@pytest.fixture(scope="module")
def bundle_folder(trained, tmp_path_factory):
    data, checkpoint = trained
    out = tmp_path_factory.mktemp("models") / "tiny"
    result = out.parent / "result.json"
    words = ["--checkpoint", str(checkpoint), "--data", str(data), "--out", str(out), "--frames", "8", "--threads", "1", "--json", str(result)]
    assert export.main(words) == 0
    report = json.loads(result.read_text())
    assert report["max_logit_difference"] < export.MAX_LOGIT_DIFFERENCE and report["inference_ms"]["p50"] > 0
    return out


def test_the_bundle_keeps_the_contract(bundle_folder):
    bundle = load_bundle(bundle_folder)
    OnnxPolicy(bundle).warm_up(1)  # compares names, types and shapes with the manifest
    manifest = bundle.manifest
    assert manifest.name == "tiny" and manifest.robot == "tabletop_arm" and manifest.decoding == "parallel"
    assert [slot.name for slot in manifest.plan.slots] == ["phase", "x", "y"]
    assert manifest.provenance["training"]["steps"] == 3
    assert manifest.provenance["data"]["seeds"] == [0]
    assert sorted(path.name for path in bundle_folder.iterdir()) == ["manifest.yaml", "policy.onnx", "tokenizer.json"]


def test_an_autoregressive_policy_is_one_graph_of_the_same_contract(trained, tmp_path):
    """Step after step inside the graph: what the export compares is the network's own decoding with a cache."""
    data, _ = trained
    settings = {**SETTINGS, "model": {**SETTINGS["model"], "decoding": "autoregressive"}}
    Trainer(TrainConfig.from_dict(settings), Dataset([data], val_fraction=0.3), tmp_path / "run").run()
    report = export.export_bundle(tmp_path / "run" / "last.pt", tmp_path / "bundle", data, frames=4, threads=1)
    assert report["max_logit_difference"] < export.MAX_LOGIT_DIFFERENCE
    bundle = load_bundle(tmp_path / "bundle")
    assert bundle.manifest.decoding == "autoregressive" and not bundle.manifest.is_cached
    logits = OnnxPolicy(bundle).infer({})[ACTION_LOGITS]
    assert logits.shape == (1, 30, 256) and np.isfinite(logits).all()


def test_a_policy_of_two_pictures_is_shown_what_came_before(trained, tmp_path):
    """The bundle's own policy, asked twice, says what the network says of both pictures."""
    data, _ = trained
    settings = {**SETTINGS, "model": {"width": 32, "depth": 3, "vision_depth": 2, "heads": 4, "stem": "vit", "vit_depth": 1, "frames": 2}}
    Trainer(TrainConfig.from_dict(settings), Dataset([data], val_fraction=0.3), tmp_path / "run").run()
    export.export_bundle(tmp_path / "run" / "last.pt", tmp_path / "bundle", data, frames=4, threads=1)
    bundle = load_bundle(tmp_path / "bundle")
    assert bundle.manifest.frames == 2 and bundle.manifest.to_dict() == export.Manifest.from_dict(bundle.manifest.to_dict()).to_dict()
    robot = RobotDescription.load(robot_config_path("tabletop_arm"))
    policy, rng = RobotPolicy(bundle, robot), np.random.default_rng(0)
    pictures = [{c.name: rng.integers(0, 256, c.shape, dtype=np.uint8) for c in bundle.manifest.cameras} for _ in range(2)]
    for number, images in enumerate(pictures):
        stamp_ns = 10**9 + 200_000_000 * number
        stamps = dict.fromkeys(images, stamp_ns)
        policy.infer(Observation(images=images, image_stamp_ns=stamps, joint_positions=robot.home, joint_stamp_ns=stamp_ns, instruction="go to the red thing"))
    said = policy.backend.infer({})[ACTION_LOGITS]  # of the inputs that the last observation left
    network = restore_policy(load_checkpoint(tmp_path / "run" / "last.pt")).eval()
    words = torch.from_numpy(policy._prompts.encode("go to the red thing").copy())
    proprio, free = torch.from_numpy(policy.proprio(robot.home)), torch.full((1, 30), -1)
    both, newest = ({c: torch.from_numpy(np.stack([pictures[1][c], pictures[k][c]])[None]) for c in pictures[0]} for k in (0, 1))
    with torch.inference_mode():
        wanted, other = (network(shown, words, proprio, free).action_NQA.numpy() for shown in (both, newest))
    assert np.abs(said - wanted).max() < export.MAX_LOGIT_DIFFERENCE < np.abs(said - other).max()


def test_several_pictures_and_answers_do_not_go_together(trained, tmp_path):
    state = load_checkpoint(trained[1])
    state["model_config"] |= {"stem": "vit", "frames": 2, "decoding": "autoregressive"}
    from vla_ros.model.cross_attention import make_policy
    from vla_ros.train.checkpoint import save_checkpoint

    network = make_policy(PolicyConfig.from_dict(state["model_config"]))
    save_checkpoint(tmp_path / "two.pt", {**state, "averaged": network.state_dict()})
    with pytest.raises(ConfigError, match="sees 2 frames of each camera: such a bundle can neither answer"):
        export.export_bundle(tmp_path / "two.pt", tmp_path / "bundle", trained[0], frames=2)


def test_the_graph_is_plain(bundle_folder):
    model = onnx.load(bundle_folder / "policy.onnx")
    kinds = {node.op_type for node in model.graph.node}
    assert "BatchNormalization" not in kinds
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    assert not model.functions
    assert b"/vla_ros/" not in (bundle_folder / "policy.onnx").read_bytes()  # no source paths


def test_a_clip_without_an_upper_bound_becomes_the_same_maximum(bundle_folder):
    assert "Clip" not in {node.op_type for node in onnx.load(bundle_folder / "policy.onnx").graph.node if len(node.input) == 2}
    helper = onnx.helper
    nodes = [helper.make_node("Clip", ["x", "low"], ["y"]), helper.make_node("Clip", ["y", "low", "high"], ["z"])]
    value = [helper.make_tensor_value_info(name, onnx.TensorProto.INT64, [3]) for name in "xz"]
    bounds = [onnx.numpy_helper.from_array(np.array(bound, dtype=np.int64), name) for name, bound in (("low", 0), ("high", 9))]
    graph = helper.make_graph(nodes, "clips", value[:1], value[1:], bounds)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    export.replace_open_clips(model)
    assert [node.op_type for node in model.graph.node] == ["Max", "Clip"]
    (answer,) = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": np.array([-1, 5, 12])})
    assert answer.tolist() == [0, 5, 9]


def test_the_shape_of_the_network_can_be_read_from_the_bundle(bundle_folder, trained):
    model = load_bundle(bundle_folder).manifest.provenance["model"]
    assert PolicyConfig.from_dict(model) == restore_policy(load_checkpoint(trained[1])).config


def test_committed_tokens_come_back(bundle_folder):
    bundle = load_bundle(bundle_folder)
    session = OnnxPolicy(bundle)
    prefix = np.full((1, 30), -1, dtype=np.int64)
    first = bundle.manifest.vocabulary.first_action_token
    prefix[0, :6] = first + np.array([0, 17, 255, 3, 128, 200])
    logits = session.infer({PREFIX_TOKENS: prefix})[ACTION_LOGITS]
    assert (first + logits[0, :6].argmax(-1)).tolist() == prefix[0, :6].tolist()


def test_a_graph_that_answers_otherwise_is_refused(trained, bundle_folder, tmp_path, monkeypatch):
    """Weights are changed between the comparison's two sides; nothing is written and an earlier bundle stays."""
    data, checkpoint = trained
    out = tmp_path / "tiny"
    write_graph = export.export_graph

    def faulty(policy, sample, path, plain_attention):
        with torch.no_grad():
            policy.norm_label.weight.mul_(1.01)
        write_graph(policy, sample, path, plain_attention)
        with torch.no_grad():
            policy.norm_label.weight.div_(1.01)

    monkeypatch.setattr(export, "export_graph", faulty)
    words = ["--checkpoint", str(checkpoint), "--data", str(data), "--out", str(out), "--frames", "2"]
    assert export.main(words) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_can_be_read_back(bundle_folder):
    values = yaml.safe_load((bundle_folder / "manifest.yaml").read_text())
    assert export.Manifest.from_dict(values).to_dict() == values


def test_batch_norm_is_folded_exactly(trained):
    policy = restore_policy(load_checkpoint(trained[1]))
    picture = {c.name: torch.randint(0, 256, (1, *c.shape), dtype=torch.uint8) for c in policy.config.cameras}
    with torch.inference_mode():
        torch.testing.assert_close(export.fold_batch_norm(policy).vision(picture), policy.vision(picture), rtol=1e-4, atol=1e-5)


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(ConfigError, match="none.pt"):
        export.main(["--checkpoint", str(tmp_path / "none.pt"), "--data", str(tmp_path), "--out", str(tmp_path / "b")])
