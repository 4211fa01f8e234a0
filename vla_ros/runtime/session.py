# SPDX-License-Identifier: Apache-2.0
"""One ONNX graph with buffers bound once, on a provider that was asked for and verified."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from vla_ros.core.errors import ConfigError, InferenceError
from vla_ros.runtime.bundle import Bundle
from vla_ros.runtime.contract import ACTION_LOGITS, FREE_TOKEN, PREFIX_TOKENS, TensorSpec, tensor_spec, verify_signature
from vla_ros.runtime.providers import FATAL_LOGS_ONLY, PROVIDERS, open_session

__all__ = ["PROVIDERS", "BoundGraph", "OnnxPolicy"]

# Root mean square of the difference of two providers' logits over the logits' own: half precision was measured to give up to 0.003.
MAX_RELATIVE_ERROR = 0.01


class BoundGraph:
    """An ONNX graph whose inputs and outputs have fixed addresses. One thread only: the output buffers are reused by the next call.

    Args:
        path: the ONNX file; every shape must be fixed.
        provider: a key of ``PROVIDERS``.
        threads: threads of one inference on the CPU.
        allow_cpu: run on the CPU if ``provider`` is not available; ``provider`` then says ``cpu``.

    Raises:
        ConfigError: an unknown provider, or one that is not available or took nothing of the graph.
        BundleError: the graph cannot be loaded.
    """

    def __init__(self, path: Path, provider: str = "cpu", threads: int = 1, allow_cpu: bool = False) -> None:
        opened = open_session(path, provider, threads, allow_cpu)
        self._session = opened.session
        self.provider, self.description, self.placement = opened.provider, opened.description, opened.placement
        inputs = {arg.name: tensor_spec(arg) for arg in self._session.get_inputs()}
        outputs = {arg.name: tensor_spec(arg) for arg in self._session.get_outputs()}
        make = HostBuffers if opened.device == "cpu" else DeviceBuffers
        self._buffers = make(self._session.io_binding(), inputs, outputs, opened.device)
        self.inputs = inputs
        if PREFIX_TOKENS in inputs:
            self._buffers.put(PREFIX_TOKENS, _free_prefix(inputs))
        self._run_options = ort.RunOptions()
        self._run_options.log_severity_level = FATAL_LOGS_ONLY

    @property
    def providers_in_use(self) -> tuple[str, ...]:
        """ONNX Runtime's names, the first one has the first choice of the operators."""
        return tuple(self._session.get_providers())

    def warm_up(self, runs: int = 3) -> float:
        """Runs on zeros until memory and kernels are there.

        Returns:
            Duration of the last run, s.

        Raises:
            InferenceError: the back end failed.
        """
        inputs = {name: spec.empty() for name, spec in self.inputs.items()}
        if PREFIX_TOKENS in inputs:
            inputs[PREFIX_TOKENS] = _free_prefix(self.inputs)
        return time_last(lambda: self.infer(inputs), runs)

    def infer(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs the graph once.

        Args:
            inputs: name to array of exactly the bound dtype and shape; an input that is left out keeps its last value.

        Returns:
            Name to output buffer, valid until the next call.

        Raises:
            InferenceError: an input does not fit, or the back end failed (out of memory included).
        """
        for name, value in inputs.items():
            spec = self.inputs.get(name)
            if spec is None or value.shape != spec.shape or value.dtype != spec.dtype:
                wanted = "no such input" if spec is None else str(spec)
                raise InferenceError(f"input '{name}': expected {wanted}, got {value.dtype} {list(value.shape)}")
            self._buffers.put(name, value)
        try:
            self._session.run_with_iobinding(self._buffers.binding, self._run_options)
            return self._buffers.results()
        except Exception as error:  # ONNX Runtime's exceptions have no common base but this one
            raise InferenceError(f"inference failed on {self.providers_in_use[0]}: {error}") from error


class BundleGraph(BoundGraph):
    """The policy graph of a bundle, whatever it answers. One thread only.

    Args:
        bundle: a verified bundle.
        provider: a key of ``PROVIDERS``.
        threads: threads of one inference on the CPU.
        allow_cpu: run on the CPU if ``provider`` is not available.

    Raises:
        ConfigError: an unknown provider, one that is not available, or one whose answers differ from the CPU's.
        BundleError: the graph cannot be loaded or does not fit the manifest.
    """

    def __init__(self, bundle: Bundle, provider: str = "cpu", threads: int = 1, allow_cpu: bool = False) -> None:
        super().__init__(bundle.policy_path, provider, threads, allow_cpu)
        self.bundle = bundle
        verify_signature(bundle.manifest, self._session.get_inputs(), self._session.get_outputs())
        if self.provider != "cpu":
            self._verify_against(BoundGraph(bundle.policy_path, "cpu", threads))

    def _verify_against(self, reference: BoundGraph) -> None:
        """Raises ConfigError unless both graphs answer alike."""
        raise NotImplementedError


class OnnxPolicy(BundleGraph):
    """The policy graph of a bundle that answers with action tokens."""

    def _verify_against(self, reference: BoundGraph) -> None:
        verify_answers(self, reference, self.bundle)


def time_last(call: Callable[[], Any], runs: int) -> float:
    """Seconds of the last one of ``runs`` calls."""
    seconds = 0.0
    for _ in range(runs):
        start = time.perf_counter()
        call()
        seconds = time.perf_counter() - start
    return seconds


class HostBuffers:
    """Inputs and outputs in this process's memory, bound once. ``put`` copies in, ``results`` copies nothing."""

    def __init__(self, binding: Any, inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec], device: str = "cpu") -> None:
        self.binding = binding
        self._inputs = {name: spec.empty() for name, spec in inputs.items()}
        self._outputs = {name: spec.empty() for name, spec in outputs.items()}
        for bind, buffers in ((binding.bind_input, self._inputs), (binding.bind_output, self._outputs)):
            for name, buffer in buffers.items():
                bind(name, device, 0, buffer.dtype.type, list(buffer.shape), buffer.ctypes.data)

    def put(self, name: str, value: np.ndarray) -> None:
        """Copies an input in."""
        np.copyto(self._inputs[name], value)

    def results(self) -> dict[str, np.ndarray]:
        """The output buffers."""
        return self._outputs


