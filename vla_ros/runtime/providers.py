# SPDX-License-Identifier: Apache-2.0
"""Execution providers of ONNX Runtime: which there are, their options, and sessions that run on the one that was asked for.

Never run on a GPU: the CUDA and TensorRT options below follow ONNX Runtime's documentation; the code around them is tested on the CPU.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import onnxruntime as ort

from vla_ros.core.errors import BundleError, ConfigError

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
_DEVICES = {"cuda": "cuda", "tensorrt": "cuda"}  # where inputs and outputs live; the CPU for the others
_GRAPH_REPLAY = {  # the kernels of one inference recorded once and launched as one; needs every node on the device and fixed addresses
    "CUDAExecutionProvider": {"enable_cuda_graph": "1"},
    "TensorrtExecutionProvider": {"trt_cuda_graph_enable": "1"},
}
FATAL_LOGS_ONLY = 4  # errors come as exceptions; ONNX Runtime would print them a second time


@dataclass(frozen=True, kw_only=True)
class OpenSession:
    """A session and where it runs.

    Attributes:
        session: ONNX Runtime's.
        provider: key of ``PROVIDERS`` in use.
        device: where the bound buffers must live, ``cpu`` or ``cuda``.
        replays_graph: the device replays one recorded graph of kernels.
        placement: ONNX Runtime's provider name to the nodes that it took; empty where this release cannot tell.
    """

    session: ort.InferenceSession
    provider: str
    device: str
    replays_graph: bool
    placement: Mapping[str, int]

    @property
    def description(self) -> str:
        """One line for people: ``cuda, CUDA graph, CUDAExecutionProvider 410 nodes, CPUExecutionProvider 3 nodes``."""
        parts = [self.provider, *(["CUDA graph"] if self.replays_graph else [])]
        return ", ".join([*parts, *(f"{name} {count} nodes" for name, count in self.placement.items())])


def open_session(path: Path, provider: str = "cpu", threads: int = 1, allow_cpu: bool = False) -> OpenSession:
    """Opens a graph on a provider and verifies that it is in use.

    Args:
        path: the ONNX file.
        provider: a key of ``PROVIDERS``.
        threads: threads of one inference on the CPU.
        allow_cpu: take the CPU where ``provider`` is not available.

    Raises:
        ConfigError: an unknown provider, or one that is not available or took nothing of the graph.
        BundleError: the graph cannot be loaded.
    """
    if threads < 1:
        raise ConfigError(f"threads must be at least 1, got {threads}")
    chosen = choose_provider(provider, allow_cpu)
    try:
        return _open_verified(path, chosen, threads)
    except ConfigError as error:
        if not allow_cpu or chosen == "cpu" or isinstance(error, BundleError):
            raise
        return _open_verified(path, "cpu", threads)


def choose_provider(provider: str, allow_cpu: bool) -> str:
    """The provider to use.

    Raises:
        ConfigError: unknown, or not in this installation; with what to install.
    """
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


def session_options(threads: int) -> ort.SessionOptions:
    """A thread pool of its own whose threads sleep while they have nothing to do.

    A global pool pays for several sessions in one process, and a bundle has one graph; Python has no way to stop the global
    pool's spinning, which keeps a core from the control loop. ``vla bench inference`` measures both.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = FATAL_LOGS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return options


def provider_options(name: str, threads: int, replay: bool, cache: Path) -> dict[str, str]:
    """Options of one of ONNX Runtime's providers.

    Args:
        name: ONNX Runtime's name of it.
        threads: of one inference, for those that compute on the CPU.
        replay: record the kernels once and launch them as one.
        cache: folder for engines that take minutes to build.
    """
    fixed = {
        "CUDAExecutionProvider": {"cudnn_conv_algo_search": "EXHAUSTIVE", "arena_extend_strategy": "kSameAsRequested", "use_tf32": "1"},
        "TensorrtExecutionProvider": {
            "trt_fp16_enable": "1",
            "trt_engine_cache_enable": "1",
            "trt_timing_cache_enable": "1",
            "trt_engine_cache_path": str(cache),
        },
        "OpenVINOExecutionProvider": {"device_type": "CPU", "num_of_threads": str(threads)},
    }
    return {**fixed.get(name, {}), **(_GRAPH_REPLAY.get(name, {}) if replay else {})}


def _open_verified(path: Path, provider: str, threads: int) -> OpenSession:
    """With replay of a recorded graph where the provider has it and the graph allows it."""
    if PROVIDERS[provider][0] in _GRAPH_REPLAY:
        try:
            return _open(path, provider, threads, replay=True)
        except BundleError:  # some node stays on the CPU: then nothing can be recorded
            pass
    return _open(path, provider, threads, replay=False)


def _open(path: Path, provider: str, threads: int, replay: bool) -> OpenSession:
    available = ort.get_available_providers()
    wanted = [name for name in PROVIDERS[provider] if name in available]
    cache = Path.home() / ".cache" / "vla_ros" / "tensorrt"
    chain = [(name, provider_options(name, threads, replay and name == wanted[0], cache)) for name in wanted]
    try:
        session = ort.InferenceSession(str(path), session_options(threads), providers=chain)
    except Exception as error:  # ONNX Runtime's exceptions have no common base but this one
        remedy = "" if wanted[0].startswith("CPU") else "; where it lacks an operator (OpenVINO: Attention), try: vla renew BUNDLE --plain-attention --out DIR"
        raise BundleError(f"{path} cannot be loaded on {wanted[0]}: {error}{remedy}") from error
    session.disable_fallback()
    placement = placement_of(session)
    verify_placement(provider, wanted[0], session.get_providers(), placement)
    return OpenSession(session=session, provider=provider, device=_DEVICES.get(provider, "cpu"), replays_graph=replay, placement=placement)


def placement_of(session: Any) -> dict[str, int]:
    """Provider to the number of nodes that it took; empty where this release of ONNX Runtime cannot tell."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return {}
    counts: Counter[str] = Counter()
    for part in session.get_provider_graph_assignment_info():
        counts[part.ep_name] += len(part.get_nodes())
    return dict(counts.most_common())


def verify_placement(provider: str, wanted: str, in_use: list[str], placement: Mapping[str, int]) -> None:
    """Raises ConfigError unless ``wanted`` has the first choice and took some of the graph."""
    remedy = "check the driver and the provider's libraries (vla doctor), or choose cpu"
    if in_use[0] != wanted:
        raise ConfigError(f"execution_provider '{provider}' was asked for and ONNX Runtime uses {in_use} instead: {remedy}")
    if placement and not placement.get(wanted):
        raise ConfigError(f"execution_provider '{provider}' is loaded and took no node of the graph, which runs on {dict(placement)}: {remedy}")
