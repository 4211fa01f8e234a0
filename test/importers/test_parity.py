# SPDX-License-Identifier: Apache-2.0
"""The last look at an import: a graph that does not say what PyTorch says is refused, and nothing is written."""

from __future__ import annotations

import pytest
import torch

from vla_ros import cli
from vla_ros.core.errors import ConfigError, VlaError
from vla_ros.importers import act, openvla
from vla_ros.importers.parity import TOLERANCE, check_memory


def test_a_good_import_says_how_near_it_is(openvla_bundles):
    near = {precision: bundle.manifest.provenance["difference_from_torch"] for precision, bundle in openvla_bundles.items()}
    assert near["fp32"] < 0.1 * TOLERANCE[torch.float32] and near["fp16"] < 0.5 * TOLERANCE[torch.float16]
    assert near["fp16"] > near["fp32"] > 0.0


def bend(module):
    """Its first output is a little off, as a wrong operator would make it."""
    kind = type(module)

    class Bent(kind):
        def forward(self, *inputs):
            first, *others = super().forward(*inputs)
            return (first * 1.1, *others)

    module.__class__ = Bent


@pytest.mark.parametrize("name", ["Prefill", "Decode"])
def test_a_graph_that_is_wrong_is_refused_and_nothing_is_written(openvla_folder, tmp_path, monkeypatch, name):
    """The written graph is bent; PyTorch's network is not."""
    genuine = openvla.export_graph

    def export(module, *arguments):
        if type(module).__name__ == name:
            bend(module)
        genuine(module, *arguments)

    monkeypatch.setattr(openvla, "export_graph", export)
    with pytest.raises(VlaError, match=f"{name.lower()}.onnx does not say"):
        openvla.import_openvla(openvla_folder, tmp_path / "out", unnorm_key="bridge_orig", text_tokens=96)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_damaged_on_the_way_are_refused(tmp_path, monkeypatch):
    from act_reference import make_checkpoint, make_model
    from test_act import INTERFACE

    genuine = act.export_graph

    def export(module, inputs, outputs, path, weights):
        genuine(module, inputs, outputs, path, weights)
        entry = max(weights._written.values(), key=lambda tensor: tensor.length)
        with weights.path.open("r+b") as file:
            file.seek(entry.offset)
            file.write(b"\0" * entry.length)

    monkeypatch.setattr(act, "export_graph", export)
    with pytest.raises(VlaError, match="policy.onnx does not say"):
        act.import_act(make_checkpoint(tmp_path / "checkpoint", make_model()), tmp_path / "out", INTERFACE)
    assert not (tmp_path / "out").exists()


def test_where_memory_is_short_it_says_so_and_what_to_do(openvla_folder, tmp_path, monkeypatch, capsys):
    check_memory(1000, free_bytes=6000)
    with pytest.raises(ConfigError, match="42.0 GB of memory, 30.0 GB are free.*--no-parity"):
        check_memory(7_000_000_000, free_bytes=30_000_000_000)
    monkeypatch.setattr("vla_ros.importers.parity._free_bytes", lambda: 1000)
    arguments = ["import", "openvla", str(openvla_folder), "--out", str(tmp_path / "out"), "--unnorm-key", "bridge_orig"]
    assert cli.main(arguments) == 2 and "--no-parity" in capsys.readouterr().err
    assert cli.main([*arguments, "--no-parity"]) == 0
