# SPDX-License-Identifier: Apache-2.0
"""Settings of `vla train-image-tokens`, and its checkpoints read back into networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from vla_ros.core.errors import ConfigError
from vla_ros.model.image_tokens import ImageTokenizer, ImageTokenizerConfig, make_tokenizer
from vla_ros.model.mae import MaeConfig, MaskedAutoencoder
from vla_ros.model.vit import Vit, VitConfig
from vla_ros.train.checkpoint import load_checkpoint
from vla_ros.train.config import OptimConfig, read_section

MODELS = ("vqvae", "dvae", "mae")


@dataclass(frozen=True, kw_only=True)
class ImageRunConfig:
    """What is trained, and its budget: one of `max_minutes` and `max_steps` must be positive; the first one reached ends it.

    Attributes:
        model: one of `MODELS`.
        frames_per_batch: frames of a step, with the pictures of all cameras.
        val_fraction: share of whole episodes that is only validated on.
        temperature_start, temperature_end: of the dVAE's draws (its paper: 1 to 1/16), by a cosine over `anneal_fraction` of the budget.
    """

    model: str = "vqvae"
    max_minutes: float = 0.0
    max_steps: int = 0
    frames_per_batch: int = 16
    val_fraction: float = 0.03
    val_frames: int = 256
    validate_steps: int = 500
    checkpoint_minutes: float = 5.0
    log_steps: int = 20
    temperature_start: float = 1.0
    temperature_end: float = 0.0625
    anneal_fraction: float = 0.7
    seed: int = 0
    threads: int = 2

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise ConfigError(f"run.model is {self.model!r}: valid are {', '.join(MODELS)}")
        if self.max_minutes <= 0 and self.max_steps <= 0:
            raise ConfigError("a run needs a budget: set run.max_minutes or run.max_steps")


@dataclass(frozen=True, kw_only=True)
class ImageTrainConfig:
    """All sections; a run uses those of its model."""

    run: ImageRunConfig
    tokenizer: ImageTokenizerConfig = field(default_factory=ImageTokenizerConfig)
    vit: VitConfig = field(default_factory=VitConfig)
    mae: MaeConfig = field(default_factory=MaeConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ImageTrainConfig:
        """Reads the sections; raises ConfigError for an unknown section or key, a wrong type, or what another setting fixes."""
        kinds = {"run": ImageRunConfig, "tokenizer": ImageTokenizerConfig, "vit": VitConfig, "mae": MaeConfig, "optim": OptimConfig}
        unknown = sorted(set(values) - set(kinds))
        if unknown:
            raise ConfigError(f"unknown section {', '.join(unknown)}: valid are {', '.join(kinds)}")
        for section, key, why in (("tokenizer", "kind", "run.model says it"), ("vit", "cameras", "the data fix it"), ("vit", "frames", "a recorded frame stands alone")):
            if key in (values.get(section) or {}):
                raise ConfigError(f"remove {section}.{key}: {why}")
        built = {name: read_section(kind, name, values.get(name) or {}) for name, kind in kinds.items()}
        if built["run"].model != "mae":
            built["tokenizer"] = ImageTokenizerConfig(**{**asdict(built["tokenizer"]), "kind": built["run"].model})
        return cls(**built)

    def to_dict(self) -> dict[str, Any]:
        """Plain values that `from_dict` reads."""
        values = asdict(self)
        del values["tokenizer"]["kind"], values["vit"]["cameras"], values["vit"]["frames"]
        return values


def build_model(config: ImageTrainConfig) -> nn.Module:
    """A new network of `config.run.model`."""
    return MaskedAutoencoder(config.vit, config.mae) if config.run.model == "mae" else make_tokenizer(config.tokenizer)


def restore_image_tokenizer(path: Path) -> ImageTokenizer:
    """The VQ-VAE or dVAE of a checkpoint, in eval mode; raises ConfigError for a checkpoint of something else."""
    state = load_checkpoint(path)
    config = config_of(state, path)
    if config.run.model == "mae":
        raise ConfigError(f"{path} holds a masked autoencoder: give the checkpoint of a vqvae or dvae run")
    model = build_model(config)
    model.load_state_dict(state["image_model"])
    return model.eval()


def load_vit(path: Path, vit: Vit) -> None:
    """Copies the pre-trained encoder of a masked autoencoder into `vit`; every frame gets the embedding of the one that was trained.

    Raises:
        ConfigError: a checkpoint of something else, or of another shape.
    """
    state = load_checkpoint(path)
    config = config_of(state, path)
    if config.run.model != "mae":
        raise ConfigError(f"{path} holds a {config.run.model}: give the checkpoint of a mae run")
    weights = {name.removeprefix("vit."): tensor for name, tensor in state["image_model"].items() if name.startswith("vit.")}
    weights["frame_RE"] = weights["frame_RE"].expand(vit.config.frames, -1)
    try:
        vit.load_state_dict(weights)
    except RuntimeError as error:
        raise ConfigError(f"{path} holds a vision transformer of another shape ({config.vit}): use the same width, depth, heads and patch") from error


def config_of(state: dict[str, Any], path: Path | None = None) -> ImageTrainConfig:
    """The settings in a checkpoint; raises ConfigError if another command wrote it."""
    if "image_config" not in state:
        raise ConfigError(f"{path or 'the checkpoint'} was not written by `vla train-image-tokens`")
    return ImageTrainConfig.from_dict(state["image_config"])
