# SPDX-License-Identifier: Apache-2.0
"""Figures of a run for TensorBoard, if asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vla_ros.core.errors import ConfigError
from vla_ros.extras import how_to_install


class Board:
    """Writes event files into a folder; without a folder it does nothing. Use as a context manager.

    Raises:
        ConfigError: the package tensorboard is not installed.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._writer = None
        if folder is None:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError(f"--tensorboard needs the package tensorboard: {how_to_install('tensorboard')}") from error
        self._writer = SummaryWriter(str(folder))

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *unused: object) -> None:
        if self._writer:
            self._writer.close()

    def draw(self, values: Mapping[str, Any], step: int) -> None:
        """Adds one point to each figure, below the `kind` of the values: training or validation."""
        if self._writer:
            for name, value in values.items():
                if name != "kind":
                    self._writer.add_scalar(f"{values['kind']}/{name}", float(value), step)
