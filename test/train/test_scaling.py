# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch
import yaml

from vla_ros.core.errors import ConfigError
from vla_ros.train.config import TrainConfig, read_values
from vla_ros.train.data import Dataset, is_held_out
from vla_ros.train.scaling import Grid, PartOfDataset, ScalingStudy, count_flop, fit_results, main, performance_of, plot_results
from vla_ros.train.trainer import Trainer

MODELS = [{"width": 16, "heads": 2}, {"width": 32, "heads": 2}]


def grid_of(**changes) -> dict:
    return {"models": MODELS, "data_fractions": [0.3, 1.0], "compute_flop": [2e8, 8e8], **changes}


def made_up(count: int = 12, exponents: tuple[float, float, float] = (0.2, 0.1, 0.05)) -> list[dict]:
    rng = np.random.default_rng(0)
    results = []
    for _ in range(count):
        n, d, t = int(rng.choice([1e5, 1e6])), int(rng.choice([1e3, 1e4])), int(10 ** rng.uniform(11, 13))
        p = 0.01 * n ** exponents[0] * d ** exponents[1] * t ** exponents[2]
        results.append({"N": n, "D": d, "T": t, "metrics": {"loss_action": 1 / p, "phase_accuracy": 0.5 * p, "zero_mm": 0.0}})
    return results


def test_a_larger_part_holds_every_smaller_one_and_the_held_out_stay(dataset_folder):
    whole = Dataset([dataset_folder], val_fraction=0.3)
    episodes = []
    for fraction in (0.2, 0.6, 1.0):
        part = PartOfDataset([dataset_folder], 0.3, fraction)
        rng = np.random.default_rng(0)
        drawn = {int(e) for _ in range(20) for shard, rows in part.draw(rng, 30) for e in shard.arrays["episode"][rows]}
        episodes.append(drawn)
        assert part.num_frames() == 4 * len(drawn)  # four frames each, all drawn at least once in 600
        assert not is_held_out(np.array(sorted(drawn)), 0.3).any()
        assert part.num_frames(held_out=True) == whole.num_frames(held_out=True)
    assert episodes[0] < episodes[1] < episodes[2]
    assert part.num_frames() == whole.num_frames()


def test_a_part_without_episodes_is_refused(dataset_folder):
    with pytest.raises(ConfigError, match="grid.data_fractions"):
        PartOfDataset([dataset_folder], 0.3, 1e-6)


def test_operations_of_a_step_are_counted_and_the_model_stays(dataset_folder, tmp_path, tiny_settings):
    settings = {**tiny_settings, "data": {**tiny_settings["data"], "frames_per_batch": 2}}
    trainer = Trainer(TrainConfig.from_dict(settings), Dataset([dataset_folder], val_fraction=0.3), tmp_path / "out")
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    random_state = torch.get_rng_state()
    flop = count_flop(trainer)
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    settings["data"]["frames_per_batch"] = 4
    double = Trainer(TrainConfig.from_dict(settings), Dataset([dataset_folder], val_fraction=0.3), tmp_path / "out")
    # proportional to the batch, apart from its length of text, and the vocabulary's own products
    assert 1.8 < count_flop(double) / flop < 2.1
    # the first convolution alone, forward: 2 frames * (32*32 + 16*16) places * 3*4*4 * 4 channels, two operations each
    assert flop > 3 * 2 * 2 * (32 * 32 + 16 * 16) * 3 * 4 * 4 * 4


def test_the_fit_finds_the_exponents_of_made_up_runs():
    law = fit_results(made_up(), "loss_action", "student")
    assert [law.exponents[name].value for name in "NDT"] == pytest.approx([0.2, 0.1, 0.05], abs=1e-9)


def test_performance_grows_when_things_get_better():
    results = made_up()
    falling, rising = performance_of(results, "loss_action"), performance_of(results, "phase_accuracy")
    np.testing.assert_allclose(rising, 0.5 * np.array(falling))
    with pytest.raises(ConfigError, match="no metric x_mm: valid are loss_action, phase_accuracy, zero_mm"):
        performance_of(results, "x_mm")
    with pytest.raises(ConfigError, match="positive finite"):
        fit_results(results, "zero_mm", "student")


