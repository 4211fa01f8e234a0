# SPDX-License-Identifier: Apache-2.0
"""`vla scaling`: trains a grid of model, data and compute sizes and fits P = A * N^a * D^b * T^g.

N is the number of trained parameters, D the number of frames to train on, T the training's floating-point operations
(counted, not estimated). P is 1 / error for a metric that falls, else the metric itself, so that a positive exponent always
means that more helps. Every run is measured on the same held-out frames, whatever part of the data it trained on.

Leaves in the output folder: `runs/<name>/` (as `vla train`, with result.json), `scaling.json` and `scaling.svg`. Runs that have
a result are not repeated, and an interrupted one goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from vla_ros.core.errors import ConfigError
from vla_ros.train.checkpoint import load_checkpoint
from vla_ros.train.config import TrainConfig, read_values
from vla_ros.train.continual import measure
from vla_ros.train.data import BatchMaker, Dataset, is_held_out
from vla_ros.train.heap import keep_heap
from vla_ros.train.interrupt import StoppableStudy, StopOnSignal
from vla_ros.train.losses import PolicyLoss
from vla_ros.train.plot import COLOURS, Panel, Series, si_text, write_svg
from vla_ros.train.power_law import INTERVALS, PowerLaw, fit_power_law
from vla_ros.train.shards import Shard
from vla_ros.train.trainer import Trainer

_log = logging.getLogger(__name__)

VARIABLES = ("N", "D", "T")
LABELS = {"N": "N, parameters", "D": "D, frames", "T": "T, operations"}
RISING = ("accuracy", "recall", "precision")  # endings of metrics that are better when higher
GRID_KEYS = ("models", "data_fractions", "compute_flop", "seeds", "metric", "interval")


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What is varied.

    Attributes:
        models: changes of the config's `model` section, one for each size.
        data_fractions: parts of the training episodes, 0..1.
        compute_flop: floating-point operations of a whole run.
        seeds: of each combination.
        metric: name of a validation metric of `vla train`, such as `loss_action` or `x_first_mm`.
        interval: one of `INTERVALS`.
    """

    models: tuple[dict[str, Any], ...]
    data_fractions: tuple[float, ...]
    compute_flop: tuple[float, ...]
    seeds: tuple[int, ...] = (0,)
    metric: str = "loss_action"
    interval: str = "student"

    def __post_init__(self) -> None:
        for name in ("models", "data_fractions", "compute_flop"):
            if len(getattr(self, name)) < 2:
                raise ConfigError(f"grid.{name} needs at least two values, else its exponent cannot be told")
        if not all(0 < fraction <= 1 for fraction in self.data_fractions):
            raise ConfigError(f"grid.data_fractions must lie in 0..1, got {list(self.data_fractions)}")
        if not all(flop > 0 for flop in self.compute_flop):
            raise ConfigError(f"grid.compute_flop must be positive, got {list(self.compute_flop)}")
        if self.interval not in INTERVALS:
            raise ConfigError(f"grid.interval is {self.interval!r}: valid are {', '.join(INTERVALS)}")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Grid:
        """Reads the section `grid`; raises ConfigError for a key that is unknown or missing, or a value of the wrong type."""
        unknown = sorted(set(values) - set(GRID_KEYS))
        if unknown:
            raise ConfigError(f"unknown setting grid.{', '.join(unknown)}: valid are {', '.join(GRID_KEYS)}")
        missing = [key for key in GRID_KEYS[:3] if key not in values]
        if missing:
            raise ConfigError(f"grid.{', grid.'.join(missing)} missing: see config/train/scaling.yaml")
        try:
            return cls(
                models=tuple(dict(model) for model in values["models"]),
                data_fractions=tuple(float(value) for value in values["data_fractions"]),
                compute_flop=tuple(float(value) for value in values["compute_flop"]),
                seeds=tuple(int(value) for value in values.get("seeds", (0,))),
                metric=str(values.get("metric", "loss_action")),
                interval=str(values.get("interval", "student")),
            )
        except (TypeError, ValueError) as error:
            raise ConfigError(f"grid: models must be a list of settings, the others lists of numbers: {error}") from error

    def points(self) -> Iterator[tuple[str, dict[str, Any], float, float, int]]:
        """Name, model settings, data fraction, operations and seed of every run, small ones first."""
        sizes = itertools.product(enumerate(self.models), sorted(self.data_fractions), sorted(self.compute_flop), self.seeds)
        for (index, model), fraction, flop, seed in sizes:
            yield f"model{index}_data{fraction:g}_flop{flop:.3g}_seed{seed}", model, fraction, flop, seed


