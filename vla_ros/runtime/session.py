# SPDX-License-Identifier: Apache-2.0
"""One ONNX Runtime session with buffers bound once, on a provider that was asked for and verified."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import onnxruntime as ort

from vla_ros.core.errors import BundleError, ConfigError, InferenceError
from vla_ros.runtime.bundle import Bundle
from vla_ros.runtime.contract import FREE_TOKEN, PREFIX_TOKENS, expected_inputs, expected_outputs, verify_signature

# The first of each is the one that must be in use; the others take what it cannot compute.
PROVIDERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "cpu": ("CPUExecutionProvider",),
        "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
        "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
        "openvino": ("OpenVINOExecutionProvider", "CPUExecutionProvider"),
    }
)
_WHEELS = {
    "cpu": "onnxruntime",
    "cuda": "onnxruntime-gpu[cuda,cudnn]",
    "tensorrt": "onnxruntime-gpu[cuda,cudnn] and tensorrt",
    "openvino": "onnxruntime-openvino",
}
_FATAL_LOGS_ONLY = 4  # errors come as exceptions; ONNX Runtime would print them a second time


class OnnxPolicy:
    """The policy graph. One thread only: the output buffers are reused by the next call.

    The session has a pool of its own and its threads do not spin: measured on two cores with ONNX Runtime 1.32, a 100 Hz
    caller costs 2.5 ms of CPU a call instead of 10 (there is no way to stop the global pool's spinning from Python). A
    global pool pays for several sessions in one process, and a bundle has one graph.

    Args:
        bundle: a verified bundle.
        provider: a key of ``PROVIDERS``.
        threads: threads of one inference on the CPU.
        allow_cpu: run on the CPU if ``provider`` is not available; ``provider`` then says ``cpu``.

    Raises:
        ConfigError: an unknown provider, or one that is not available.
        BundleError: the graph cannot be loaded or does not fit the manifest.
    """

    def __init__(self, bundle: Bundle, provider: str = "cpu", threads: int = 1, allow_cpu: bool = False) -> None:
        if threads < 1:
            raise ConfigError(f"threads must be at least 1, got {threads}")
        self.bundle = bundle
        self.provider = _choose_provider(provider, allow_cpu)
        try:
            self._session = _open_session(bundle, self.provider, threads)
        except ConfigError:
            if not allow_cpu or self.provider == "cpu":
                raise
            self.provider = "cpu"
            self._session = _open_session(bundle, self.provider, threads)
        verify_signature(bundle.manifest, self._session.get_inputs(), self._session.get_outputs())
        self._inputs = {name: spec.empty() for name, spec in expected_inputs(bundle.manifest).items()}
        self._inputs[PREFIX_TOKENS].fill(FREE_TOKEN)
        self._outputs = {name: spec.empty() for name, spec in expected_outputs(bundle.manifest).items()}
        self._binding = self._bind()
        self._run_options = ort.RunOptions()
        self._run_options.log_severity_level = _FATAL_LOGS_ONLY

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
        inputs = {name: np.zeros_like(buffer) for name, buffer in self._inputs.items()}
        inputs[PREFIX_TOKENS].fill(FREE_TOKEN)
        seconds = 0.0
        for _ in range(runs):
            start = time.perf_counter()
            self.infer(inputs)
            seconds = time.perf_counter() - start
        return seconds

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
            buffer = self._inputs.get(name)
            if buffer is None or value.shape != buffer.shape or value.dtype != buffer.dtype:
                wanted = "no such input" if buffer is None else f"{buffer.dtype} {list(buffer.shape)}"
                raise InferenceError(f"input '{name}': expected {wanted}, got {value.dtype} {list(value.shape)}")
            np.copyto(buffer, value)
        try:
            self._session.run_with_iobinding(self._binding, self._run_options)
        except Exception as error:  # ONNX Runtime's exceptions have no common base but this one
            raise InferenceError(f"inference failed on {self.providers_in_use[0]}: {error}") from error
        return self._outputs

    def _bind(self) -> Any:
        binding = self._session.io_binding()
        for bind, buffers in ((binding.bind_input, self._inputs), (binding.bind_output, self._outputs)):
            for name, buffer in buffers.items():
                bind(name, "cpu", 0, buffer.dtype.type, list(buffer.shape), buffer.ctypes.data)
        return binding


def _choose_provider(provider: str, allow_cpu: bool) -> str:
    if provider not in PROVIDERS:
        raise ConfigError(f"execution_provider must be one of {list(PROVIDERS)}, got {provider!r}")
    available = ort.get_available_providers()
    if PROVIDERS[provider][0] in available:
        return provider
    if allow_cpu:
        return "cpu"
    names = [name for name, chain in PROVIDERS.items() if chain[0] in available]
    raise ConfigError(
        f"execution_provider '{provider}' is not in this installation of ONNX Runtime, which has {names}: "
        f"install {_WHEELS[provider]} instead of onnxruntime, choose another one, or allow the CPU"
    )


def _open_session(bundle: Bundle, provider: str, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL_LOGS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    wanted = [name for name in PROVIDERS[provider] if name in ort.get_available_providers()]
    try:
        session = ort.InferenceSession(str(bundle.policy_path), options, providers=wanted)
    except Exception as error:  # ONNX Runtime's exceptions have no common base but this one
        raise BundleError(f"{bundle.policy_path} cannot be loaded on {wanted[0]}: {error}") from error
    session.disable_fallback()
    if session.get_providers()[0] != wanted[0]:
        raise ConfigError(
            f"execution_provider '{provider}' was asked for and ONNX Runtime uses {session.get_providers()} instead: "
            "check the driver and the provider's libraries (vla doctor), or choose cpu"
        )
    return session
