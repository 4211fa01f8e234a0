# SPDX-License-Identifier: Apache-2.0
"""A provider is what was asked for, took some of the graph, and computes what the CPU computes; or it is refused with what to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from vla_ros.core.errors import ConfigError
from vla_ros.runtime import providers
from vla_ros.runtime.bundle import load_bundle
from vla_ros.runtime.contract import ACTION_LOGITS, PREFIX_TOKENS, expected_inputs, expected_outputs
from vla_ros.runtime.session import BoundGraph, DeviceBuffers, HostBuffers, OnnxPolicy, probe_inputs, relative_error, verify_answers


@pytest.fixture
def bundle(bundle_writer):
    return load_bundle(bundle_writer())


def test_the_description_names_provider_and_nodes(bundle):
    session = OnnxPolicy(bundle)
    assert session.description.startswith("cpu")
    if session.placement:
        assert set(session.placement) == {"CPUExecutionProvider"} and session.placement["CPUExecutionProvider"] > 0
        assert str(session.placement["CPUExecutionProvider"]) in session.description


def test_a_provider_that_did_not_load_or_took_nothing_is_refused():
    with pytest.raises(ConfigError, match="CUDAExecutionProvider|driver"):
        providers.verify_placement("cuda", "CUDAExecutionProvider", ["CPUExecutionProvider"], {})
    with pytest.raises(ConfigError, match="took no node"):
        both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
        providers.verify_placement("cuda", "CUDAExecutionProvider", both, {"CPUExecutionProvider": 7})
    providers.verify_placement("cuda", "CUDAExecutionProvider", ["CUDAExecutionProvider"], {})  # a release that cannot tell


def test_only_a_graph_that_is_replayed_asks_for_it():
    cache = Path("/cache")
    assert providers.provider_options("CUDAExecutionProvider", 1, True, cache)["enable_cuda_graph"] == "1"
    assert "enable_cuda_graph" not in providers.provider_options("CUDAExecutionProvider", 1, False, cache)
    assert providers.provider_options("TensorrtExecutionProvider", 1, True, cache)["trt_engine_cache_path"] == "/cache"
    assert providers.provider_options("OpenVINOExecutionProvider", 3, False, cache)["num_of_threads"] == "3"
    assert providers.provider_options("CPUExecutionProvider", 3, True, cache) == {}


def test_threads_sleep_while_they_have_nothing_to_do():
    options = providers.session_options(2)
    assert options.intra_op_num_threads == 2
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    with pytest.raises(ConfigError, match="threads"):
        providers.open_session(Path("none.onnx"), threads=0)


def test_buffers_on_a_device_answer_as_those_in_memory_do(bundle):
    """The device is the CPU here; what is tested is that every input goes in and every output comes out, call after call."""
    inputs, outputs = expected_inputs(bundle.manifest), expected_outputs(bundle.manifest)
    results = []
    for make in (HostBuffers, DeviceBuffers):
        session = ort.InferenceSession(str(bundle.policy_path), providers=["CPUExecutionProvider"])
        buffers = make(session.io_binding(), inputs, outputs, "cpu")
        answers = []
        for value in (0, 255):
            probe = probe_inputs(inputs, bundle, np.random.default_rng(2), committed_steps=0)
            probe["image_front"] = np.full((1, 128, 128, 3), value, np.uint8)
            for name, array in probe.items():
                buffers.put(name, array)
            session.run_with_iobinding(buffers.binding)
            answers.append({name: array.copy() for name, array in buffers.results().items()})
        assert not np.array_equal(answers[0][ACTION_LOGITS], answers[1][ACTION_LOGITS])
        results.append(answers)
    for host, device in zip(*results, strict=True):
        for name in outputs:
            np.testing.assert_array_equal(host[name], device[name])


def test_probes_commit_as_many_steps_as_asked(bundle):
    inputs = expected_inputs(bundle.manifest)
    dims, first = bundle.manifest.action.num_dims, bundle.manifest.vocabulary.first_action_token
    prefix = probe_inputs(inputs, bundle, np.random.default_rng(0), committed_steps=2)[PREFIX_TOKENS][0]
    committed = prefix[: 2 * dims] - first
    assert ((committed >= 0) & (committed < 256)).all() and len(set(committed)) > 1 and (prefix[2 * dims :] == -1).all()


class _Altered:
    """A graph whose logits are off by a part of their spread."""

    provider = "abacus"

    def __init__(self, graph, part, only_committed=False):
        self._graph, self._part, self._only_committed, self.inputs = graph, part, only_committed, graph.inputs

    def infer(self, inputs):
        logits = self._graph.infer(inputs)[ACTION_LOGITS].copy()
        if not self._only_committed or (inputs[PREFIX_TOKENS] >= 0).any():
            spread = np.sqrt(np.square(logits - logits.mean(-1, keepdims=True)).mean())
            logits += self._part * spread * np.random.default_rng(3).standard_normal(logits.shape)
        return {ACTION_LOGITS: logits}


@pytest.mark.parametrize("only_committed", [False, True])
def test_a_provider_that_computes_wrongly_is_refused(bundle, only_committed):
    graph, reference = BoundGraph(bundle.policy_path), BoundGraph(bundle.policy_path)
    for part in (0.0, 0.003):  # half precision
        verify_answers(_Altered(graph, part, only_committed), reference, bundle)
    for part in (0.03, np.nan):
        with pytest.raises(ConfigError, match=r"(?s)abacus.*Choose cpu"):
            verify_answers(_Altered(graph, part, only_committed), reference, bundle)


def test_the_relative_error_is_the_part_of_the_spread():
    expected = np.array([[0.0, 2.0], [5.0, 7.0]])  # one away from each row's mean
    assert relative_error(expected + 0.25, expected) == pytest.approx(0.25)
    assert relative_error(np.ones((2, 2)), np.ones((2, 2))) == 0.0
