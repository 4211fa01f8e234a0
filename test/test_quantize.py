# SPDX-License-Identifier: Apache-2.0
"""Quantised graphs answer almost as before, layers that must stay stay, and a bundle that fails parity is not written."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from vla_ros import quantize, quantized_graph  # noqa: E402
from vla_ros.bench.scale import BASE, sample_inputs  # noqa: E402
from vla_ros.core.errors import ConfigError  # noqa: E402
from vla_ros.export import export_graph  # noqa: E402
from vla_ros.model.fused import OPSET  # noqa: E402
from vla_ros.model.policy import Policy  # noqa: E402
from vla_ros.onnx_cost import graph_cost  # noqa: E402
from vla_ros.quantized_graph import METHODS, write_graph  # noqa: E402
from vla_ros.runtime.bundle import file_sha256, load_bundle  # noqa: E402
from vla_ros.runtime.contract import ACTION_LOGITS, PLAN_TOKENS, PREFIX_TOKENS  # noqa: E402
from vla_ros.runtime.session import BoundGraph  # noqa: E402

SMALL = replace(BASE, width=32, depth=3, vision_depth=2, heads=4, stem_channels=(4, 8), text_tokens=96, plan_phases=7)


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """A small network of random weights, exported as any other."""
    path = tmp_path_factory.mktemp("graphs") / "policy.onnx"
    torch.manual_seed(0)
    export_graph(Policy(SMALL).eval(), sample_inputs(SMALL), path)
    return path


@pytest.mark.parametrize("name", list(METHODS))
def test_every_method_answers_almost_as_before(name, exported, tmp_path):
    out, inputs = tmp_path / "quantised.onnx", sample_inputs(SMALL)
    kept = write_graph(exported, out, METHODS[name], [inputs])
    before, after = BoundGraph(exported), BoundGraph(out)
    assert after.inputs == before.inputs  # the contract is the same
    expected, found = before.infer(inputs)[ACTION_LOGITS][0], after.infer(inputs)[ACTION_LOGITS][0]
    error = np.sqrt(np.square(found - expected).mean() / np.square(expected - expected.mean(-1, keepdims=True)).mean())
    # A value of 7 or 8 bits is off by up to 1/254 of the largest; over a dozen layers some hundredths of the spread. 0.3 would be a fault.
    assert error < (0.01 if name == "fp16" else 0.3)
    assert out.stat().st_size < exported.stat().st_size
    model = onnx.load(out)
    if name != "fp16":
        assert 0.2 < graph_cost(model).integer_operations / graph_cost(model).operations <= 1.0  # attention stays
        assert set(kept) <= {node.name.removesuffix("_MatMul") for node in model.graph.node if node.op_type in ("MatMul", "Gemm", "Conv")}
    assert {entry.version for entry in model.opset_import if entry.domain == ""} == {OPSET}


def test_convolutions_follow_only_where_asked(exported, tmp_path):
    inputs = [sample_inputs(SMALL)]
    for name, expected in (("int8", False), ("int8-convolutions", True)):
        write_graph(exported, tmp_path / "q.onnx", METHODS[name], inputs)
        kinds = {node.op_type for node in onnx.load(tmp_path / "q.onnx").graph.node}
        assert ("DequantizeLinear" in kinds) == expected
    with pytest.raises(ConfigError, match="observations"):
        write_graph(exported, tmp_path / "q.onnx", METHODS["int8-convolutions"], [])


def test_named_layers_stay_as_they_are(exported, tmp_path):
    model = onnx.load(exported)
    quantized_graph.fold_transposes(model)
    stored = {tensor.name for tensor in model.graph.initializer}
    name = next(n.name for n in model.graph.node if n.op_type == "MatMul" and n.input[1] in stored and n.name not in quantized_graph.small_layers(model))
    write_graph(exported, tmp_path / "q.onnx", METHODS["int8"], [], keep=[name])
    assert [node.op_type for node in onnx.load(tmp_path / "q.onnx").graph.node if node.name == name] == ["MatMul"]
    with pytest.raises(ConfigError, match="no_such_node"):
        write_graph(exported, tmp_path / "q.onnx", METHODS["int8"], [], keep=["no_such_node"])


def make_products(*columns: int):
    """A graph of products with stored weights [8, columns], the second one stored transposed."""
    values = np.random.default_rng(0).standard_normal
    weights = {f"w{i}": values((8, n)).astype(np.float32) for i, n in enumerate(columns)}
    weights["w1"] = np.ascontiguousarray(weights["w1"].T)
    nodes = [helper.make_node("Transpose", ["w1"], ["t1"], perm=[1, 0])]
    nodes += [helper.make_node("MatMul", ["x", "t1" if i == 1 else f"w{i}"], [f"y{i}"], name=f"product{i}") for i in range(len(columns))]
    outputs = [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, [4, n]) for i, n in enumerate(columns)]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 8])
    graph = helper.make_graph(nodes, "products", [x], outputs, [numpy_helper.from_array(v, k) for k, v in weights.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_transposed_weights_are_stored_as_they_are_used():
    model = make_products(6, 5)
    before = numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == "w1"))
    quantized_graph.fold_transposes(model)
    assert [node.op_type for node in model.graph.node] == ["MatMul", "MatMul"]
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert set(stored) == {"w0", "t1"}
    np.testing.assert_array_equal(stored["t1"], before.T)


def test_small_layers_are_those_below_the_share():
    model = make_products(1000, 1000, 2)
    quantized_graph.fold_transposes(model)
    assert quantized_graph.small_layers(model, share=0.002) == ["product2"]  # 2 of 2002 columns: 0.1 %
    assert quantized_graph.small_layers(model, share=0.0005) == []


# ---- parity ----


def answers(bins, plan=(1, 2, 3)):
    logits = np.zeros((1, len(bins), 256), np.float32)
    logits[0, np.arange(len(bins)), bins] = 1.0
    return {ACTION_LOGITS: logits, PLAN_TOKENS: np.array([plan])}


def test_parity_counts_free_tokens_only():
    inputs = [{PREFIX_TOKENS: np.array([[-1, -1, -1, 500]])}] * 2
    expected = [answers([10, 20, 30, 40]), answers([1, 2, 3, 4])]
    found = [answers([10, 24, 30, 99]), answers([1, 2, 3, 4], plan=(0, 2, 3))]
    row = quantize.compare(found, expected, inputs)
    assert row["equal_tokens"] == pytest.approx(5 / 6, abs=1e-4)
    assert row["mean_bin_difference"] == pytest.approx(4 / 6, abs=1e-4)
    assert row["max_bin_difference"] == 4.0 and row["equal_plans"] == 0.5


def evaluation(successes, total=10, low=0.5):
    outcomes = [{"success": i < successes} for i in range(total)]
    return {"success_rate": successes / total, "ci95": [low, 1.0], "episodes": total, "bundle_sha256": "0", "outcomes": outcomes}


@pytest.mark.parametrize("successes, passed", [(10, True), (8, True), (5, True), (4, False)])
def test_closed_loop_parity_is_the_lower_bound_of_the_first_one(successes, passed):
    verdict = quantize.closed_loop_parity(evaluation(8), evaluation(successes))
    assert verdict["passed"] is passed
    assert verdict["only_source_succeeds"] == max(8 - successes, 0)
    assert verdict["only_quantised_succeeds"] == max(successes - 8, 0)


# ---- the command ----


@pytest.fixture
def bundle(exported, still_bundle, tmp_path, monkeypatch):
    """A bundle of the exported graph, with recorded noise in the place of the simulator's observations."""
    folder = tmp_path / "source"
    shutil.copytree(still_bundle, folder)
    shutil.copyfile(exported, folder / "policy.onnx")
    manifest = yaml.safe_load((folder / "manifest.yaml").read_text())
    manifest["sha256"]["policy.onnx"], manifest["opset"] = file_sha256(folder / "policy.onnx"), OPSET
    manifest["context"]["text_tokens"] = SMALL.text_tokens
    manifest["vocabulary"] |= {"size": SMALL.vocab_size, "first_action_token": SMALL.first_action_token, "pad_token": 0}
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    monkeypatch.setattr(quantize, "record_inputs", lambda bundle, seed, count: [sample_inputs(SMALL)] * 2)
    monkeypatch.setattr(quantize, "TIMING_ROUNDS", 2)
    return folder


