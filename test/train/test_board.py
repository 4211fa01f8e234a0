# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys

import pytest

from vla_ros.core.errors import ConfigError
from vla_ros.train.board import Board
from vla_ros.train.data import Dataset
from vla_ros.train.trainer import Trainer


def test_without_a_folder_nothing_is_written(tmp_path):
    with Board() as board:
        board.draw({"kind": "training", "total": 1.0}, 1)
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(ConfigError, match=r"pip install tensorboard"):
        Board(tmp_path)


def test_a_run_can_be_read_by_tensorboard(dataset_folder, tmp_path, tiny_run):
    pytest.importorskip("tensorboard", reason="pip install .[tensorboard]")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with Board(tmp_path / "board") as board:
        Trainer(tiny_run, Dataset([dataset_folder], val_fraction=0.3), tmp_path / "out", board=board).run()
    events = EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    assert [event.step for event in events.Scalars("training/total")] == [1, 2, 3, 4]
    assert {"validation/loss_action", "training/learning_rate"} <= set(events.Tags()["scalars"])