class PartOfDataset(Dataset):
    """A dataset of which only a part of the training episodes is drawn from. What is held out is the same for every part.

    Episodes are taken by a hash of their number, so that a larger part holds every smaller one.
    """

    def __init__(self, folders: Sequence[Path], val_fraction: float, fraction: float) -> None:
        super().__init__(folders, None, val_fraction)
        self._part: list[tuple[Shard, np.ndarray]] = []
        for shard in self.shards:
            episode_N = shard.arrays["episode"]
            # `is_held_out` takes hashes below val_fraction; of the others, up to 1, the lower part is taken here
            taken_N = is_held_out(episode_N, val_fraction + fraction * (1.0 - val_fraction)) & ~is_held_out(episode_N, val_fraction)
            if taken_N.any():
                self._part.append((shard, np.flatnonzero(taken_N)))
        if not self._part:
            raise ConfigError(f"{fraction:g} of the episodes are none at all: raise the smallest of grid.data_fractions or collect more")

    def num_frames(self, held_out: bool = False) -> int:
        """As `Dataset.num_frames`, of the part."""
        return super().num_frames(True) if held_out else sum(len(rows) for _, rows in self._part)

    def draw(self, rng: np.random.Generator, count: int, held_out: bool = False) -> list[tuple[Shard, np.ndarray]]:
        """As `Dataset.draw`, of the part."""
        if held_out:
            return super().draw(rng, count, True)
        size_X = np.array([len(rows) for _, rows in self._part], dtype=np.float64)
        chosen = rng.choice(len(size_X), size=count, p=size_X / size_X.sum())
        return [
            (shard, np.sort(rows[rng.integers(len(rows), size=int((chosen == index).sum()))]))
            for index, (shard, rows) in enumerate(self._part) if (chosen == index).any()
        ]


def count_flop(trainer: Trainer) -> int:
    """Floating-point operations of one training step: forward and backward passes, multiplications and additions counted apart.

    Only matrix products and convolutions count, as is usual. The model and its gradients stay as they were.
    """
    batch = trainer.on_device(trainer.maker.training_batch(0))
    state = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}  # batch norms move in a forward pass
    random_state = torch.get_rng_state()
    with FlopCounterMode(display=False) as counter:
        total, _ = trainer.loss(trainer.forward(trainer.model.train(), batch), batch)
        total.backward()
    trainer.optimizer.zero_grad(set_to_none=True)
    trainer.model.load_state_dict(state)
    torch.set_rng_state(random_state)
    return counter.get_total_flops()


class ScalingStudy(StoppableStudy):
    """All runs of a grid."""

    def __init__(self, config: TrainConfig, grid: Grid, folders: Sequence[Path], out: Path) -> None:
        super().__init__()
        self.config, self.grid, self.folders, self.out = config, grid, folders, out

    def run(self) -> list[dict[str, Any]]:
        """Results of all runs (fewer if `stop_requested`), each with N, D, T and the metrics."""
        results = []
        for name, model, fraction, flop, seed in tqdm(list(self.grid.points()), unit="run", disable=None):
            if self.stop_requested:
                break
            path = self.out / "runs" / name / "result.json"
            if not path.exists():
                result = self._train(path.parent, model, fraction, flop, seed)
                if result is None:
                    break
                part = path.with_suffix(".part")
                part.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
                part.replace(path)
            results.append(json.loads(path.read_text(encoding="utf-8")))
        return results

    def _train(self, out: Path, model: dict[str, Any], fraction: float, flop: float, seed: int) -> dict[str, Any] | None:
        config = replace(self.config, model={**self.config.model, **model}, run=replace(self.config.run, seed=seed, max_minutes=0.0, max_steps=1, vision_fraction=0.0))
        dataset = PartOfDataset(self.folders, config.data.val_fraction, fraction)
        step_flop = count_flop(Trainer(config, dataset, out))
        steps = round(flop / step_flop)
        if steps < 1:
            raise ConfigError(f"{si_text(flop)} operations are less than one step of {model}, {si_text(step_flop)}: raise the smallest of grid.compute_flop")
        config = replace(config, run=replace(config.run, max_steps=steps))
        last = out / "last.pt"
        trainer = self._at_hand = Trainer(config, dataset, out, resume=load_checkpoint(last) if last.exists() else None)
        trainer.stop_requested = self.stop_requested
        trainer.run()
        if trainer.stop_requested:
            return None
        maker = BatchMaker(dataset, trainer.tokenizer, config.data, self.config.run.seed, trainer.model_config)
        metrics = measure(trainer.averaged.model, maker, PolicyLoss(trainer.meta, config.loss), config.run.val_frames)
        parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
        return {
            "name": out.name, "N": parameters, "D": dataset.num_frames(), "T": steps * step_flop, "steps": steps, "seed": seed,
            "data_fraction": fraction, "model": model, "metrics": metrics,
        }


