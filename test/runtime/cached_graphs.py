# SPDX-License-Identifier: Apache-2.0
"""Two small graphs whose answer depends on every token in the cache, so that a lost or misplaced one shows.

The keys hold the ids, the values the ids in half precision. With ids t_0...t_p in the cache, the logits are highest at the action id
``FIRST + (sum of (i + 1) t_i) mod 256``, and an ordinary word is higher still.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

TEXT, ANSWER, LENGTH = 24, 6, 30
VOCAB, FIRST, WORD = 600, 300, 17
OPSET = 17
CACHE = [1, 1, LENGTH, 1]


def answer_of(text_ids: list[int], count: int = ANSWER, given: dict[int, int] | None = None) -> list[int]:
    """The ids that the graphs should say, by the rule above."""
    ids, said = list(text_ids), []
    for place in range(count):
        best = FIRST + sum((i + 1) * token for i, token in enumerate(ids)) % 256
        said.append((given or {}).get(place, best))
        ids.append(said[-1])
    return said


def _constants(**arrays: np.ndarray) -> list[onnx.TensorProto]:
    return [numpy_helper.from_array(value, name) for name, value in arrays.items()]


def _logits(keys: str, filled: str) -> list[onnx.NodeProto]:
    """``keys`` int64 [1, 1, L, 1] of which ``filled`` [1] count."""
    return [
        helper.make_node("Less", ["places", filled], ["is_filled"]),
        helper.make_node("Where", ["is_filled", keys, "zero"], ["counted"]),
        helper.make_node("Mul", ["counted", "weights"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted"], ["sum"], keepdims=0),
        helper.make_node("Mod", ["sum", "bins"], ["bin"]),
        helper.make_node("Add", ["bin", "first"], ["best"]),
        helper.make_node("Sub", ["ids", "best"], ["off"]),
        helper.make_node("Abs", ["off"], ["distance"]),
        helper.make_node("Cast", ["distance"], ["distance_f"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["liking", "distance_f"], ["logits"]),
    ]


def _save(path: Path, nodes: list, inputs: dict, outputs: dict, nan: bool) -> None:
    liking = np.zeros((1, VOCAB), np.float32)
    liking[0, WORD] = 1000.0
    if nan:
        liking[0, FIRST + 5] = np.nan
    weights = np.arange(1, LENGTH + 1, dtype=np.int64).reshape(CACHE)
    constants = _constants(
        places=weights - 1, weights=weights, zero=np.array(0, np.int64), bins=np.array(256, np.int64), first=np.array(FIRST, np.int64),
        ids=np.arange(VOCAB, dtype=np.int64)[None], liking=liking, pad=np.array([0, 0, 0, 0, 0, 0, LENGTH - TEXT, 0], np.int64),
        column=np.array([1, 1, TEXT, 1], np.int64), nothing=np.array(0, np.int64), axis=np.array([1], np.int64),
    )  # fmt: skip
    infos = [[helper.make_tensor_value_info(name, *info) for name, info in side.items()] for side in (inputs, outputs)]
    model = helper.make_model(
        helper.make_graph(nodes, path.stem, *infos, constants), opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9
    )
    path.write_bytes(model.SerializeToString())


def write_graphs(folder: Path, *, nan: bool = False, decode_length: int = LENGTH) -> tuple[Path, Path]:
    """Writes ``prefill.onnx`` and ``decode.onnx``; id 0 pads the text."""
    prefill, decode = folder / "prefill.onnx", folder / "decode.onnx"
    cache = {"present_key_0": (TensorProto.INT64, CACHE), "present_value_0": (TensorProto.FLOAT16, CACHE)}
    logits = {"logits": (TensorProto.FLOAT, [1, VOCAB])}
    images = {"image_front": (TensorProto.UINT8, [1, 128, 128, 3]), "image_wrist": (TensorProto.UINT8, [1, 64, 64, 3])}
    read = [
        helper.make_node("Equal", ["text_ids", "nothing"], ["is_pad"]),
        helper.make_node("Not", ["is_pad"], ["is_text"]),
        helper.make_node("Cast", ["is_text"], ["counts"], to=TensorProto.INT64),
        helper.make_node("ReduceSum", ["counts", "axis"], ["position"], keepdims=0),
        helper.make_node("Reshape", ["text_ids", "column"], ["text_column"]),
        helper.make_node("Pad", ["text_column", "pad"], ["present_key_0"]),
        helper.make_node("Cast", ["present_key_0"], ["present_value_0"], to=TensorProto.FLOAT16),
        *_logits("present_key_0", "position"),
    ]
    position = {"position": (TensorProto.INT64, [1])}
    state = {"text_ids": (TensorProto.INT64, [1, TEXT]), "proprio": (TensorProto.FLOAT, [1, 11])}
    _save(prefill, read, {**images, **state}, {**logits, **position, **cache}, nan)
    add = [
        helper.make_node("Equal", ["places", "position"], ["is_here"]),
        helper.make_node("Where", ["is_here", "token", "past_key_0"], ["present_key_0"]),
        helper.make_node("Cast", ["token"], ["token_half"], to=TensorProto.FLOAT16),
        helper.make_node("Where", ["is_here", "token_half", "past_value_0"], ["present_value_0"]),
        helper.make_node("Sub", ["position", "minus_one"], ["filled"]),
        *_logits("present_key_0", "filled"),
    ]
    add.insert(0, helper.make_node("Constant", [], ["minus_one"], value=numpy_helper.from_array(np.array([-1], np.int64))))
    shape = [1, 1, decode_length, 1]
    past = {"past_key_0": (TensorProto.INT64, shape), "past_value_0": (TensorProto.FLOAT16, shape)}
    grown = {"present_key_0": (TensorProto.INT64, shape), "present_value_0": (TensorProto.FLOAT16, shape)}
    _save(decode, add, {"token": (TensorProto.INT64, [1, 1]), **position, **past}, {**logits, **grown}, nan)
    return prefill, decode
