# SPDX-License-Identifier: Apache-2.0
"""Where configuration, launch files and policy bundles lie, in a clone and in an installation."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import vla_ros
from vla_ros.core.errors import ConfigError


def share_candidates() -> Iterator[Path]:
    """Places in the order of preference: source tree, ``sys.prefix``, each entry of ``AMENT_PREFIX_PATH``."""
    yield Path(vla_ros.__file__).resolve().parents[1]
    yield Path(sys.prefix) / "share" / "vla_ros"
    for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep):
        if prefix:
            yield Path(prefix) / "share" / "vla_ros"


def share_dir() -> Path:
    """The first place that holds ``config/robots``.

    Raises:
        ConfigError: listing the places that were searched.
    """
    for candidate in share_candidates():
        if (candidate / "config" / "robots").is_dir():
            return candidate
    places = ", ".join(str(candidate) for candidate in share_candidates())
    raise ConfigError(f"no config/robots found in {places}: install the package or source the workspace")


def robot_config_path(name: str) -> Path:
    """``config/robots/<name>.yaml``.

    Raises:
        ConfigError: listing the robots there are.
    """
    folder = share_dir() / "config" / "robots"
    path = folder / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError(f"no robot '{name}' in {folder}; there are {sorted(p.stem for p in folder.glob('*.yaml'))}")
    return path


def bundle_dir(model: str) -> Path:
    """A policy bundle's folder: ``model`` is a path, or a name below ``models/``.

    Raises:
        ConfigError: listing the bundles there are.
    """
    as_path = Path(model).expanduser()
    if (as_path / "manifest.yaml").is_file():
        return as_path
    models = share_dir() / "models"
    if (models / model / "manifest.yaml").is_file():
        return models / model
    known = sorted(p.parent.name for p in models.glob("*/manifest.yaml"))
    raise ConfigError(f"no policy bundle '{model}': give a folder with manifest.yaml or one of {known}")
