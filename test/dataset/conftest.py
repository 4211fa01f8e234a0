# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vla_ros.train.synthetic import write_dataset

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards of eight episodes of four frames, three labels each."""
    return write_dataset(tmp_path_factory.mktemp("shards") / "data", shards=2)