class DeviceBuffers:
    """Inputs and outputs in a device's memory, bound once: fixed addresses, as a recorded graph of kernels needs them.

    Never run on a GPU; the tests use the CPU as the device.
    """

    def __init__(self, binding: Any, inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec], device: str) -> None:
        self.binding = binding
        self._inputs = {name: ort.OrtValue.ortvalue_from_numpy(spec.empty(), device, 0) for name, spec in inputs.items()}
        self._outputs = {
            name: ort.OrtValue.ortvalue_from_shape_and_type(list(spec.shape), spec.dtype, device, 0) for name, spec in outputs.items()
        }
        for name, value in self._inputs.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in self._outputs.items():
            binding.bind_ortvalue_output(name, value)

    def put(self, name: str, value: np.ndarray) -> None:
        """Copies an input to the device."""
        self._inputs[name].update_inplace(np.ascontiguousarray(value))

    def results(self) -> dict[str, np.ndarray]:
        """Copies of the outputs, after the device has finished."""
        self.binding.synchronize_outputs()
        return {name: value.numpy() for name, value in self._outputs.items()}


def verify_answers(policy: Any, reference: Any, bundle: Bundle) -> None:
    """Compares a provider's logits with the CPU's on noise, with no step committed and with the first one, two and so on.

    A provider that computes an operator wrongly does so in silence: OpenVINO's provider 1.24.1 read 0 for every committed token, because it
    takes a Clip of integers without an upper bound for a Clip to 0.

    Raises:
        ConfigError: they differ by more than rounding.
    """
    rng = np.random.default_rng(0)
    dims = bundle.manifest.action.num_dims
    errors = []
    for committed in range(bundle.manifest.action.horizon):
        probe = probe_inputs(policy.inputs, bundle, rng, committed_steps=committed)
        logits, expected = (graph.infer(probe)[ACTION_LOGITS][0, committed * dims :] for graph in (policy, reference))
        errors.append(relative_error(logits, expected))
    if not all(error <= MAX_RELATIVE_ERROR for error in errors):  # NaN is no error that is small enough
        raise ConfigError(
            f"execution_provider '{policy.provider}' computes this bundle wrongly: its logits differ from the CPU's by {max(errors):.1%}, allowed is "
            f"{MAX_RELATIVE_ERROR:.0%}. Choose cpu, try another release of the provider, or export the bundle again with this release"
        )


def relative_error(logits_NB: np.ndarray, expected_NB: np.ndarray) -> float:
    """Root mean square of the difference over that of ``expected_NB`` around its mean in each row."""
    difference = float(np.sqrt(np.square(logits_NB - expected_NB, dtype=np.float64).mean()))
    spread = float(np.sqrt(np.square(expected_NB - expected_NB.mean(-1, keepdims=True), dtype=np.float64).mean()))
    return difference / max(spread, 1e-12)


def probe_inputs(inputs: Mapping[str, TensorSpec], bundle: Bundle, rng: np.random.Generator, committed_steps: int) -> dict[str, np.ndarray]:
    """Noise as pictures, ids of the text's vocabulary, states of size one; the first steps committed to any bin."""
    vocabulary, dims = bundle.manifest.vocabulary, bundle.manifest.action.num_dims
    probe = {}
    for name, spec in inputs.items():
        if spec.dtype is np.uint8:
            probe[name] = rng.integers(0, 256, spec.shape, dtype=np.uint8)
        elif spec.dtype is np.int64:
            probe[name] = rng.integers(0, max(vocabulary.first_action_token, 1), spec.shape, dtype=np.int64)
        else:
            probe[name] = rng.standard_normal(spec.shape).astype(spec.dtype)
    prefix = _free_prefix(inputs)
    bins = rng.integers(0, vocabulary.num_action_tokens, committed_steps * dims)
    prefix[0, : committed_steps * dims] = vocabulary.first_action_token + bins
    probe[PREFIX_TOKENS] = prefix
    return probe


def _free_prefix(inputs: Mapping[str, TensorSpec]) -> np.ndarray:
    return np.full(inputs[PREFIX_TOKENS].shape, FREE_TOKEN, dtype=inputs[PREFIX_TOKENS].dtype)
