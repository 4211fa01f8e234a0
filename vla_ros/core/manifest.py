# SPDX-License-Identifier: Apache-2.0
"""``manifest.yaml``: the whole contract between a policy bundle and a robot (format version 1).

Plain data in, frozen dataclasses out, with every fact checked. Files and hashes are compared with the disk
by the runtime, not here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from vla_ros.core.action import ActionSpec
from vla_ros.core.errors import BundleError, ConfigError
from vla_ros.core.observation import CameraSpec
from vla_ros.core.plan import PlanSpec
from vla_ros.core.schema import Fields
from vla_ros.core.text import PLACEHOLDER

FORMAT_VERSION = 1
DECODINGS = ("parallel", "autoregressive")
PROPRIO_SOURCES = ("joint", "tool")
TOOL_FIELDS = ("tool_x", "tool_y", "tool_z", "tool_yaw")
WHERE = "manifest.yaml"


@dataclass(frozen=True, kw_only=True)
class ProprioSpec:
    """One entry of the proprioception vector.

    Attributes:
        name: joint name, or one of ``TOOL_FIELDS``.
        unit: ``rad`` or ``m``.
        source: ``joint`` (measured) or ``tool`` (forward kinematics).
    """

    name: str
    unit: str
    source: str

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str) -> ProprioSpec:
        """Reads a plain mapping, raises ``BundleError``."""
        fields = Fields(data, where, BundleError)
        spec = cls(name=fields.text("name"), unit=fields.choice("unit", ("rad", "m")), source=fields.choice("source", PROPRIO_SOURCES))
        fields.finish()
        if spec.source == "tool" and spec.name not in TOOL_FIELDS:
            raise fields.refuse(f"a tool entry must be one of {list(TOOL_FIELDS)}, got {spec.name!r}")
        return spec


@dataclass(frozen=True, kw_only=True)
class VocabularySpec:
    """The one vocabulary of text and actions.

    Attributes:
        size: number of ids.
        first_action_token: id of bin 0.
        num_action_tokens: bins; ids ``[first, first + num)`` are actions.
        pad_token: id that pads the text.
        tokenizer: file name of the text tokenizer.
    """

    size: int
    first_action_token: int
    num_action_tokens: int
    pad_token: int
    tokenizer: str

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str) -> VocabularySpec:
        """Reads a plain mapping, raises ``BundleError``."""
        fields = Fields(data, where, BundleError)
        size = fields.integer("size", 2)
        spec = cls(
            size=size,
            first_action_token=fields.integer("first_action_token", 0, size - 1),
            num_action_tokens=fields.integer("num_action_tokens", 2, size),
            pad_token=fields.integer("pad_token", 0, size - 1),
            tokenizer=fields.text("tokenizer"),
        )
        fields.finish()
        if spec.first_action_token + spec.num_action_tokens > size:
            raise fields.refuse(f"action tokens end at {spec.first_action_token + spec.num_action_tokens}, vocabulary has {size} ids")
        if spec.first_action_token <= spec.pad_token < spec.first_action_token + spec.num_action_tokens:
            raise fields.refuse(f"pad_token {spec.pad_token} must not be an action token")
        return spec


@dataclass(frozen=True, kw_only=True)
class ContextSpec:
    """How the context window is shared, in tokens. ``text_tokens`` is the limit of a prompt."""

    length: int
    image_tokens: int
    text_tokens: int
    state_tokens: int
    action_tokens: int

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str) -> ContextSpec:
        """Reads a plain mapping, raises ``BundleError``."""
        fields = Fields(data, where, BundleError)
        spec = cls(
            length=fields.integer("length", 1),
            image_tokens=fields.integer("image_tokens", 0),
            text_tokens=fields.integer("text_tokens", 1),
            state_tokens=fields.integer("state_tokens", 0),
            action_tokens=fields.integer("action_tokens", 1),
        )
        fields.finish()
        used = spec.image_tokens + spec.text_tokens + spec.state_tokens + spec.action_tokens
        if used > spec.length:
            raise fields.refuse(f"parts need {used} tokens, length is {spec.length}")
        return spec


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A policy bundle's contract.

    Attributes:
        name: the bundle's name.
        description: one or two sentences for people.
        robot: name of the robot description it was trained for.
        cameras: in the order of the policy's inputs.
        proprio: entries of the proprioception vector, in order.
        action: dimensions, horizon and time step.
        vocabulary: ids of text and action tokens.
        plan: the policy's words before it acts, or None.
        prompt_template: text with ``{instruction}`` exactly once.
        decoding: one of ``DECODINGS``.
        context: how the context window is shared.
        norm_stats: informational; the graph applies them itself.
        files: role to file name; the role ``policy`` is required.
        sha256: file name to lower-case hex digest, for every file.
        opset: ONNX operator set of the default domain.
        provenance: how it was trained and measured; free form.
    """

    name: str
    description: str
    robot: str
    cameras: tuple[CameraSpec, ...]
    proprio: tuple[ProprioSpec, ...]
    action: ActionSpec
    vocabulary: VocabularySpec
    plan: PlanSpec | None
    prompt_template: str
    decoding: str
    context: ContextSpec
    files: dict[str, str]
    sha256: dict[str, str]
    opset: int
    norm_stats: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    @property
    def file_names(self) -> tuple[str, ...]:
        """Every file of the bundle that the contract covers, sorted."""
        return tuple(sorted({*self.files.values(), self.vocabulary.tokenizer}))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Manifest:
        """Reads and checks the parsed YAML.

        Raises:
            BundleError: naming the key, what was expected, what came, and the valid choices.
        """
        fields = Fields(data, WHERE, BundleError)
        version = fields.integer("format_version", 1)
        if version != FORMAT_VERSION:
            raise fields.refuse(f"format_version is {version}, this release reads {FORMAT_VERSION}: export the bundle again")
        try:
            manifest = cls._read(fields)
        except BundleError:
            raise
        except ConfigError as error:
            raise BundleError(str(error)) from error
        fields.finish()
        _check(manifest, fields)
        return manifest

    @classmethod
    def _read(cls, fields: Fields) -> Manifest:
        plan = fields.raw("plan", None)
        return cls(
            name=fields.text("name"),
            description=fields.text("description"),
            robot=fields.text("robot"),
            cameras=tuple(CameraSpec.from_dict(d, f"{WHERE}: cameras[{i}]") for i, d in enumerate(fields.items("cameras"))),
            proprio=tuple(ProprioSpec.from_dict(d, f"{WHERE}: proprio[{i}]") for i, d in enumerate(fields.items("proprio"))),
            action=ActionSpec.from_dict(fields.raw("action"), f"{WHERE}: action"),
            vocabulary=VocabularySpec.from_dict(fields.raw("vocabulary"), f"{WHERE}: vocabulary"),
            plan=None if plan is None else PlanSpec.from_dict(plan, f"{WHERE}: plan"),
            prompt_template=fields.text("prompt_template"),
            decoding=fields.choice("decoding", DECODINGS),
            context=ContextSpec.from_dict(fields.raw("context"), f"{WHERE}: context"),
            norm_stats=fields.mapping("norm_stats", default={}),
            files=fields.mapping("files"),
            sha256=fields.mapping("sha256"),
            opset=fields.integer("opset", 1),
            provenance=fields.mapping("provenance", default={}),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for YAML; the inverse of ``from_dict``."""
        return {
            "format_version": self.format_version,
            "name": self.name,
            "description": self.description,
            "robot": self.robot,
            "cameras": [camera.to_dict() for camera in self.cameras],
            "proprio": [asdict(entry) for entry in self.proprio],
            "action": self.action.to_dict(),
            "vocabulary": asdict(self.vocabulary),
            **({} if self.plan is None else {"plan": self.plan.to_dict()}),
            "prompt_template": self.prompt_template,
            "decoding": self.decoding,
            "context": asdict(self.context),
            "norm_stats": self.norm_stats,
            "files": dict(self.files),
            "sha256": dict(self.sha256),
            "opset": self.opset,
            "provenance": self.provenance,
        }


def _check(manifest: Manifest, fields: Fields) -> None:
    """Facts that span several keys."""
    names = [camera.name for camera in manifest.cameras]
    if len(set(names)) != len(names):
        raise fields.refuse(f"cameras must have different names, got {names}")
    entries = [entry.name for entry in manifest.proprio]
    if len(set(entries)) != len(entries):
        raise fields.refuse(f"proprio entries must have different names, got {entries}")
    if manifest.prompt_template.count(PLACEHOLDER) != 1:
        raise fields.refuse(f"prompt_template must contain {PLACEHOLDER} exactly once, got {manifest.prompt_template!r}")
    if manifest.vocabulary.num_action_tokens != manifest.action.num_bins:
        raise fields.refuse(
            f"vocabulary has {manifest.vocabulary.num_action_tokens} action tokens, action dimensions have {manifest.action.num_bins} bins"
        )
    if manifest.context.action_tokens < manifest.action.num_tokens:
        raise fields.refuse(f"context.action_tokens is {manifest.context.action_tokens}, a chunk needs {manifest.action.num_tokens}")
    _check_files(manifest, fields)


def _check_files(manifest: Manifest, fields: Fields) -> None:
    if "policy" not in manifest.files:
        raise fields.refuse(f"files needs the role 'policy', got {sorted(manifest.files)}")
    for name in manifest.file_names:
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*", name):
            raise fields.refuse(f"file name {name!r} must be a plain name inside the bundle, without folders")
        digest = manifest.sha256.get(name)
        if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise fields.refuse(f"sha256 of '{name}' must be 64 lower-case hex digits, got {digest!r}")
    extra = sorted(set(manifest.sha256) - set(manifest.file_names))
    if extra:
        raise fields.refuse(f"sha256 names files that 'files' does not: {extra}")
