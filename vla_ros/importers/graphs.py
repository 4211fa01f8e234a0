# SPDX-License-Identifier: Apache-2.0
"""Torch modules without weights to ONNX graphs, and weights beside them in one file that the graphs share.

The modules live on the ``meta`` device: a model of any size is traced in little memory, and each weight is read, converted and written
alone. A weight that two graphs have is written once.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import onnx_ir as ir
import torch
from onnxscript.optimizer import optimize_ir
from torch import Tensor, nn

from vla_ros.core.errors import ConfigError

OPSET = 18
_ALIGNMENT = 4096  # a page: the file can be mapped
_TYPES = {torch.float16: ir.DataType.FLOAT16, torch.float32: ir.DataType.FLOAT}

Source = Callable[[], Tensor]


class WeightFile:
    """Weights one after another in a file. One thread only.

    Args:
        path: of the file.
        sources: name of a parameter to what reads its value.
    """

    def __init__(self, path: Path, sources: Mapping[str, Source]) -> None:
        self.path = path
        self._sources = sources
        self._written: dict[str, ir.ExternalTensor] = {}
        self._file: BinaryIO = path.open("wb")

    def __enter__(self) -> WeightFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def place(self, name: str, parameter: Tensor) -> ir.ExternalTensor:
        """Writes a weight unless it is there already, and says where.

        Raises:
            ConfigError: its shape is another one, or a number does not fit the type.
        """
        if name not in self._written:
            self._written[name] = self._write(name, parameter)
        return self._written[name]

    def place_all(self, module: nn.Module) -> None:
        """Writes every parameter of a module; raises as ``place`` does."""
        for name, parameter in module.named_parameters():
            self.place(name, parameter)

    def flush(self) -> None:
        """Makes what was written readable."""
        self._file.flush()

    def _write(self, name: str, parameter: Tensor) -> ir.ExternalTensor:
        value = self._sources[name]()
        if value.shape != parameter.shape:
            raise ConfigError(
                f"'{name}' has the shape {list(value.shape)} in the checkpoint, its configuration says {list(parameter.shape)}"
            )
        data = in_type(name, value, parameter.dtype).contiguous().numpy().tobytes()
        self._file.write(b"\0" * (-self._file.tell() % _ALIGNMENT))
        offset = self._file.tell()
        self._file.write(data)
        return ir.ExternalTensor(
            self.path.name,
            offset,
            len(data),
            _TYPES[parameter.dtype],
            shape=ir.Shape(parameter.shape),
            name=name,
            base_dir=str(self.path.parent),
        )


def in_type(name: str, value: Tensor, dtype: torch.dtype) -> Tensor:
    """The value in another type.

    Raises:
        ConfigError: a number is larger than the type has.
    """
    converted = value.to(dtype)
    if not bool(torch.isfinite(converted).all()):
        raise ConfigError(f"'{name}' holds {float(value.abs().max()):.3g}, more than {dtype} has: import it with --precision fp32")
    return converted


def export_graph(module: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str], path: Path, weights: WeightFile) -> None:
    """Writes the graph of a module whose parameters are on ``meta``.

    Args:
        module: takes the inputs in their order.
        inputs: name to an example on ``meta``; shapes are fixed.
        outputs: names of what the module returns, in order.
        path: ONNX file, beside the weights' file.
        weights: takes the parameters.
    """
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter deprecates its own parts
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # and tells of torchvision, which is not needed
        program = torch.onnx.export(
            module, tuple(inputs.values()), input_names=list(inputs), output_names=list(outputs), opset_version=OPSET, dynamo=True,
            external_data=False, optimize=False, verbose=False,
        )  # fmt: skip
    model = program.model
    parameters = dict(module.named_parameters())
    for name, value in model.graph.initializers.items():
        if name in parameters:
            value.const_value = weights.place(name, parameters[name])
    weights.flush()
    optimize_ir(model)  # after the weights have values: it looks at small ones
    model.graph.doc_string = ""
    _strip_traces(model)
    model.producer_name = "vla_ros"
    ir.save(model, path)


def _strip_traces(model: ir.Model) -> None:
    """Removes what the exporter notes about source files: it is of no use to a robot and would name folders of this machine."""
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    for node in model.graph.all_nodes():
        node.doc_string = None
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