def test_the_plot_has_a_panel_a_variable_and_one_of_the_fit(tmp_path):
    results = made_up()
    plot_results(tmp_path / "p.svg", results, fit_results(results, "loss_action", "student"), "loss_action")
    root = ElementTree.parse(tmp_path / "p.svg").getroot()
    svg = "{http://www.w3.org/2000/svg}"
    assert len(root.findall(f".//{svg}circle")) == 4 * len(results)
    assert len(root.findall(f".//{svg}polyline")) == 4
    texts = [text.text for text in root.findall(f".//{svg}text")]
    assert {"N, parameters", "D, frames", "T, operations", "fitted P", "exponent 0.20 [0.20, 0.20]"} <= set(texts)


@pytest.mark.slow
def test_a_small_study_runs_fits_and_is_not_repeated(dataset_folder, tmp_path, tiny_settings):
    config = tmp_path / "scaling.yaml"
    settings = {**tiny_settings, "grid": grid_of()}
    settings["model"] = {"depth": 3, "vision_depth": 2, "stem_channels": [4, 8]}
    settings["data"] = {**settings["data"], "frames_per_batch": 2}
    config.write_text(yaml.safe_dump(settings))
    arguments = ["--config", str(config), "--data", str(dataset_folder), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--json", str(tmp_path / "r.json")]) == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert report == json.loads((tmp_path / "out" / "scaling.json").read_text())
    assert len(report["runs"]) == 8 and report["fit"]["runs"] == 8
    for run in report["runs"]:
        assert run["T"] == pytest.approx(float(run["name"].split("flop")[1].split("_")[0]), rel=0.5)  # whole steps, few of them
        assert run["steps"] >= 1
    assert len({run["N"] for run in report["runs"]}) == len({run["D"] for run in report["runs"]}) == 2
    for exponent in report["fit"]["exponents"].values():
        assert exponent["ci95"][0] <= exponent["value"] <= exponent["ci95"][1]
    assert (tmp_path / "out" / "scaling.svg").exists()
    first = tmp_path / "out" / "runs" / report["runs"][0]["name"] / "metrics.jsonl"
    before = first.read_bytes()
    assert main(arguments) == 0
    assert first.read_bytes() == before


def test_a_study_that_is_stopped_says_which_runs_are_finished(dataset_folder, tmp_path, tiny_settings):
    study = ScalingStudy(TrainConfig.from_dict(tiny_settings), Grid.from_dict(grid_of()), [dataset_folder], tmp_path / "out")
    study.stop_requested = True
    assert study.run() == []


def test_compute_that_is_less_than_a_step_is_refused(dataset_folder, tmp_path, tiny_settings):
    study = ScalingStudy(TrainConfig.from_dict(tiny_settings), Grid.from_dict(grid_of(compute_flop=[10.0, 20.0])), [dataset_folder], tmp_path / "out")
    with pytest.raises(ConfigError, match="less than one step"):
        study.run()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (grid_of(models=[{}]), "grid.models needs at least two"),
        (grid_of(data_fractions=[0.5, 1.5]), "must lie in 0..1"),
        (grid_of(compute_flop=[0, 1]), "must be positive"),
        (grid_of(interval="bayes"), "student, bootstrap"),
        (grid_of(wat=1), "unknown setting grid.wat"),
        (grid_of(compute_flop=3), "lists of numbers"),
        ({"models": MODELS}, "grid.data_fractions, grid.compute_flop missing"),
    ],
)
def test_wrong_grids_are_refused(values, words):
    with pytest.raises(ConfigError, match=words):
        Grid.from_dict(values)


def test_the_shipped_grid_is_valid(pytestconfig):
    values = read_values(pytestconfig.rootpath / "config" / "train" / "scaling.yaml")
    grid = Grid.from_dict(values.pop("grid"))
    TrainConfig.from_dict(values)
    names = [name for name, *_ in grid.points()]
    assert len(set(names)) == len(names) == 18
