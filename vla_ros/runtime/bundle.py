# SPDX-License-Identifier: Apache-2.0
"""A policy bundle on disk, verified before anything opens it: manifest, hashes, operator set, external data."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import yaml

from vla_ros.core.errors import BundleError
from vla_ros.core.manifest import Manifest
from vla_ros.runtime.onnx_file import read_onnx_facts

MANIFEST_NAME = "manifest.yaml"
_MAX_MANIFEST_BYTES = 4 << 20
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A verified policy bundle.

    Attributes:
        directory: its folder, absolute.
        manifest: the contract.
        sha256: hash over the names and hashes of all files that the manifest covers: the model's identity.
    """

    directory: Path
    manifest: Manifest
    sha256: str

    @property
    def policy_path(self) -> Path:
        """The policy's graph."""
        return self.path("policy")

    @property
    def tokenizer_path(self) -> Path:
        """The text tokenizer; raises BundleError where the policy reads no text."""
        if self.manifest.vocabulary is None:
            raise BundleError(f"bundle '{self.manifest.name}' reads no text and has no tokenizer")
        return self.directory / self.manifest.vocabulary.tokenizer

    def path(self, role: str) -> Path:
        """The file with this role.

        Raises:
            BundleError: listing the roles there are.
        """
        if role not in self.manifest.files:
            raise BundleError(f"bundle '{self.manifest.name}' has no file with the role '{role}'; there are {sorted(self.manifest.files)}")
        return self.directory / self.manifest.files[role]


def load_bundle(directory: str | Path) -> Bundle:
    """Reads and verifies a bundle; opens no session.

    Raises:
        BundleError: what is missing, damaged or does not fit, and what to do.
    """
    directory = Path(directory).expanduser().resolve()
    manifest = read_manifest(directory)
    for name in manifest.file_names:
        verify_file(directory, name, manifest.sha256[name])
    for name in sorted({n for n in manifest.files.values() if n.endswith(".onnx")}):
        _verify_graph(directory, name, manifest)
    return Bundle(directory=directory, manifest=manifest, sha256=bundle_sha256(manifest))


def read_manifest(directory: Path) -> Manifest:
    """Reads ``manifest.yaml`` alone, without verifying any file.

    Raises:
        BundleError: missing, unreadable, no YAML, or it breaks the contract.
    """
    path = directory / MANIFEST_NAME
    try:
        if path.stat().st_size > _MAX_MANIFEST_BYTES:
            raise BundleError(f"{path} has more than {_MAX_MANIFEST_BYTES >> 20} MiB: that is no manifest")
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}): give the folder of a policy bundle") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BundleError(f"{path} is no valid YAML: {error}") from error
    return Manifest.from_dict(data)


def bundle_sha256(manifest: Manifest) -> str:
    """One hash over the files' names and hashes, in the order of names."""
    text = "".join(f"{name} {manifest.sha256[name]}\n" for name in manifest.file_names)
    return hashlib.sha256(text.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Hex digest of a file.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def verify_file(directory: Path, name: str, sha256: str) -> None:
    """Checks that ``name`` lies inside ``directory`` and has this hash.

    Raises:
        BundleError: missing, outside (by a link), or another hash.
    """
    path = directory / name
    if not path.resolve().is_relative_to(directory):
        raise BundleError(f"{path} is a link out of the bundle: copy the file into it")
    try:
        found = file_sha256(path)
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}): the manifest names it, copy the bundle again") from error
    if found != sha256:
        raise BundleError(f"{path} has sha256 {found}, the manifest says {sha256}: it is cut short or another file, copy the bundle again")


def _verify_graph(directory: Path, name: str, manifest: Manifest) -> None:
    facts = read_onnx_facts(directory / name)
    if facts.opset != manifest.opset:
        raise BundleError(f"{directory / name} uses opset {facts.opset}, the manifest says {manifest.opset}: export the bundle again")
    for location in facts.external_locations:
        if location not in manifest.file_names:
            raise BundleError(
                f"{directory / name} keeps tensors in {location!r}, which is no file of the manifest "
                f"(those are {list(manifest.file_names)}): weights must lie inside the bundle and have a hash"
            )
