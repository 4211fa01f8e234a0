# SPDX-License-Identifier: Apache-2.0
"""The network of a bundle in PyTorch: what the runtime is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vla_ros.core.errors import ConfigError
from vla_ros.export import ExportedPolicy
from vla_ros.model.config import PolicyConfig
from vla_ros.model.policy import Policy
from vla_ros.runtime.bundle import Bundle
from vla_ros.train.checkpoint import load_checkpoint, restore_policy

TOLERANCE = 2e-3  # of the logits, as in the export's own comparison


def from_checkpoint(path: Path) -> ExportedPolicy:
    """The network of a training checkpoint, with its weights."""
    return ExportedPolicy(restore_policy(load_checkpoint(path))).eval()


def from_bundle(bundle: Bundle) -> ExportedPolicy:
    """A network built as the bundle's own, of random weights: they do not change the time.

    Raises:
        ConfigError: the bundle does not say how its network is built.
    """
    shape = bundle.manifest.provenance.get("model")
    if shape is None:
        raise ConfigError(f"bundle {bundle.manifest.name} does not say how its network is built (provenance.model): give --checkpoint, or export it again")
    torch.manual_seed(0)
    return ExportedPolicy(Policy(PolicyConfig.from_dict(shape))).eval()


def check(module: ExportedPolicy, inputs: Mapping[str, np.ndarray], logits: np.ndarray) -> None:
    """Raises ConfigError unless the network gives these logits: a comparison with other weights would be none."""
    with torch.inference_mode():
        found = module(*tensors(inputs))[0].numpy()
    difference = float(np.abs(found - logits).max())
    if not difference <= TOLERANCE:
        raise ConfigError(f"the PyTorch network's logits differ from the bundle's by {difference:.2g}: give the --checkpoint it was exported from")


def tensors(inputs: Mapping[str, np.ndarray]) -> list[torch.Tensor]:
    """The graph's inputs in their order."""
    return [torch.from_numpy(array) for array in inputs.values()]


def call(module: Any, inputs: Mapping[str, np.ndarray], threads: int) -> Callable[[], Any]:
    """One pass, without gradients."""
    torch.set_num_threads(threads)
    arguments = tensors(inputs)

    def run() -> Any:
        with torch.inference_mode():
            return module(*arguments)

    return run


def compiled(module: ExportedPolicy, inputs: Mapping[str, np.ndarray], threads: int) -> Callable[[], Any]:
    """One pass of the network after ``torch.compile``; the first call, which compiles, is made here.

    Raises:
        ConfigError: it does not compile here (no C++ compiler, an operator that is not supported).
    """
    run = call(torch.compile(module), inputs, threads)
    try:
        run()
    except Exception as error:  # the compiler raises many kinds
        raise ConfigError(f"torch.compile failed: {type(error).__name__}: {str(error).splitlines()[0][:160]}") from error
    return run
