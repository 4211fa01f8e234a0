# SPDX-License-Identifier: Apache-2.0
"""Staged files to a bundle: hashes, manifest, verified as the runtime does, then moved to its place as a whole."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import yaml

from vla_ros.core.errors import ConfigError
from vla_ros.core.manifest import Manifest
from vla_ros.runtime.bundle import MANIFEST_NAME, Bundle, file_sha256, load_bundle


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` that takes its place when all went well, and disappears when not.

    Raises:
        ConfigError: ``out`` is something else than a bundle.
    """
    if out.exists() and not (out / MANIFEST_NAME).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} exists and is no bundle: give --out another folder, nothing is overwritten")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as parent:
        folder = Path(parent) / out.name
        folder.mkdir()
        yield folder
        if out.exists():
            shutil.rmtree(out)
        folder.rename(out)


def seal(folder: Path, manifest: Manifest) -> Bundle:
    """Writes the manifest with the hashes of the files that it names, and verifies the whole.

    Raises:
        BundleError: a file is missing, or the manifest breaks the contract.
    """
    manifest = replace(manifest, sha256={name: file_sha256(folder / name) for name in manifest.file_names})
    text = yaml.safe_dump(manifest.to_dict(), sort_keys=False, allow_unicode=True)
    (folder / MANIFEST_NAME).write_text(text, encoding="utf-8")
    return load_bundle(folder)