def performance_of(results: Sequence[dict[str, Any]], metric: str) -> list[float]:
    """P of each run: 1 / metric, or the metric where higher is better.

    Raises:
        ConfigError: no such metric.
    """
    names = sorted(results[0]["metrics"]) if results else []
    if metric not in names:
        raise ConfigError(f"no metric {metric}: valid are {', '.join(names)}")
    values = [float(result["metrics"][metric]) for result in results]
    if metric.endswith(RISING):
        return values
    return [1.0 / value if value > 0 else math.inf for value in values]


def fit_results(results: Sequence[dict[str, Any]], metric: str, interval: str) -> PowerLaw:
    """The power law of finished runs."""
    return fit_power_law({name: [result[name] for result in results] for name in VARIABLES}, performance_of(results, metric), interval=interval)


def plot_results(path: Path, results: Sequence[dict[str, Any]], law: PowerLaw, metric: str) -> None:
    """One panel a variable: runs as dots, coloured by model, and the law with the other variables at their geometric means; then measured against fitted."""
    performance = performance_of(results, metric)
    label = f"P = {metric}" if metric.endswith(RISING) else f"P = 1 / {metric}"
    sizes = sorted({result["N"] for result in results})
    centre = {name: math.exp(float(np.mean([math.log(result[name]) for result in results]))) for name in VARIABLES}
    panels = []
    for name in VARIABLES:
        exponent = law.exponents[name]
        ends = (min(result[name] for result in results), max(result[name] for result in results))
        series = _by_model(sizes, [(result["N"], result[name], p) for result, p in zip(results, performance)], legend=name == "N")
        series.append(Series(points=[(end, law.predict({**centre, name: end})) for end in ends], colour="#666666", line=True))
        title = f"exponent {exponent.value:.2f} [{exponent.low:.2f}, {exponent.high:.2f}]"
        panels.append(Panel(title=title, x_label=LABELS[name], y_label=label, series=series))
    fitted = [law.predict({name: result[name] for name in VARIABLES}) for result in results]
    series = _by_model(sizes, [(result["N"], f, p) for result, f, p in zip(results, fitted, performance)], legend=False)
    series.append(Series(points=[(end, end) for end in (min(fitted), max(fitted))], colour="#666666", line=True))
    panels.append(Panel(title=f"R² = {law.r_squared:.2f}", x_label="fitted P", y_label=label, series=series))
    write_svg(path, panels)


def _by_model(sizes: Sequence[int], points: Sequence[tuple[int, float, float]], legend: bool) -> list[Series]:
    return [
        Series(points=[(x, y) for model, x, y in points if model == size], name=f"N = {si_text(size)}" if legend else "", colour=COLOURS[index % len(COLOURS)])
        for index, size in enumerate(sizes)
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """`vla scaling`: returns 0; SIGINT and SIGTERM save and end the study, and the same command goes on."""
    arguments = _parser().parse_args(argv)
    keep_heap()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    values = read_values(arguments.config, arguments.set)
    grid = Grid.from_dict(values.pop("grid", None) or {})
    study = ScalingStudy(TrainConfig.from_dict(values), grid, arguments.data, arguments.out)
    with StopOnSignal(study):
        results = study.run()
    if study.stop_requested:
        _log.info("stopped after %d finished runs: the same command goes on", len(results))
        return 0
    law = fit_results(results, grid.metric, grid.interval)
    plot_results(arguments.out / "scaling.svg", results, law, grid.metric)
    report = {"metric": grid.metric, "fit": law.to_dict(), "runs": results}
    from vla_ros.results import write_json

    write_json(arguments.out / "scaling.json", report)
    if arguments.json:
        write_json(arguments.json, report)
    for name in VARIABLES:
        _log.info("exponent of %s: %.3f [%.3f, %.3f]", LABELS[name], law.exponents[name].value, law.exponents[name].low, law.exponents[name].high)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vla scaling", description="How performance grows with model, data and compute: a grid of runs and a power law.")
    parser.add_argument("--config", type=Path, required=True, help="YAML file: the sections of `vla train` and `grid`, such as config/train/scaling.yaml")
    parser.add_argument("--data", type=Path, nargs="+", required=True, metavar="DIR", help="dataset folders")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for runs, fit and plot")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override one setting; may be repeated")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON here too")
    return parser
