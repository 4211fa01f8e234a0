# SPDX-License-Identifier: Apache-2.0
"""The policy graph's inputs and outputs as the manifest implies them, and the comparison with a graph.

Axes of the tensors: 1 (batch), pictures of a camera where there are several (newest first), H*D action tokens in the order of steps, 256 bins; H steps, D dimensions of a continuous output.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vla_ros.core.errors import BundleError
from vla_ros.core.manifest import Manifest

ACTION_LOGITS = "action_logits"
ACTIONS = "actions"
LEGAL_PROBABILITY = "legal_probability"
PLAN_TOKENS = "plan_tokens"
TEXT_IDS = "text_ids"
PROPRIO = "proprio"
PREFIX_TOKENS = "prefix_tokens"
FREE_TOKEN = -1

_DTYPES = {
    "tensor(uint8)": np.uint8,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
}


def image_input(camera: str) -> str:
    """Name of a camera's input."""
    return f"image_{camera}"


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One input or output: dtype and whole shape."""

    dtype: type
    shape: tuple[int, ...]

    def empty(self) -> np.ndarray:
        """A zeroed buffer of this kind."""
        return np.zeros(self.shape, dtype=self.dtype)

    def __str__(self) -> str:
        return f"{np.dtype(self.dtype).name} {list(self.shape)}"


def tensor_spec(arg: Any) -> TensorSpec:
    """The spec of a session's input or output (an object with name, type, shape).

    Raises:
        BundleError: a type that no policy has, or a shape that is not fixed.
    """
    if arg.type not in _DTYPES or not all(isinstance(size, int) for size in arg.shape):
        raise BundleError(
            f"'{arg.name}' is {arg.type} {list(arg.shape)}: a policy's graph has fixed shapes and the types {sorted(_DTYPES)}. Export it again."
        )
    return TensorSpec(dtype=_DTYPES[arg.type], shape=tuple(arg.shape))


def observation_inputs(manifest: Manifest) -> dict[str, TensorSpec]:
    """Name to tensor of what a policy sees and reads, in the graph's order; without the tokens that are committed."""
    past = () if manifest.frames == 1 else (manifest.frames,)
    inputs = {image_input(c.name): TensorSpec(dtype=np.uint8, shape=(1, *past, *c.shape)) for c in manifest.cameras}
    if manifest.context is not None:
        inputs[TEXT_IDS] = TensorSpec(dtype=np.int64, shape=(1, manifest.context.text_tokens))
    if manifest.proprio:
        inputs[PROPRIO] = TensorSpec(dtype=np.float32, shape=(1, len(manifest.proprio)))
    return inputs


def expected_inputs(manifest: Manifest) -> dict[str, TensorSpec]:
    """Name to tensor, in the graph's order."""
    if manifest.output == "continuous":
        return observation_inputs(manifest)
    return {**observation_inputs(manifest), PREFIX_TOKENS: TensorSpec(dtype=np.int64, shape=(1, manifest.action.num_tokens))}


def expected_outputs(manifest: Manifest) -> dict[str, TensorSpec]:
    """Name to tensor."""
    if manifest.output == "continuous":
        return {ACTIONS: TensorSpec(dtype=np.float32, shape=(1, *manifest.action.shape))}
    outputs = {ACTION_LOGITS: TensorSpec(dtype=np.float32, shape=(1, manifest.action.num_tokens, manifest.action.num_bins))}
    if manifest.plan is not None:
        outputs[PLAN_TOKENS] = TensorSpec(dtype=np.int64, shape=(1, len(manifest.plan.slots)))
    return outputs


def verify_signature(manifest: Manifest, inputs: Iterable[Any], outputs: Iterable[Any]) -> None:
    """Compares a session's inputs and outputs (objects with name, type, shape) with the manifest.

    Raises:
        BundleError: listing both sides.
    """
    compare_signature("inputs", expected_inputs(manifest), inputs)
    compare_signature("outputs", expected_outputs(manifest), outputs)


def compare_signature(noun: str, expected: Mapping[str, TensorSpec], found: Iterable[Any]) -> None:
    """Compares one side of a graph with what it should be.

    Raises:
        BundleError: listing both.
    """
    wanted = {name: str(spec) for name, spec in expected.items()}
    there = {arg.name: _describe(arg) for arg in found}
    if wanted != there:
        raise BundleError(
            f"the graph's {noun} do not fit the manifest.\n  manifest: {_list(wanted)}\n  graph:    {_list(there)}\nExport the bundle again."
        )


def _describe(arg: Any) -> str:
    dtype = _DTYPES.get(arg.type)
    return f"{arg.type if dtype is None else np.dtype(dtype).name} {list(arg.shape)}"


def _list(signature: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {text}" for name, text in sorted(signature.items()))
