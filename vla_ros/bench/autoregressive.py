# SPDX-License-Identifier: Apache-2.0
"""A chunk said token after token: the runtime's graph and its int8 form beside PyTorch eager, which keeps the same key/value cache."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vla_ros.bench.rounds import Variant
from vla_ros.bench.samples import graph_inputs, load_policy, random_observation
from vla_ros.core.errors import ConfigError

EAGER, GRAPH, QUANTISED = "autoregressive, PyTorch eager", "autoregressive, runtime, graph", "autoregressive, runtime, int8 graph"


def autoregressive_variants(
    model: str, provider: str, threads: int, folder: Path, quantise: Callable[[Path, Path], Any], notes: list[str]
) -> list[Variant]:
    """What takes turns for an autoregressive bundle of this project's own policy.

    Args:
        model: the bundle.
        provider: execution provider.
        threads: threads of one inference on the CPU.
        folder: for the quantised graph.
        quantise: writes the int8 form of the first graph to the second path, and opens it.
        notes: takes what could not be compared.

    Raises:
        ConfigError: the bundle decodes in parallel, or with graphs of its own for reading and going on.
    """
    policy = load_policy(model, provider, threads)
    manifest = policy.bundle.manifest
    if manifest.decoding != "autoregressive" or manifest.is_cached:
        raise ConfigError(f"--autoregressive {model}: expected a bundle of `vla train --set model.decoding=autoregressive` and `vla export`")
    inputs = graph_inputs(policy, random_observation(policy))
    variants: list[Variant] = [(GRAPH, lambda: policy.backend.infer(inputs))]
    if importlib.util.find_spec("torch") is not None:
        from vla_ros.bench import torch_policy

        variants.append((EAGER, torch_policy.call(torch_policy.from_bundle(policy.bundle), inputs, threads)))
    try:
        quantised = quantise(policy.bundle.policy_path, folder / "autoregressive_int8.onnx")
        variants.append((QUANTISED, lambda: quantised.infer(inputs)))
    except (ConfigError, ModuleNotFoundError) as error:
        notes.append(f"{QUANTISED}: {error}")
    return variants
