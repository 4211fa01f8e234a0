# SPDX-License-Identifier: Apache-2.0
"""What the runtime is compared with: the same weights in PyTorch, the floor, and limits of both."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import yaml

pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")

from vla_ros.bench import autoregressive, command, inference, torch_policy  # noqa: E402
from vla_ros.bench.scale import BASE, sample_inputs  # noqa: E402
from vla_ros.core.errors import ConfigError  # noqa: E402
from vla_ros.export import ExportedPolicy, export_graph  # noqa: E402
from vla_ros.model.fused import OPSET  # noqa: E402
from vla_ros.model.policy import Policy  # noqa: E402
from vla_ros.runtime.bundle import file_sha256, load_bundle  # noqa: E402
from vla_ros.runtime.contract import ACTION_LOGITS  # noqa: E402
from vla_ros.runtime.session import BoundGraph  # noqa: E402

SMALL = replace(BASE, width=32, depth=3, vision_depth=2, heads=4, stem_channels=(4, 8), text_tokens=96, plan_phases=7)
KEYS = {"name", "metric", "unit", "p50", "p99", "p999", "max", "n"}


@pytest.fixture(scope="module")
def bundle(still_bundle, tmp_path_factory):
    """A bundle of a small network of random weights that says how it is built."""
    return write_bundle(still_bundle, SMALL, tmp_path_factory.mktemp("bench") / "small")


@pytest.fixture(scope="module")
def autoregressive_bundle(still_bundle, tmp_path_factory):
    """The same that decodes one step after the other."""
    return write_bundle(still_bundle, replace(SMALL, decoding="autoregressive"), tmp_path_factory.mktemp("bench") / "autoregressive")


def write_bundle(still_bundle, config, folder):
    shutil.copytree(still_bundle, folder)
    torch.manual_seed(0)
    export_graph(Policy(config).eval(), sample_inputs(config), folder / "policy.onnx")
    manifest = yaml.safe_load((folder / "manifest.yaml").read_text())
    manifest |= {"decoding": config.decoding, "opset": OPSET}
    manifest["sha256"]["policy.onnx"] = file_sha256(folder / "policy.onnx")
    manifest["context"]["text_tokens"] = config.text_tokens
    manifest["vocabulary"] |= {"size": config.vocab_size, "first_action_token": config.first_action_token, "pad_token": 0}
    manifest["provenance"]["model"] = json.loads(json.dumps(config.to_dict()))
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    return folder


def test_another_networks_weights_are_refused(bundle):
    inputs = sample_inputs(SMALL)
    loaded = load_bundle(bundle)
    logits = BoundGraph(loaded.policy_path).infer(inputs)[ACTION_LOGITS]
    torch.manual_seed(0)
    module = ExportedPolicy(Policy(SMALL)).eval()  # the fixture's weights
    torch_policy.check(module, inputs, logits)
    assert torch_policy.from_bundle(loaded).policy.config == SMALL
    with torch.no_grad():
        module.policy.blocks[0].query.weight.mul_(1.5)
    with pytest.raises(ConfigError, match="--checkpoint"):
        torch_policy.check(module, inputs, logits)


def test_a_bundle_that_does_not_say_how_it_is_built_asks_for_its_checkpoint(still_bundle):
    with pytest.raises(ConfigError, match="--checkpoint"):
        torch_policy.from_bundle(load_bundle(still_bundle))


def test_limits_are_of_the_floor_and_of_eager():
    wall = {inference.GRAPH: [0.3, 0.3], inference.QUANTISED: [0.1, 0.1], inference.EAGER: [0.4, 0.4]}
    rows = inference.compared(wall, {"floor": [0.1, 0.1], "floor, int8": [0.1, 0.1]})
    found = {(row["name"], row["metric"]): (row["p50"], command.over_limit(row)) for row in rows}
    assert found == {
        (inference.GRAPH, "times_the_floor"): (pytest.approx(3.0), True),
        (inference.GRAPH, "share_of_pytorch_eager"): (pytest.approx(75.0), False),
        (inference.QUANTISED, "times_the_floor"): (pytest.approx(1.0), False),
        (inference.QUANTISED, "share_of_pytorch_eager"): (pytest.approx(25.0), False),
    }


def test_without_pytorch_or_int8_only_the_floor_is_compared():
    rows = inference.compared({inference.GRAPH: [0.2]}, {"floor": [0.1]})
    assert [(row["metric"], row["p50"]) for row in rows] == [("times_the_floor", 2.0)]


def test_a_bundle_that_decodes_in_parallel_is_no_autoregressive_one(bundle):
    with pytest.raises(ConfigError, match="model.decoding=autoregressive"):
        autoregressive.autoregressive_variants(str(bundle), "cpu", 1, bundle, lambda path, out: None, [])


def test_the_command_compares_everything_in_one_run(bundle, autoregressive_bundle, tmp_path):
    pytest.importorskip("pinocchio")
    path = tmp_path / "bench.json"
    words = ["--model", str(bundle), "--rounds", "2", "--no-compile", "--global-pool", "--autoregressive", str(autoregressive_bundle), "--json", str(path)]
    assert command.main(["inference", *words]) == 0
    report = json.loads(path.read_text())
    assert all(set(row) >= KEYS for row in report["results"])
    latency = {row["name"] for row in report["results"] if row["metric"] == inference.METRIC}
    ours = {inference.GRAPH, inference.WHOLE, inference.QUANTISED, "floor", "floor, int8"}
    ours |= {autoregressive.GRAPH, autoregressive.EAGER, autoregressive.QUANTISED}
    assert latency == ours | {inference.PLAIN, "onnxruntime, 1 threads", inference.POOL, inference.EAGER}
    metrics = {row["metric"] for row in report["results"]}
    assert metrics == {inference.METRIC, "first_call_latency", "inference_cpu_time", "times_the_floor", "share_of_pytorch_eager", "peak_memory"}
    assert report["inference_floor"]["graph_gflop"] > 0 and report["inference_provider_in_use"].startswith("cpu")
    assert np.isfinite([row["p50"] for row in report["results"]]).all()


def test_the_memory_is_the_runtime_s_and_not_what_started_it():
    """Linux hands the peak of the process that became this program on to `getrusage`."""
    from vla_ros.bench import memory
    from vla_ros.core.paths import bundle_dir

    much = np.ones(60_000_000)  # 480 MB
    assert 30.0 < memory.measure(str(bundle_dir("tabletop")), "cpu", 1) < much.nbytes / 1e6