def run(bundle, out, *words):
    return quantize.main([str(bundle), "--out", str(out), "--json", str(out.parent / "report.json"), *words])


def test_a_new_bundle_says_where_it_came_from(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(quantize, "MAX_MEAN_BIN_DIFFERENCE", 256.0)  # random weights have no best token worth the name
    out = tmp_path / "small"
    assert run(bundle, out, "--episodes", "0", "--method", "int8") == 0
    made, source = load_bundle(out), load_bundle(bundle)
    assert made.manifest.name == "small" and made.sha256 != source.sha256
    facts = made.manifest.provenance["quantisation"]
    assert facts["method"] == "int8" and facts["source_sha256"] == source.sha256 and facts["kept"]
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["sha256"] == made.sha256 and report["closed_loop"] is None
    assert {"equal_tokens", "mean_bin_difference", "inference_ms", "ratio", "size_mb"} <= set(report["observations"])


def test_tokens_too_far_apart_are_refused_with_what_to_do(bundle, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(quantize, "MAX_MEAN_BIN_DIFFERENCE", -1.0)
    assert run(bundle, tmp_path / "small", "--episodes", "0", "--method", "int8") == 1
    assert not (tmp_path / "small").exists() and not list(tmp_path.glob(".small*"))
    assert "To go on" in capsys.readouterr().err
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["bundle"] is None and report["candidates"][0]["method"] == "int8"


def test_a_lower_success_rate_is_refused_and_the_next_method_tried(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(quantize, "MAX_MEAN_BIN_DIFFERENCE", 256.0)
    played = []

    def closed_loop(source, staged, options):
        played.append(load_bundle(staged).manifest.provenance["quantisation"]["method"])
        return quantize.closed_loop_parity(evaluation(8), evaluation(8 if len(played) == 2 else 2))

    monkeypatch.setattr(quantize, "closed_loop", closed_loop)
    assert run(bundle, tmp_path / "small") == 0
    assert len(set(played)) == 2
    assert load_bundle(tmp_path / "small").manifest.provenance["quantisation"]["method"] == played[1]
    assert json.loads((tmp_path / "small" / "evaluation.json").read_text())["success_rate"] == 0.8


def test_the_bundle_itself_is_not_overwritten(bundle):
    with pytest.raises(ConfigError, match="another folder"):
        quantize.main([str(bundle), "--out", str(bundle)])


@pytest.mark.parametrize("words", [["--episodes", "-1"], ["--observations", "0"], ["--method", "magic"], ["--precision", "int4"]])
def test_wrong_use_ends_with_2(words, bundle, tmp_path):
    with pytest.raises(SystemExit) as stop:
        quantize.main([str(bundle), "--out", str(tmp_path / "x"), *words])
    assert stop.value.code == 2


def test_observations_are_recorded_from_played_episodes(still_bundle, monkeypatch):
    pytest.importorskip("mujoco")
    monkeypatch.setattr(quantize, "RECORD_LIMIT_S", 1.0)
    inputs = quantize.record_inputs(load_bundle(still_bundle), quantize.HELD_SEED, 6)
    assert len(inputs) == 6 and inputs[0]["image_front"].dtype == np.uint8
    assert not np.array_equal(inputs[0]["image_front"], inputs[-1]["image_front"])
