# SPDX-License-Identifier: Apache-2.0
"""ONNX graphs in int8 and fp16, by ONNX Runtime's own tools.

Weights of matrix products become 8-bit integers, one scale a column, and activations are quantised while running. The convolutions of the
pictures can follow with fixed scales, which need calibration. Layers that cost next to nothing stay as they are: they gain no time, and the
last ones, that say where things are, are the most sensitive of all.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from vla_ros.core.errors import ConfigError
from vla_ros.onnx_cost import node_operations, shapes_of

SMALL_SHARE = 0.002  # of the graph's operations
_WEIGHTED = ("MatMul", "Gemm", "Conv")


@dataclass(frozen=True, kw_only=True)
class Method:
    """How a graph is quantised.

    Attributes:
        precision: ``int8`` or ``fp16``.
        weights: ``s8`` (full range), ``s7`` (half of it), ``u8``. Processors without VNNI add pairs of products of signed weights in 16 bits,
            which overflow with the full range (onnxruntime's documentation of quantisation); ``s8`` is for processors with VNNI only.
        convolutions: quantise them too, with calibrated scales.
    """

    precision: str
    weights: str = ""
    convolutions: bool = False


METHODS: Mapping[str, Method] = {
    "int8": Method(precision="int8", weights="s7"),
    "int8-convolutions": Method(precision="int8", weights="s7", convolutions=True),
    "uint8": Method(precision="int8", weights="u8"),
    "fp16": Method(precision="fp16"),
}


def write_graph(source: Path, out: Path, method: Method, calibration: Sequence[Mapping[str, np.ndarray]], keep: Sequence[str] = ()) -> list[str]:
    """Writes a quantised graph and returns the names of the weighted nodes that stayed as they were.

    Args:
        source: ONNX file in float32.
        out: file to write.
        method: how.
        calibration: graph inputs, for fixed scales.
        keep: names of nodes that must stay.

    Raises:
        ConfigError: a name that no node has, or nothing to quantise.
    """
    model = onnx.load(source)
    fold_transposes(model)
    del model.graph.value_info[:]  # inferred anew: the tools transpose weights in place, and older ones (1.23) then find both shapes
    names = {node.name for node in model.graph.node}
    unknown = sorted(set(keep) - names)
    if unknown:
        raise ConfigError(f"--keep names no node of {source.name}: {', '.join(unknown)}; vla quantize --json lists those that were kept")
    kept = sorted({*keep, *small_layers(model)})
    with _quiet():
        if method.precision == "fp16":
            _write_fp16(model, out, keep)
            return sorted(keep)
        if method.convolutions:
            model = _with_static_convolutions(model, out.with_suffix(".part"), calibration, kept)
        _write_dynamic(model, out, method, kept)
    if not any(node.op_type == "MatMulInteger" for node in onnx.load(out).graph.node):
        raise ConfigError(f"{source} has no matrix product with constant weights: there is nothing to quantise")
    return kept


def fold_transposes(model: onnx.ModelProto) -> None:
    """Stores transposed weights as they are used: the tools quantise products with stored weights only."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        if node.op_type == "Transpose" and node.input[0] in stored:
            permutation = next((list(attribute.ints) for attribute in node.attribute if attribute.name == "perm"), None)
            array = np.ascontiguousarray(numpy_helper.to_array(stored[node.input[0]]).transpose(permutation))
            model.graph.initializer.append(numpy_helper.from_array(array, node.output[0]))
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input} | {value.name for value in model.graph.output}
    weights = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(weights)


def small_layers(model: onnx.ModelProto, share: float = SMALL_SHARE) -> list[str]:
    """Names of nodes whose stored weights do less than ``share`` of the graph's operations, in all nodes that use them together."""
    shapes, stored = shapes_of(model), {tensor.name for tensor in model.graph.initializer}
    counts = [(node, node_operations(node, shapes)) for node in model.graph.node if node.op_type in _WEIGHTED]
    limit = share * sum(count for _, count in counts)
    work: Counter[str] = Counter()
    for node, count in counts:
        work[node.input[1]] += count
    return [node.name for node, _ in counts if node.input[1] in stored and work[node.input[1]] < limit]


def _write_dynamic(model: onnx.ModelProto, out: Path, method: Method, kept: Sequence[str]) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # The tool makes a product and a sum of each Gemm first: what stays as it is has to be named by both names.
    excluded = [*kept, *(f"{name}_MatMul" for name in kept)]
    quantize_dynamic(
        model, out, per_channel=True, reduce_range=method.weights == "s7", nodes_to_exclude=excluded, op_types_to_quantize=["MatMul"],
        weight_type=QuantType.QUInt8 if method.weights == "u8" else QuantType.QInt8, extra_options={"MatMulConstBOnly": True},
    )


def _with_static_convolutions(
    model: onnx.ModelProto, part: Path, calibration: Sequence[Mapping[str, np.ndarray]], kept: Sequence[str]
) -> onnx.ModelProto:
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        """Hands out the recorded inputs one by one."""

        def __init__(self) -> None:
            self._samples = iter(calibration)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._samples, None)

    if not calibration:
        raise ConfigError("fixed scales of convolutions need recorded observations: choose the method int8")
    try:
        quantize_static(
            model, part, Reader(), quant_format=QuantFormat.QDQ, op_types_to_quantize=["Conv"], per_channel=True, reduce_range=True,
            nodes_to_exclude=list(kept), activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, calibrate_method=CalibrationMethod.MinMax,
        )
        return onnx.load(part)
    finally:
        part.unlink(missing_ok=True)


def _write_fp16(model: onnx.ModelProto, out: Path, keep: Sequence[str]) -> None:
    """Half precision inside, the same inputs and outputs. For a GPU: a CPU casts every weight back."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(model, keep_io_types=True, node_block_list=list(keep)), out)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The tools advise at WARNING on every call."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
