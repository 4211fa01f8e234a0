# SPDX-License-Identifier: Apache-2.0
"""The network's shape from settings, data and tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from vla_ros.core.action import ActionSpec
from vla_ros.core.embodiment import TABLETOP, Embodiment
from vla_ros.core.errors import ConfigError
from vla_ros.model.config import PolicyConfig
from vla_ros.train.action_bins import quantile_spec
from vla_ros.train.config import TrainConfig
from vla_ros.train.dataset import Dataset
from vla_ros.train.image_config import restore_image_tokenizer
from vla_ros.train.tokenizer import PAD_ID, word_ids

OF_DATA = ("vocab_size", "first_action_token", "pad_token", "action", "plan_phases", "seen_tokens", "seen_colours", "image_tokens")
OF_BODY = ("cameras", "proprio_dim", "proprio", "moved_state")


def model_settings(shape: Mapping[str, Any]) -> dict[str, Any]:
    """The `model` section that a network of this shape was trained with: what the data do not fix."""
    return {name: value for name, value in shape.items() if name not in OF_DATA + OF_BODY}


def policy_config(config: TrainConfig, dataset: Dataset, tokenizer: Tokenizer, earlier: PolicyConfig | None = None) -> PolicyConfig:
    """The network's shape: what the data fix, and the `model` section for the rest. Bounds of actions that data gave to an earlier policy stay."""
    meta, action = dataset.meta, _action_of(config, dataset, earlier)
    first_action_token = tokenizer.get_vocab_size()
    image_tokens = earlier.image_tokens if earlier else None
    if config.run.image_tokens and not earlier:
        image_tokens = restore_image_tokenizer(Path(config.run.image_tokens)).config.to_dict()
    codes = image_tokens["codes"] if image_tokens else 0
    fixed = {
        "image_tokens": image_tokens,
        "vocab_size": first_action_token + action.num_bins + codes,
        "first_action_token": first_action_token,
        "pad_token": PAD_ID,
        "action": action.to_dict(),
        "plan_phases": len(meta.phases),
        "seen_tokens": word_ids(tokenizer, [*meta.colours, *meta.kinds]),
        **({"seen_colours": len(meta.colours)} if config.model.get("answer_eye") else {}),
        **_of_body(meta.body),
    }
    clash = sorted({*fixed, "seen_colours"} & set(config.model))
    if clash:
        raise ConfigError(f"the data fix model.{', model.'.join(clash)}: remove these settings")
    return PolicyConfig.from_dict({**config.model, **fixed})


def _of_body(body: Embodiment) -> dict[str, Any]:
    """What another body than the tabletop's fixes: its cameras and its proprioception."""
    if body is TABLETOP:
        return {}
    return {
        "cameras": [camera.to_dict() for camera in body.cameras],
        "proprio_dim": len(body.proprio),
        "proprio": body.proprio_names,
        "moved_state": body.moved_state,
    }


def _action_of(config: TrainConfig, dataset: Dataset, earlier: PolicyConfig | None) -> ActionSpec:
    if config.data.action_bins == "uniform":
        return dataset.meta.action
    return earlier.action if earlier else quantile_spec(dataset)
