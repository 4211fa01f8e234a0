# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: one file each, written whole or not at all, read without unpickling code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from vla_ros.core.errors import ConfigError
from vla_ros.model.config import PolicyConfig
from vla_ros.model.cross_attention import make_policy
from vla_ros.model.policy import Policy

FORMAT_VERSION = 1
BEGUN_FROM = "begun_from"  # key of what is known of the policy with which a run began: a bundle's provenance
FOLDED = "folded"  # key of a state whose batch norms only shift: `settle_batch_norm` must measure what comes in before they are trained on

MISSING = "missing"  # key of the names of tensors in a state that a bundle did not hold: they are as a new network has them


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes `state` (tensors and plain values) beside `path`, then renames: a crash leaves the previous file whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        torch.save({"format_version": FORMAT_VERSION, **state}, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint.

    Raises:
        ConfigError: no such file, damaged, or of another format version.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise ConfigError(f"cannot read checkpoint {path}: {error}") from error
    version = state.get("format_version") if isinstance(state, dict) else None
    if version != FORMAT_VERSION:
        raise ConfigError(f"checkpoint {path} has format_version {version}, this release reads {FORMAT_VERSION}: train again")
    return state


def restore_policy(state: dict[str, Any]) -> Policy:
    """The averaged policy of a checkpoint, in eval mode."""
    policy = make_policy(PolicyConfig.from_dict(state["model_config"]))
    policy.load_state_dict(state["averaged"])
    return policy.eval()


def restore_tokenizer(state: dict[str, Any]) -> Tokenizer:
    """The tokenizer that the checkpoint's policy reads."""
    return Tokenizer.from_str(state["tokenizer"])
