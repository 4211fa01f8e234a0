# SPDX-License-Identifier: Apache-2.0
"""``manifest.yaml``: the whole contract between a policy bundle and a robot (format versions 1 and 2).

Version 2 adds what imported models need: ``output``, ``codec`` and ``prompt``, graphs with a cache, bundles without
proprioception, and continuous ones without a vocabulary; and ``frames``, several pictures of each camera. A bundle that needs none of it stays at version 1.

Plain data in, frozen dataclasses out, with every fact checked. Files and hashes are compared with the disk
by the runtime, not here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from vla_ros.core.action import ActionSpec
from vla_ros.core.action_codec import OUTPUTS, PromptSpec, QuantileCodecSpec
from vla_ros.core.errors import BundleError, ConfigError
from vla_ros.core.observation import CameraSpec
from vla_ros.core.plan import PlanSpec
from vla_ros.core.schema import Fields
from vla_ros.core.text import PLACEHOLDER

FORMAT_VERSION = 1
EXTENDED_VERSION = 2
DECODINGS = ("parallel", "autoregressive")
PROPRIO_SOURCES = ("joint", "tool")
MAX_FRAMES = 16
POLICY, PREFILL, DECODE = "policy", "prefill", "decode"
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
        files: role to file name; ``policy``, or ``prefill`` and ``decode``.
        sha256: file name to lower-case hex digest, for every file.
        opset: ONNX operator set of the default domain.
        provenance: how it was trained and measured; free form.
        output: ``tokens``, or ``continuous``: the graph gives actions in the dimensions' units.
        codec: what the action tokens mean; None: uniform bins.
        prompt: what happens to a prompt besides the template; None: nothing.
        frames: pictures of each camera, the newest and past ones, an action step apart.

    ``vocabulary``, ``context`` are None and ``prompt_template`` is empty where a continuous policy reads no text.
    """

    name: str
    description: str
    robot: str
    cameras: tuple[CameraSpec, ...]
    proprio: tuple[ProprioSpec, ...]
    action: ActionSpec
    vocabulary: VocabularySpec | None
    plan: PlanSpec | None
    prompt_template: str
    decoding: str
    context: ContextSpec | None
    files: dict[str, str]
    sha256: dict[str, str]
    opset: int
    norm_stats: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION
    output: str = "tokens"
    codec: QuantileCodecSpec | None = None
    prompt: PromptSpec | None = None
    frames: int = 1

    @property
    def file_names(self) -> tuple[str, ...]:
        """Every file of the bundle that the contract covers, sorted."""
        tokenizer = () if self.vocabulary is None else (self.vocabulary.tokenizer,)
        return tuple(sorted({*self.files.values(), *tokenizer}))

    @property
    def is_cached(self) -> bool:
        """One graph reads the observation and another one says token after token."""
        return PREFILL in self.files

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Manifest:
        """Reads and checks the parsed YAML.

        Raises:
            BundleError: naming the key, what was expected, what came, and the valid choices.
        """
        fields = Fields(data, WHERE, BundleError)
        version = fields.integer("format_version", 1)
        if version not in (FORMAT_VERSION, EXTENDED_VERSION):
            raise fields.refuse(
                f"format_version is {version}, this release reads {FORMAT_VERSION} and {EXTENDED_VERSION}: export the bundle again, or update vla_ros"
            )
        try:
            manifest = cls._read(fields, version)
        except BundleError:
            raise
        except ConfigError as error:
            raise BundleError(str(error)) from error
        fields.finish()
        _check(manifest, fields)
        return manifest

    @classmethod
    def _read(cls, fields: Fields, version: int) -> Manifest:
        plan = fields.raw("plan", None)
        extended = _extensions(fields) if version == EXTENDED_VERSION else {}
        if extended.get("output") == "continuous" and fields.raw("vocabulary", None) is None:
            text = {"vocabulary": None, "context": fields.raw("context", None), "prompt_template": fields.text("prompt_template", "")}
            if text["context"] is not None or text["prompt_template"]:
                raise fields.refuse("'context' and 'prompt_template' need a 'vocabulary': leave them out, or give all three")
        else:
            text = {
                "vocabulary": VocabularySpec.from_dict(fields.raw("vocabulary"), f"{WHERE}: vocabulary"),
                "context": ContextSpec.from_dict(fields.raw("context"), f"{WHERE}: context"),
                "prompt_template": fields.text("prompt_template"),
            }
        proprio = fields.items("proprio", empty=version == EXTENDED_VERSION)
        return cls(
            format_version=version,
            name=fields.text("name"),
            description=fields.text("description"),
            robot=fields.text("robot"),
            cameras=tuple(CameraSpec.from_dict(d, f"{WHERE}: cameras[{i}]") for i, d in enumerate(fields.items("cameras"))),
            proprio=tuple(ProprioSpec.from_dict(d, f"{WHERE}: proprio[{i}]") for i, d in enumerate(proprio)),
            action=ActionSpec.from_dict(fields.raw("action"), f"{WHERE}: action"),
            plan=None if plan is None else PlanSpec.from_dict(plan, f"{WHERE}: plan"),
            decoding=fields.choice("decoding", DECODINGS),
            norm_stats=fields.mapping("norm_stats", default={}),
            files=fields.mapping("files"),
            sha256=fields.mapping("sha256"),
            opset=fields.integer("opset", 1),
            provenance=fields.mapping("provenance", default={}),
            **text,
            **extended,
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
            **({"output": self.output} if self.format_version == EXTENDED_VERSION else {}),
            **({} if self.frames == 1 else {"frames": self.frames}),
            **({} if self.codec is None else {"codec": self.codec.to_dict()}),
            **({} if self.vocabulary is None else {"vocabulary": asdict(self.vocabulary)}),
            **({} if self.plan is None else {"plan": self.plan.to_dict()}),
            **({"prompt_template": self.prompt_template} if self.prompt_template else {}),
            **({} if self.prompt is None else {"prompt": self.prompt.to_dict()}),
            "decoding": self.decoding,
            **({} if self.context is None else {"context": asdict(self.context)}),
            "norm_stats": self.norm_stats,
            "files": dict(self.files),
            "sha256": dict(self.sha256),
            "opset": self.opset,
            "provenance": self.provenance,
        }


