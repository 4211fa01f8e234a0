# SPDX-License-Identifier: Apache-2.0
"""Operations and bytes against graphs that were counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from vla_ros.onnx_cost import graph_cost, node_operations, shapes_of  # noqa: E402


def make_model(nodes, inputs, outputs, weights):
    """A model of float inputs and outputs with fixed shapes."""
    infos = [[helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in group.items()] for group in (inputs, outputs)]
    graph = helper.make_graph(nodes, "counted", *infos, [numpy_helper.from_array(v, k) for k, v in weights.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_a_product_of_matrices_is_two_operations_for_each_triple():
    model = make_model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": [1, 5, 3]}, {"y": [1, 5, 7]}, {"w": np.zeros((3, 7), np.float32)})
    cost = graph_cost(model)
    assert cost.operations == 2 * 5 * 3 * 7 and cost.integer_operations == 0 and cost.weight_bytes == 4 * 3 * 7


def test_batches_broadcast():
    node = helper.make_node("MatMul", ["a", "b"], ["y"])
    assert node_operations(node, {"a": (2, 1, 5, 3), "b": (4, 3, 7)}) == 2 * 2 * 4 * 5 * 3 * 7
    assert node_operations(node, {"a": (3,), "b": (3, 7)}) == 2 * 3 * 7
    assert node_operations(node, {"a": (5, 3), "b": (3,)}) == 2 * 5 * 3


@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm_counts_the_inner_length_either_way(transposed):
    node = helper.make_node("Gemm", ["a", "b"], ["y"], transA=transposed)
    shapes = {"a": (3, 5) if transposed else (5, 3), "b": (3, 7), "y": (5, 7)}
    assert node_operations(node, shapes) == 2 * 5 * 3 * 7


def test_a_convolution_counts_its_kernel_at_every_output():
    node = helper.make_node("Conv", ["x", "k"], ["y"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    model = make_model([node], {"x": [1, 4, 8, 8]}, {"y": [1, 6, 4, 4]}, {"k": np.zeros((6, 4, 3, 3), np.float32)})
    assert graph_cost(model).operations == 2 * (6 * 4 * 4) * (4 * 3 * 3)
    grouped = helper.make_node("Conv", ["x", "k"], ["y"], group=2)
    assert node_operations(grouped, {"x": (1, 4, 8, 8), "k": (6, 2, 3, 3), "y": (1, 6, 4, 4)}) == 2 * (6 * 4 * 4) * (2 * 3 * 3)


@pytest.mark.parametrize(
    ("shapes", "heads"),
    [
        ({"q": [1, 5, 12], "k": [1, 7, 12], "v": [1, 7, 12]}, (3, 3)),
        ({"q": [1, 3, 5, 4], "k": [1, 3, 7, 4], "v": [1, 3, 7, 4]}, (3, 3)),
        ({"q": [1, 5, 12], "k": [1, 7, 6], "v": [1, 7, 6]}, (2, 1)),
        ({"q": [1, 2, 5, 6], "k": [1, 1, 7, 6], "v": [1, 1, 7, 6]}, (2, 1)),
    ],
)
def test_attention_counts_scores_and_weighted_values(shapes, heads):
    """As written out: each of the query's heads times the keys, and its weights times the values."""
    sizes = dict(zip(("q_num_heads", "kv_num_heads"), heads)) if len(shapes["q"]) == 3 else {}
    node = helper.make_node("Attention", ["q", "k", "v"], ["y"], **sizes)
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    graph = helper.make_graph([node], "counted", infos, [helper.make_tensor_value_info("y", TensorProto.FLOAT, shapes["q"])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)])
    assert graph_cost(model).operations == 2 * (2 * 5 * 7 * 12)


def test_integer_products_are_told_apart():
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        helper.make_node("MatMulInteger", ["q", "w8", "zero"], ["i"]),
        helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["f", "w"], ["y"]),
    ]
    weights = {"w8": np.zeros((3, 7), np.int8), "w": np.zeros((7, 2), np.float32)}
    cost = graph_cost(make_model(nodes, {"x": [5, 3]}, {"y": [5, 2]}, weights))
    assert cost.integer_operations == 2 * 5 * 3 * 7
    assert cost.operations == cost.integer_operations + 2 * 5 * 7 * 2
    assert cost.weight_bytes == 3 * 7 + 4 * 7 * 2


def test_other_operators_cost_nothing_and_unknown_shapes_are_named():
    assert node_operations(helper.make_node("Add", ["a", "b"], ["y"]), {}) == 0
    with pytest.raises(ValueError, match="'b'"):
        node_operations(helper.make_node("MatMul", ["a", "b"], ["y"]), {"a": (5, 3)})


def test_shapes_that_are_not_fixed_are_left_out():
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3])])
    shapes = shapes_of(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9))
    assert "x" not in shapes and shapes["y"] == (2, 3)
