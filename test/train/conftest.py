# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from vla_ros.train.config import TrainConfig
from vla_ros.train.synthetic import write_dataset

TINY = {
    "model": {"width": 32, "depth": 3, "vision_depth": 2, "heads": 4, "stem_channels": [4, 8]},
    "data": {"frames_per_batch": 4, "labels_per_frame": 2, "val_fraction": 0.3, "rescan_s": 0},
    "optim": {"warmup_steps": 2},
    "run": {"max_steps": 4, "validate_steps": 1000, "val_frames": 4, "threads": 1, "log_steps": 1, "vision_fraction": 0.0},
}


@pytest.fixture
def dataset_folder(tmp_path: Path) -> Path:
    """Two shards of eight episodes of four frames, three labels each."""
    return write_dataset(tmp_path / "data", shards=2)


@pytest.fixture
def tiny_settings() -> dict:
    """Sections of a run that takes about a second; change and pass to `TrainConfig.from_dict`."""
    return {name: dict(section) for name, section in TINY.items()}


@pytest.fixture
def tiny_run(tiny_settings) -> TrainConfig:
    return TrainConfig.from_dict(tiny_settings)
