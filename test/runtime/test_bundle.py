# SPDX-License-Identifier: Apache-2.0
"""A bundle is refused with the reason, whatever is wrong with it."""

from __future__ import annotations

import os

import onnx
import pytest
import yaml
from onnx import helper, numpy_helper

import numpy as np

from vla_ros.core.errors import BundleError
from vla_ros.runtime.bundle import bundle_sha256, file_sha256, load_bundle
from vla_ros.runtime.onnx_file import read_onnx_facts


def edit_manifest(folder, change):
    data = yaml.safe_load((folder / "manifest.yaml").read_text())
    change(data)
    (folder / "manifest.yaml").write_text(yaml.safe_dump(data))


def rehash(folder):
    edit_manifest(folder, lambda m: m["sha256"].update({n: file_sha256(folder / n) for n in m["sha256"]}))


def test_a_whole_bundle_loads_and_its_identity_covers_every_file(bundle_writer):
    bundle = load_bundle(bundle_writer())
    assert bundle.manifest.name == "tiny" and bundle.policy_path.is_file() and bundle.tokenizer_path.is_file()
    assert bundle.sha256 == bundle_sha256(bundle.manifest) and len(bundle.sha256) == 64
    other = load_bundle(bundle_writer(np.full((5, 6), 3), name="other"))
    assert other.sha256 != bundle.sha256


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(BundleError, match="give the folder"):
        load_bundle(tmp_path / "nothing")


def test_a_broken_yaml_is_refused(bundle_writer):
    folder = bundle_writer()
    (folder / "manifest.yaml").write_text("a: [1")
    with pytest.raises(BundleError, match="YAML"):
        load_bundle(folder)


@pytest.mark.parametrize("name", ["policy.onnx", "tokenizer.json"])
def test_a_changed_or_missing_file_is_refused(bundle_writer, name):
    folder = bundle_writer()
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(BundleError, match="sha256"):
        load_bundle(folder)
    (folder / name).unlink()
    with pytest.raises(BundleError, match="cannot be read"):
        load_bundle(folder)


def test_a_link_out_of_the_bundle_is_refused(bundle_writer, tmp_path):
    folder = bundle_writer()
    outside = tmp_path / "elsewhere.onnx"
    os.rename(folder / "policy.onnx", outside)
    os.symlink(outside, folder / "policy.onnx")
    with pytest.raises(BundleError, match="link out"):
        load_bundle(folder)


@pytest.mark.parametrize("keep", [0, 1, 50, 0.5, 0.999])
def test_a_model_cut_short_is_refused_even_with_a_fitting_hash(bundle_writer, keep):
    folder = bundle_writer()
    data = (folder / "policy.onnx").read_bytes()
    (folder / "policy.onnx").write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    rehash(folder)
    with pytest.raises(BundleError, match="ONNX"):
        load_bundle(folder)


def test_another_opset_is_refused(bundle_writer):
    folder = bundle_writer(change=lambda m: m.update(opset=18))
    with pytest.raises(BundleError, match="opset 17"):
        load_bundle(folder)


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "weights.bin"])
def test_external_data_outside_the_manifest_is_refused(bundle_writer, location):
    folder = bundle_writer()
    model = onnx.load(folder / "policy.onnx")
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    (folder / "policy.onnx").write_bytes(model.SerializeToString())
    rehash(folder)
    with pytest.raises(BundleError, match="inside the bundle"):
        load_bundle(folder)


def test_external_data_of_constants_in_subgraphs_is_found(tmp_path):
    tensor = numpy_helper.from_array(np.zeros(3, np.float32), "t")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="hidden.bin")
    inner = helper.make_graph([helper.make_node("Constant", [], ["c"], value=tensor)], "inner", [], [])
    outer = helper.make_graph([helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)], "outer", [], [])
    model = helper.make_model(outer, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)])
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    facts = read_onnx_facts(tmp_path / "m.onnx")
    assert facts.external_locations == ("hidden.bin",) and facts.opset == 17
