# SPDX-License-Identifier: Apache-2.0
"""Reads the few facts of an ONNX file that must be known before a runtime opens it: opset and external data.

A walk over the protobuf wire format (https://protobuf.dev/programming-guides/encoding) that skips everything
else, so that the robot needs no onnx package and no weight is copied. Field numbers are onnx.proto's.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vla_ros.core.errors import BundleError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_DEPTH = 32

_MODEL_OPSET, _MODEL_GRAPH, _MODEL_FUNCTIONS = 8, 7, 25
_OPSET_DOMAIN, _OPSET_VERSION = 1, 2
_EXTERNAL_DATA, _KEY, _VALUE = 13, 1, 2
# Which fields of a message hold messages that may hold a tensor: GraphProto, SparseTensorProto, NodeProto, AttributeProto, FunctionProto.
_CHILDREN = {
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "function": {7: "node", 11: "attribute"},
}


@dataclass(frozen=True, kw_only=True)
class OnnxFacts:
    """What the file says about itself.

    Attributes:
        opset: version of the default operator set.
        external_locations: file names that tensors refer to, sorted.
    """

    opset: int
    external_locations: tuple[str, ...]


def read_onnx_facts(path: Path) -> OnnxFacts:
    """Reads opset and external data locations.

    Raises:
        BundleError: the file is empty, cut short or no ONNX model.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data, memoryview(data) as view:
            return _facts(view)
    except (ValueError, IndexError, RecursionError, BufferError) as error:  # BufferError: the mapping is closed while the failed reader still looks at it
        raise BundleError(f"{path} is no readable ONNX model ({error}): copy or export the bundle again") from None


def _facts(view: memoryview) -> OnnxFacts:
    opset, locations = 0, set()
    for number, value in _fields(view):
        if number == _MODEL_OPSET and isinstance(value, memoryview):
            entry = dict(_fields(value))
            domain = bytes(entry.get(_OPSET_DOMAIN, b"")).decode("utf-8", "replace")
            opset = int(entry.get(_OPSET_VERSION, 0)) if domain in ("", "ai.onnx") else opset
        elif number in (_MODEL_GRAPH, _MODEL_FUNCTIONS) and isinstance(value, memoryview):
            locations.update(_locations(value, "graph" if number == _MODEL_GRAPH else "function", 0))
    if opset == 0:
        raise ValueError("it names no operator set")
    return OnnxFacts(opset=opset, external_locations=tuple(sorted(locations)))


def _locations(view: memoryview, kind: str, depth: int) -> Iterator[str]:
    if depth > _MAX_DEPTH:
        raise ValueError("it is nested too deeply")
    for number, value in _fields(view):
        if not isinstance(value, memoryview):
            continue
        if kind == "tensor":
            if number == _EXTERNAL_DATA:
                entry = {key: bytes(text).decode("utf-8", "replace") for key, text in _fields(value)}
                if entry.get(_KEY) == "location":
                    yield entry.get(_VALUE, "")
        elif number in _CHILDREN[kind]:
            yield from _locations(value, _CHILDREN[kind][number], depth + 1)


def _fields(view: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Field numbers and values of one message; a value is an integer or the bytes."""
    at = 0
    while at < len(view):
        tag, at = _varint(view, at)
        wire = tag & 7
        if wire == _VARINT:
            value, at = _varint(view, at)
            yield tag >> 3, value
            continue
        size = {_FIXED64: 8, _FIXED32: 4}.get(wire)
        if wire == _BYTES:
            size, at = _varint(view, at)
        if size is None or at + size > len(view):
            raise ValueError("it is damaged or cut short")
        yield tag >> 3, view[at : at + size]
        at += size


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = view[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("it is damaged")
