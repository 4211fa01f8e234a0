# SPDX-License-Identifier: Apache-2.0
"""The floor: no runtime can be faster than its matrix products at the machine's peak, or than reading its weights once.

Peak and bandwidth are measured in the same rounds as the variants that are compared with them, so that both meet the same load.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vla_ros.bench.rounds import Variant

if TYPE_CHECKING:  # it imports onnx, which the floor alone needs
    from vla_ros.onnx_cost import Cost

GEMM_SIZE = 768  # rows, columns and inner length: factors and result of float32 lie in the last-level cache, as a small policy's do
FP32, INT8, READ = "peak: float32 product", "peak: int8 product", "bandwidth: reading the weights"


def floor_variants(cost: Cost, threads: int, integers: bool) -> list[Variant]:
    """What to call in each round beside the variants.

    Args:
        cost: of the graph; its weights' size is what is read.
        threads: of one inference.
        integers: also the peak of int8.
    """
    variants: list[Variant] = [(FP32, product_call("float32", threads)), (READ, read_call(cost.weight_bytes))]
    return [*variants, (INT8, product_call("int8", threads))] if integers else variants


def floor_seconds(cost: Cost, seconds: Mapping[str, Sequence[float]], size: int = GEMM_SIZE) -> list[float]:
    """The floor of each round, s: the longer of computing and reading.

    Args:
        cost: of the graph.
        seconds: of the calls of :func:`floor_variants`.
        size: of the product that was measured.
    """
    product = 2 * size**3
    floats = (cost.operations - cost.integer_operations) / product
    integers = cost.integer_operations / product
    rounds = zip(seconds[FP32], seconds.get(INT8, seconds[FP32]), seconds[READ], strict=True)
    return [max(floats * fp32 + integers * int8, read) for fp32, int8, read in rounds]


def peaks(cost: Cost, seconds: Mapping[str, Sequence[float]], size: int = GEMM_SIZE) -> dict[str, float]:
    """Medians for people: operations in GFLOP, peaks in GFLOP/s and GOP/s, bandwidth in GB/s."""
    product = 2e-9 * size**3
    figures = {
        "graph_gflop": 1e-9 * cost.operations,
        "graph_integer_gop": 1e-9 * cost.integer_operations,
        "weights_mb": 1e-6 * cost.weight_bytes,
        "peak_float32_gflop_s": product / float(np.median(seconds[FP32])),
        "bandwidth_gb_s": 1e-9 * cost.weight_bytes / float(np.median(seconds[READ])),
    }
    if INT8 in seconds:
        figures["peak_int8_gop_s"] = product / float(np.median(seconds[INT8]))
    return {name: round(value, 3) for name, value in figures.items()}


def product_call(precision: str, threads: int, size: int = GEMM_SIZE) -> Callable[[], Any]:
    """One square product [size, size] x [size, size] with a stored second factor, by ONNX Runtime's own kernels."""
    import onnxruntime as ort

    from vla_ros.runtime.providers import session_options

    rng = np.random.default_rng(0)
    if precision == "float32":
        first, second = (rng.standard_normal((size, size)).astype(np.float32) for _ in range(2))
    else:
        first, second = rng.integers(0, 256, (size, size), dtype=np.uint8), rng.integers(-64, 64, (size, size), dtype=np.int8)
    session = ort.InferenceSession(_product_model(second, size), session_options(threads), providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": first})


def read_call(num_bytes: int) -> Callable[[], Any]:
    """Reads that many bytes once, as the factors of a scalar product, which computes next to nothing."""
    length = max(num_bytes // 8, 1)
    first, second = np.ones(length, np.float32), np.ones(length, np.float32)
    return lambda: np.dot(first, second)


def _product_model(second: np.ndarray, size: int) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    is_float = second.dtype == np.float32
    node = helper.make_node("MatMul" if is_float else "MatMulInteger", ["x", "w"], ["y"])
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT if is_float else TensorProto.UINT8, [size, size])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT if is_float else TensorProto.INT32, [size, size])
    graph = helper.make_graph([node], "product", [x], [y], [numpy_helper.from_array(second, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
