# SPDX-License-Identifier: Apache-2.0
"""What one pass of an ONNX graph must compute and read at the least, counted from its shapes.

Only matrix products and convolutions are counted: they are nearly all of a transformer's work, and what cannot be saved.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import onnx
from onnx import shape_inference

#: Places of the two factors among the inputs of each operator.
_PRODUCTS = {"MatMul": (0, 1), "MatMulInteger": (0, 1), "QLinearMatMul": (0, 3)}
_CONVOLUTIONS = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}  # place of the kernel
Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One pass of a graph.

    Attributes:
        operations: of matrix products and convolutions; a multiplication with its addition counts as two.
        integer_operations: the part of them that is done on integers.
        weight_bytes: of all initializers, each read once.
    """

    operations: int
    integer_operations: int
    weight_bytes: int


def graph_cost(model: onnx.ModelProto) -> Cost:
    """Counts a graph whose shapes are fixed.

    Raises:
        ValueError: a shape that counts is not known.
    """
    shapes = shapes_of(model)
    counts = [(node, node_operations(node, shapes)) for node in model.graph.node]
    quantised = _outputs_of(model, "DequantizeLinear")
    return Cost(
        operations=sum(count for _, count in counts),
        integer_operations=sum(count for node, count in counts if _is_integer(node, quantised)),
        weight_bytes=sum(_bytes_of(tensor) for tensor in model.graph.initializer),
    )


def shapes_of(model: onnx.ModelProto) -> dict[str, Shape]:
    """Name to shape of every tensor whose shape is fixed."""
    graph = shape_inference.infer_shapes(model).graph
    shapes: dict[str, Shape] = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            shapes[value.name] = tuple(dim.dim_value for dim in dims)
    return shapes


def node_operations(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int:
    """Operations of one node; 0 for a kind that is not counted.

    Raises:
        ValueError: a shape that counts is not known.
    """
    if node.op_type in _PRODUCTS:
        first, second = (_shape(node, node.input[place], shapes) for place in _PRODUCTS[node.op_type])
        batch = _broadcast(first[:-2], second[:-2])
        rows = first[-2] if len(first) > 1 else 1
        columns = second[-1] if len(second) > 1 else 1
        return 2 * math.prod(batch) * rows * first[-1] * columns
    if node.op_type == "Gemm":
        first = _shape(node, node.input[0], shapes)
        transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
        return 2 * math.prod(_shape(node, node.output[0], shapes)) * first[0 if transposed else 1]
    if node.op_type in _CONVOLUTIONS:
        kernel = _shape(node, node.input[_CONVOLUTIONS[node.op_type]], shapes)
        return 2 * math.prod(_shape(node, node.output[0], shapes)) * math.prod(kernel[1:])
    if node.op_type == "Attention" and node.domain in ("", "ai.onnx"):
        return _attention_operations(*(_shape(node, name, shapes) for name in node.input[:3]))
    return 0


def _attention_operations(query: Shape, key: Shape, value: Shape) -> int:
    """Scores and weighted values of every head; [B, L, E] with heads side by side, or [B, G, L, F], where groups of queries may share keys."""
    queries, sources = math.prod(query[:-1]), key[-2]
    width = value[-1] if len(query) == 4 or key[-1] == query[-1] else value[-1] * query[-1] // key[-1]
    return 2 * queries * sources * (query[-1] + width)


def _is_integer(node: onnx.NodeProto, dequantised: set[str]) -> bool:
    """Whether the factors are integers, or were until the quantised graph's own notation turned them to floats."""
    return "Integer" in node.op_type or node.op_type.startswith("QLinear") or all(name in dequantised for name in node.input[:2])


def _outputs_of(model: onnx.ModelProto, kind: str) -> set[str]:
    return {node.output[0] for node in model.graph.node if node.op_type == kind}


def _shape(node: onnx.NodeProto, tensor: str, shapes: Mapping[str, Shape]) -> Shape:
    if tensor not in shapes:
        raise ValueError(f"the shape of '{tensor}', used by {node.op_type} '{node.name}', is not fixed: the work cannot be counted")
    return shapes[tensor]


def _broadcast(first: Shape, second: Shape) -> Shape:
    length = max(len(first), len(second))
    pairs = zip((1,) * (length - len(first)) + first, (1,) * (length - len(second)) + second, strict=True)
    return tuple(max(pair) for pair in pairs)


def _bytes_of(tensor: onnx.TensorProto) -> int:
    return math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
