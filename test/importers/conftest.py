# SPDX-License-Identifier: Apache-2.0
"""A tiny OpenVLA checkpoint, its bundle in both precisions, and the reference; made once a session."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def openvla_folder(tmp_path_factory) -> Path:
    pytest.importorskip("transformers")
    from openvla_reference import make_checkpoint, plant_bombs

    folder = make_checkpoint(tmp_path_factory.mktemp("openvla") / "checkpoint")
    plant_bombs(folder, folder.parent / "was_executed")
    return folder


@pytest.fixture(scope="session")
def reference(openvla_folder):
    from openvla_reference import Reference

    return Reference(openvla_folder)


@pytest.fixture(scope="session")
def openvla_bundles(openvla_folder, tmp_path_factory):
    """Precision to the bundle of the tiny checkpoint."""
    from vla_ros.importers.openvla import import_openvla

    out = tmp_path_factory.mktemp("bundles")
    return {
        precision: import_openvla(openvla_folder, out / precision, unnorm_key="bridge_orig", precision=precision, text_tokens=96)
        for precision in ("fp32", "fp16")
    }


@pytest.fixture
def openvla_copy(openvla_folder, tmp_path) -> Path:
    """A checkpoint folder that a test may damage: small files copied, weights linked."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for path in openvla_folder.iterdir():
        target = folder / path.name
        if path.suffix == ".safetensors":
            os.link(path, target)
        else:
            target.write_bytes(path.read_bytes())
    return folder
