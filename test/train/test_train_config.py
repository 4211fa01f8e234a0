# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest

from vla_ros.core.errors import ConfigError
from vla_ros.core.paths import share_dir
from vla_ros.train.config import OptimConfig, TrainConfig, load_config
from vla_ros.train.optim import learning_rate


def test_overrides_win_over_the_file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("optim: {learning_rate: 5e-4}\nrun: {max_minutes: 3}\n")
    config = load_config(path, ["run.max_minutes=1", "model.width=64"])
    assert config.optim.learning_rate == 5e-4
    assert config.run.max_minutes == 1.0 and isinstance(config.run.max_minutes, float)
    assert config.model == {"width": 64}
    assert TrainConfig.from_dict(config.to_dict()) == config


def test_the_shipped_config_is_valid():
    assert load_config(share_dir() / "config" / "train" / "tabletop.yaml").run.max_minutes > 0


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optim.lr=1", "unknown setting optim.lr: valid are learning_rate"),
        ("optimizer.lr=1", "unknown training section optimizer: valid are data"),
        ("optim.learning_rate=fast", "optim.learning_rate must be float"),
        ("run.threads=1.5", "run.threads must be int"),
        ("run.threads=true", "run.threads must be int"),
        ("learning_rate=1", "section.key=value"),
        ("run.seed", "section.key=value"),
    ],
)
def test_a_wrong_override_says_what_is_valid(override, words):
    with pytest.raises(ConfigError, match=words):
        load_config(None, [override])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="none.yaml"):
        load_config(tmp_path / "none.yaml")


def test_schedule_warms_up_then_decays_to_its_floor():
    config = OptimConfig(learning_rate=1.0, warmup_steps=10, final_fraction=0.1)
    assert learning_rate(config, 0, 0.0) == pytest.approx(0.1)
    assert learning_rate(config, 9, 0.0) == pytest.approx(1.0)
    assert learning_rate(config, 100, 0.5) == pytest.approx(0.1 + 0.9 * 0.5)
    assert learning_rate(config, 100, 1.0) == pytest.approx(0.1)
    assert learning_rate(config, 100, 3.0) == pytest.approx(0.1)
    rates = [learning_rate(config, 100, p / 50) for p in range(51)]
    assert all(a >= b for a, b in zip(rates, rates[1:])) and not any(math.isnan(r) for r in rates)


@pytest.mark.parametrize("name", ["tabletop", "tabletop_questions", "tabletop_answers"])
def test_shipped_settings_can_be_read(name):
    config = load_config(share_dir() / "config" / "train" / f"{name}.yaml")
    assert bool(config.model.get("answer_tokens")) == (name != "tabletop")
