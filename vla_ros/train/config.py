# SPDX-License-Identifier: Apache-2.0
"""Settings of a training run: YAML file, then `section.key=value` overrides. Every default exists once, here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from vla_ros.core.errors import ConfigError


DEVICES = ("cpu", "cuda")
PRECISIONS = ("float32", "bfloat16")
ONLY = ("", "answers")  # what a run trains; the first is everything
ACTION_BINS = ("uniform", "quantile")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Batches and augmentation.

    Attributes:
        frames_per_batch: pictures of one step.
        labels_per_frame: instructions of each picture, drawn from the K recorded ones (K if there are fewer).
        val_fraction: share of whole episodes that is only validated on.
        brightness: half range of the offset added to a picture's pixels, in parts of full scale.
        contrast: half range of the factor around mid-grey.
        tint: half range of each colour channel's own factor.
        foreign_words: chance that a prompt has one to three text ids inserted that no instruction uses.
        proprio_dropout: chance that a frame's state is withheld, so that the policy does not ignore the pictures.
        touch_dropout: chance that a frame's contact forces count as not measured, which they are where a bundle is run: it has no such input yet.
        told_probability: chance that the plan token is told the true place, so that acting is learned before pointing is (teacher forcing).
        told_noise: standard deviation of the place that it is told, in parts of the plan's bounds.
        rescan_s: how often the dataset folders are searched for new shards; 0 = never.
        question_frames: pictures with questions of one step, where `vla train --questions` gives some.
        questions_per_frame: questions of each, drawn from the recorded ones.
        action_bins: `uniform` splits the bounds that the data declare, `quantile` those in which 98 % of the recorded actions lie.
    """

    frames_per_batch: int = 32
    labels_per_frame: int = 8
    val_fraction: float = 0.03
    brightness: float = 0.08
    contrast: float = 0.15
    tint: float = 0.05
    foreign_words: float = 0.1
    proprio_dropout: float = 0.1
    touch_dropout: float = 0.5
    told_probability: float = 0.5
    told_noise: float = 0.012
    rescan_s: float = 60.0
    question_frames: int = 8
    questions_per_frame: int = 4
    action_bins: str = "uniform"

    def __post_init__(self) -> None:
        if self.action_bins not in ACTION_BINS:
            raise ConfigError(f"data.action_bins is {self.action_bins!r}: valid are {', '.join(ACTION_BINS)}")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the loss's parts, and the smoothing of its targets.

    Attributes:
        action: weight of the action tokens' cross-entropy.
        plan: weight of the plan (language) part.
        pointing: weight, inside the plan part, of the distance between pointed and true place, in parts of the bounds.
        vision: weight of the colours and kinds seen in each cell of the first camera.
        offset: weight, inside the vision part, of where in its cell an object's centre lies.
        sigma_bins: width of the Gaussian around a target, in bins (HL-Gauss, arXiv 2403.03950, advises 0.75 bins or more).
        early_steps: first free steps of a chunk that count more, since they are executed before a new chunk arrives.
        early_weight: how much more.
        continuous: weight of the continuous action head, where model.action_head names one.
        balance: weight of the load balance, where model.feed_forward is moe (Switch: 0.01).
        language: weight of the answers to questions, where `vla train --questions` gives some.
        objects: weight of where the eye for questions sees the objects, where model.answer_eye gives them one.
    """

    action: float = 1.0
    plan: float = 0.3
    pointing: float = 3.0
    vision: float = 0.5
    offset: float = 1.0
    sigma_bins: float = 1.5
    early_steps: int = 2
    early_weight: float = 1.5
    continuous: float = 1.0
    balance: float = 0.01
    language: float = 0.5
    objects: float = 1.0


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW with warm-up and cosine decay."""

    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    beta1: float = 0.9
    beta2: float = 0.95
    warmup_steps: int = 100
    final_fraction: float = 0.02
    grad_clip: float = 1.0
    ema_decay: float = 0.999


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Budget and bookkeeping. One of `max_minutes` and `max_steps` must be positive; the first one reached ends the run.

    The first `vision_fraction` of the budget trains what the vision tokens say, alone: it is cheap, and words find their objects at once
    when they come. `image_tokens` and `vision_init` name checkpoints of `vla train-image-tokens`: the tokenizer of model.stem tokens, and
    the masked autoencoder from which the vision transformer of model.stem vit starts. `only` answers trains what questions have of their own
    (model.answer_depth) and leaves the policy as it is. `precision` bfloat16 multiplies matrices in half the
    bits (mixed precision); weights and their updates stay float32. It and `device` cuda have not been run on a GPU yet. With `max_minutes` the learning rate follows the time spent training, so that a slower machine still ends its decay.
    """

    max_minutes: float = 0.0
    max_steps: int = 0
    vision_fraction: float = 0.08
    validate_minutes: float = 2.0
    validate_steps: int = 0
    val_frames: int = 256
    checkpoint_minutes: float = 5.0
    log_steps: int = 20
    seed: int = 0
    threads: int = 2
    vocab_size: int = 512
    device: str = "cpu"
    precision: str = "float32"
    image_tokens: str = ""
    vision_init: str = ""
    only: str = ""

    def __post_init__(self) -> None:
        for name, value, choices in (("device", self.device, DEVICES), ("precision", self.precision, PRECISIONS), ("only", self.only, ONLY)):
            if value not in choices:
                raise ConfigError(f"run.{name} is {value!r}: valid are {', '.join(map(repr, choices) if '' in choices else choices)}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """All sections; `model` overrides fields of `vla_ros.model.PolicyConfig` that the data do not fix."""

    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)
    model: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for YAML and checkpoints."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Reads the sections; raises ConfigError for an unknown section or key, or a value of the wrong type."""
        sections = {"data": DataConfig, "loss": LossConfig, "optim": OptimConfig, "run": RunConfig}
        unknown = sorted(set(values) - set(sections) - {"model"})
        if unknown:
            raise ConfigError(f"unknown training section {', '.join(unknown)}: valid are {', '.join([*sections, 'model'])}")
        built = {name: read_section(kind, name, values.get(name) or {}) for name, kind in sections.items()}
        return cls(**built, model=dict(values.get("model") or {}))