def _extensions(fields: Fields) -> dict[str, Any]:
    codec, prompt = fields.raw("codec", None), fields.raw("prompt", None)
    return {
        "output": fields.choice("output", OUTPUTS, "tokens"),
        "codec": None if codec is None else QuantileCodecSpec.from_dict(codec, f"{WHERE}: codec"),
        "prompt": None if prompt is None else PromptSpec.from_dict(prompt, f"{WHERE}: prompt"),
        "frames": fields.integer("frames", 1, MAX_FRAMES, default=1),
    }


def _check(manifest: Manifest, fields: Fields) -> None:
    """Facts that span several keys."""
    names = [camera.name for camera in manifest.cameras]
    if len(set(names)) != len(names):
        raise fields.refuse(f"cameras must have different names, got {names}")
    entries = [entry.name for entry in manifest.proprio]
    if len(set(entries)) != len(entries):
        raise fields.refuse(f"proprio entries must have different names, got {entries}")
    _check_files(manifest, fields)
    if manifest.vocabulary is not None:
        _check_text(manifest, fields)
    if manifest.output == "continuous" and (manifest.codec is not None or manifest.decoding != "parallel"):
        raise fields.refuse("a continuous output has no codec and its decoding is parallel")
    if manifest.frames > 1 and manifest.format_version != EXTENDED_VERSION:
        raise fields.refuse(f"several frames need format_version {EXTENDED_VERSION}")
    if manifest.codec is not None and manifest.codec.statistics.num_dims != manifest.action.num_dims:
        raise fields.refuse(
            f"codec has statistics of {manifest.codec.statistics.num_dims} dimensions, the action has {manifest.action.num_dims}"
        )


def _check_text(manifest: Manifest, fields: Fields) -> None:
    if manifest.prompt_template.count(PLACEHOLDER) != 1:
        raise fields.refuse(f"prompt_template must contain {PLACEHOLDER} exactly once, got {manifest.prompt_template!r}")
    if manifest.vocabulary.num_action_tokens != manifest.action.num_bins:
        raise fields.refuse(
            f"vocabulary has {manifest.vocabulary.num_action_tokens} action tokens, action dimensions have {manifest.action.num_bins} bins"
        )
    if manifest.context.action_tokens < manifest.action.num_tokens:
        raise fields.refuse(f"context.action_tokens is {manifest.context.action_tokens}, a chunk needs {manifest.action.num_tokens}")
    extra = (
        []
        if manifest.prompt is None
        else [i for i in (*manifest.prompt.prefix_ids, *manifest.prompt.suffix_ids) if i >= manifest.vocabulary.size]
    )
    if extra:
        raise fields.refuse(f"prompt adds the id {extra[0]}, the vocabulary has {manifest.vocabulary.size}")


def _check_graphs(manifest: Manifest, fields: Fields) -> None:
    """Which graphs there must be; in version 1 one, whatever the decoding."""
    is_extended = manifest.format_version == EXTENDED_VERSION
    cached = is_extended and manifest.decoding == "autoregressive"
    wanted = (PREFILL, DECODE) if cached else (POLICY,)
    for role in wanted:
        if role not in manifest.files:
            raise fields.refuse(
                f"files needs the role '{role}' for {manifest.decoding} decoding, got {sorted(manifest.files)}: import or export the bundle again"
            )
    unknown = sorted(role for role, name in manifest.files.items() if role not in wanted and str(name).endswith(".onnx"))
    if is_extended and unknown:
        raise fields.refuse(
            f"files has graphs that this release does not run: {unknown}. For {manifest.decoding} decoding they are {list(wanted)}: "
            "update vla_ros, or import the bundle again"
        )


def _check_files(manifest: Manifest, fields: Fields) -> None:
    for role, name in manifest.files.items():
        if not isinstance(name, str):
            raise fields.refuse(f"files: '{role}' must be the name of a file, got {name!r}")
    _check_graphs(manifest, fields)
    for name in manifest.file_names:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*", name):
            raise fields.refuse(f"file name {name!r} must be a plain name inside the bundle, without folders")
        digest = manifest.sha256.get(name)
        if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise fields.refuse(f"sha256 of '{name}' must be 64 lower-case hex digits, got {digest!r}")
    extra = sorted(set(manifest.sha256) - set(manifest.file_names))
    if extra:
        raise fields.refuse(f"sha256 names files that 'files' does not: {extra}")
