# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import yaml

from vla_ros.core.embodiment import TABLETOP
from vla_ros.core.errors import ConfigError
from vla_ros.core.paths import robot_config_path
from vla_ros.dataset.shard_writer import ShardWriter, default_meta
from vla_ros.robot.description import RobotDescription
from vla_ros.train.shards import read_meta

ROBOT = RobotDescription.load(robot_config_path("tabletop_arm"))


def test_imports_train_together_with_what_the_simulator_collects(tmp_path):
    pytest.importorskip("mujoco")
    from vla_ros.sim.collect import write_meta

    write_meta(tmp_path / "collected", 6, 10_000_000)
    (tmp_path / "imported").mkdir()
    (tmp_path / "imported" / "meta.yaml").write_text(yaml.safe_dump(default_meta(TABLETOP, ROBOT)), encoding="utf-8")
    read_meta(tmp_path / "imported").check_same(read_meta(tmp_path / "collected"), "imported")


def test_a_writer_without_episodes_says_so(tmp_path):
    with pytest.raises(ConfigError, match="no episode to write into"):
        ShardWriter(folder=tmp_path, name="x", meta=default_meta(TABLETOP, ROBOT)).close()
