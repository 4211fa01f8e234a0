# SPDX-License-Identifier: Apache-2.0
"""What an ablation study compares: variants of one training, each a few changed settings. Read from one YAML file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla_ros.core.errors import ConfigError
from vla_ros.core.schema import Fields
from vla_ros.train.config import TrainConfig, read_values
from vla_ros.train.image_config import ImageTrainConfig

SECTIONS = ("model", "data", "loss", "optim", "run")
CHECKPOINTS = ("image_tokens", "vision_init")  # settings of the section run that name a pre-trained image model


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One row of the table.

    Attributes:
        name: of its folder.
        idea: what is different, for people.
        sections: all settings, the common ones included.
        pretrained: which image model `run.image_tokens` or `run.vision_init` stands for.
    """

    name: str
    idea: str
    sections: dict[str, dict[str, Any]]
    pretrained: dict[str, str]

    def train_config(self, seed: int, checkpoints: Mapping[str, Path]) -> TrainConfig:
        """The run's settings; `checkpoints` has every image model's file."""
        run = {**self.sections.get("run", {}), "seed": seed, **{key: str(checkpoints[name]) for key, name in self.pretrained.items()}}
        return TrainConfig.from_dict({**self.sections, "run": run})


@dataclass(frozen=True, kw_only=True)
class Study:
    """All variants, with the same seeds, data, number of steps and evaluation.

    Attributes:
        variants: the first one is what the others are compared with.
        images: settings of the image models that some start from, by name.
        seeds: of each variant.
        episodes: of each trained policy in closed loop; 0 = none.
        evaluation_seed, split: of the scenes, as `vla evaluate` has them.
    """

    variants: tuple[Variant, ...]
    images: dict[str, ImageTrainConfig]
    seeds: tuple[int, ...]
    episodes: int
    evaluation_seed: int
    split: str

    def choose(self, names: list[str] | None) -> tuple[Variant, ...]:
        """The variants with these names, or all; raises ConfigError listing them."""
        known = [variant.name for variant in self.variants]
        unknown = sorted(set(names or ()) - set(known))
        if unknown:
            raise ConfigError(f"no variant {', '.join(unknown)}: there are {', '.join(known)}")
        return tuple(variant for variant in self.variants if not names or variant.name in names)


def read_study(path: Path, overrides: list[str]) -> Study:
    """Reads the YAML file, with `section.key=value` overrides of the common settings.

    Raises:
        ConfigError: unreadable, a key that is missing or unknown, or settings that no training could have.
    """
    values = read_values(path, overrides)
    common = {name: dict(values.pop(name, None) or {}) for name in SECTIONS}
    fields = Fields(values, str(path))
    images = {name: ImageTrainConfig.from_dict(settings) for name, settings in fields.mapping("images", default={}).items()}
    study = Fields(fields.raw("study"), f"{path}: study")
    result = Study(
        variants=tuple(_variant(name, entry, common, images, str(path)) for name, entry in fields.mapping("variants").items()),
        images=images,
        seeds=tuple(int(seed) for seed in study.raw("seeds", [0])),
        episodes=study.integer("episodes", 0, 500),
        evaluation_seed=study.integer("evaluation_seed", 0, 9_999, 0),
        split=study.choice("split", ("seen", "unseen"), "seen"),
    )
    study.finish()
    fields.finish()
    if not result.variants or not result.seeds:
        raise ConfigError(f"{path}: give at least one variant and one seed")
    return result


def _variant(name: str, entry: Any, common: dict[str, dict[str, Any]], images: Mapping[str, Any], where: str) -> Variant:
    fields = Fields(entry, f"{where}: variants.{name}")
    if not re.fullmatch(r"[a-z0-9_]+", name):
        raise fields.refuse("a name has small letters, digits and _ only")
    changes = {section: fields.mapping(section, default={}) for section in SECTIONS}
    pretrained = {str(key): str(value) for key, value in fields.mapping("pretrained", default={}).items()}
    variant = Variant(
        name=name, idea=fields.text("idea"), sections={section: {**common[section], **changes[section]} for section in SECTIONS}, pretrained=pretrained
    )
    fields.finish()
    unknown = sorted(set(pretrained) - set(CHECKPOINTS)) + sorted(set(pretrained.values()) - set(images))
    if unknown:
        raise fields.refuse(f"pretrained: {', '.join(unknown)}: valid settings are {', '.join(CHECKPOINTS)}, image models {', '.join(images) or 'none'}")
    config = variant.train_config(0, dict.fromkeys(images, Path("unused")))
    if config.run.max_steps <= 0 or config.run.max_minutes > 0:
        raise fields.refuse("a fair budget is a number of steps: set run.max_steps, and leave run.max_minutes out")
    return variant
