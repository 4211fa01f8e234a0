# SPDX-License-Identifier: Apache-2.0
"""The last look at an import: each graph, run by ONNX Runtime from the files, against the same network in PyTorch, on one made-up example.

PyTorch computes in single precision with the checkpoint's weights as the file has them (rounded to its precision), so that what is left is
the graph's own rounding. Both load all weights: that is where an import needs memory, one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import nn

from vla_ros.core.errors import ConfigError, VlaError
from vla_ros.importers.graphs import Source, in_type

#: Largest difference, as a share of the largest number of the output. Half precision rounds to 2^-11; a layer adds about one such rounding.
TOLERANCE = {torch.float32: 1e-3, torch.float16: 5e-2}
_BYTES_A_WEIGHT = 6  # single precision, and what either side keeps beside it


@dataclass(frozen=True, kw_only=True)
class Example:
    """One graph and what is given to it.

    Attributes:
        path: ONNX file.
        module: the network in single precision, its parameters on ``meta``.
        inputs: name to array, in the module's order.
        outputs: names in the order of what the module returns.
    """

    path: Path
    module: nn.Module
    inputs: Mapping[str, np.ndarray]
    outputs: Sequence[str]


def check_memory(parameters: int, free_bytes: int | None = None) -> None:
    """Raises ConfigError where the check would not fit."""
    needed, free = parameters * _BYTES_A_WEIGHT, _free_bytes() if free_bytes is None else free_bytes
    if needed > free:
        raise ConfigError(
            f"comparing the graphs with PyTorch needs about {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free: "
            "import on a larger machine, or do without the comparison by --no-parity"
        )


def types_of(module: nn.Module) -> dict[str, torch.dtype]:
    """Of each parameter."""
    return {name: parameter.dtype for name, parameter in module.named_parameters()}


def count(module: nn.Module) -> int:
    """Numbers in all parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def run_graph(example: Example) -> dict[str, np.ndarray]:
    """What ONNX Runtime answers on the CPU, by name."""
    session = onnxruntime.InferenceSession(str(example.path), providers=["CPUExecutionProvider"])
    kinds = {entry.name: np.float16 if "float16" in entry.type else None for entry in session.get_inputs()}
    inputs = {name: value.astype(kinds[name]) if kinds[name] else value for name, value in example.inputs.items()}
    return dict(zip(example.outputs, session.run(list(example.outputs), inputs)))


def difference(
    example: Example, answers: Mapping[str, np.ndarray], sources: Mapping[str, Source], types: Mapping[str, torch.dtype]
) -> float:
    """Compares with PyTorch.

    Args:
        example: of the graph.
        answers: what the graph said.
        sources: name of a parameter to what reads it.
        types: of each parameter in the file.

    Returns:
        the largest difference, as a share of the largest number of that output.

    Raises:
        VlaError: it is larger than ``TOLERANCE``, or not a number.
    """
    allowed = TOLERANCE[torch.float16 if torch.float16 in types.values() else torch.float32]
    parameters = {name: in_type(name, sources[name](), types[name]).float() for name, _ in example.module.named_parameters()}
    with torch.no_grad():
        said = torch.func.functional_call(
            example.module.eval(), parameters, tuple(torch.from_numpy(v.copy()) for v in example.inputs.values())
        )
    worst = 0.0
    for name, wanted in zip(example.outputs, said if isinstance(said, tuple) else (said,)):
        reference, answer = wanted.double().numpy(), answers[name].astype(np.float64)
        share = np.abs(answer - reference).max() / max(np.abs(reference).max(), 1e-6)
        if not share <= allowed:
            raise VlaError(
                f"{example.path.name} does not say what the network says in PyTorch: '{name}' differs by {share:.2g} of its largest number, "
                f"{allowed:g} are allowed. The bundle was not written: please report it with the versions of torch and onnxruntime"
            )
        worst = max(worst, float(share))
    return worst


def _free_bytes() -> int:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise ConfigError("/proc/meminfo does not say how much memory is free: import with --no-parity")