def load_config(path: str | Path | None, overrides: Sequence[str] = ()) -> TrainConfig:
    """Reads a YAML file (None = defaults) and applies `section.key=value` overrides.

    Raises:
        ConfigError: file unreadable, unknown key, wrong type, or an override without `=`.
    """
    return TrainConfig.from_dict(read_values(path, overrides))


def read_values(path: str | Path | None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The plain values of `load_config`, sections unchecked."""
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        except (OSError, yaml.YAMLError) as error:
            raise ConfigError(f"cannot read training config {path}: {error}") from error
    for override in overrides:
        _apply(values, override)
    return values


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    section, dot, name = key.partition(".")
    if not equals or not dot:
        raise ConfigError(f"--set {override}: expected section.key=value, such as optim.learning_rate=0.001")
    values.setdefault(section, {})
    values[section] = {**(values[section] or {}), name: yaml.safe_load(text)}


def read_section(kind: type, name: str, values: Mapping[str, Any]) -> Any:
    """A settings dataclass from plain values; raises ConfigError for an unknown key or a value of the wrong type."""
    types = {item.name: type(item.default) for item in fields(kind)}
    unknown = sorted(set(values) - set(types))
    if unknown:
        raise ConfigError(f"unknown setting {name}.{', '.join(unknown)}: valid are {', '.join(types)}")
    return kind(**{key: _coerce(f"{name}.{key}", types[key], value) for key, value in values.items()})


def _coerce(name: str, kind: type, value: Any) -> Any:
    """YAML reads 1e-3 as text and 1 as an integer; both are fine where a float is due."""
    try:
        converted = kind(value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name} must be {kind.__name__}, got {value!r}") from error
    if isinstance(value, bool) or (kind is int and converted != float(value)):
        raise ConfigError(f"{name} must be {kind.__name__}, got {value!r}")
    return converted
