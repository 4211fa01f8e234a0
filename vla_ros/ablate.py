# SPDX-License-Identifier: Apache-2.0
"""``vla ablate``: what each idea is worth. Trains variants that differ in a few settings, with the same data, seeds, number of steps
and evaluation, and writes one row for each into a table.

Leaves in the output folder ``images/<name>/``, ``runs/<variant>/seed<k>/`` (as ``vla train``, with ``bundle/`` and ``result.json``)
and ``ablations.json``. Rows that have a result are not repeated, and an interrupted training goes on from its last checkpoint. With
``--append`` the rows in the file of ``--json`` count too, so that a table can be filled on several machines or days.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from tqdm import tqdm

from vla_ros.core.errors import ConfigError
from vla_ros.export import POLICY_FILE, export_bundle
from vla_ros.figures import wilson_interval
from vla_ros.onnx_cost import graph_cost
from vla_ros.results import machine_facts, write_json
from vla_ros.train.checkpoint import load_checkpoint
from vla_ros.train.dataset import Dataset
from vla_ros.train.heap import keep_heap
from vla_ros.train.image_tokens import ImageTrainer
from vla_ros.train.interrupt import StoppableStudy, StopOnSignal
from vla_ros.train.questions import QuestionDataset
from vla_ros.train.trainer import Trainer
from vla_ros.train.variants import Study, Variant, read_study

_log = logging.getLogger(__name__)

BEGIN, END = "<!-- ablations: begin -->", "<!-- ablations: end -->"
_EXPORT_FRAMES = 32
COLUMNS = (
    "piece", "parameters, M", "operations, M", "action loss", "tokens right", "first step off, mm", "questions right", "success", "episodes",
)  # fmt: skip


class CannotTrain(ConfigError):
    """A variant that the given data cannot train."""


class AblationStudy(StoppableStudy):
    """All rows of a study.

    Args:
        study: what is compared.
        data, questions: dataset folders; `questions` may be empty if no variant answers.
        out: output folder.
        record: rows that were made before, elsewhere perhaps.
    """

    def __init__(self, study: Study, data: Sequence[Path], questions: Sequence[Path], out: Path, record: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__()
        self._record = {(row["variant"], row["seed"]): dict(row) for row in record}
        self.study, self.data, self.questions, self.out = study, list(data), list(questions), out
        self.refused: dict[str, str] = {}  # variants that these data cannot train, and why
        self._datasets: dict[float, Dataset] = {}

    def run(self, variants: Sequence[Variant]) -> list[dict[str, Any]]:
        """Results of the variants' runs, those of earlier calls included; fewer if `stop_requested`."""
        results = []
        for variant, seed in tqdm([(variant, seed) for variant in variants for seed in self.study.seeds], unit="row", disable=None):
            try:
                result = self._row(variant, seed)
            except CannotTrain as error:  # the other rows are still worth a night
                self.refused[variant.name] = str(error)
                continue
            if result is None:
                break
            results.append(result)
        return results

    def finished(self) -> list[dict[str, Any]]:
        """All rows that are there, in the study's order, whichever call made them."""
        rows = (self._stored(variant, seed) for variant in self.study.variants for seed in self.study.seeds)
        return [row for row in rows if row is not None]

    def _folder(self, variant: Variant, seed: int) -> Path:
        return self.out / "runs" / variant.name / f"seed{seed}"

    def _checkpoints(self) -> dict[str, Path]:
        return {name: self.out / "images" / name / "best.pt" for name in self.study.images}

    def _made_with(self, variant: Variant, seed: int) -> dict[str, Any]:
        """What must be the same for a stored row to be this one."""
        settings = json.loads(json.dumps(asdict(variant.train_config(seed, self._checkpoints()))))
        frames = self._dataset(settings["data"]["val_fraction"]).num_frames()
        return {"settings": settings, "frames": frames, "episodes": self.study.episodes, "split": self.study.split}

    def _dataset(self, val_fraction: float) -> Dataset:
        if val_fraction not in self._datasets:
            self._datasets[val_fraction] = Dataset(self.data, None, val_fraction)
        return self._datasets[val_fraction]

    def _stored(self, variant: Variant, seed: int) -> dict[str, Any] | None:
        """A row's result if it is there; raises ConfigError if it was made with other settings or data."""
        path = self._folder(variant, seed) / "result.json"
        result = json.loads(path.read_text(encoding="utf-8")) if path.exists() else self._record.get((variant.name, seed))
        if result is not None and result["made_with"] != self._made_with(variant, seed):
            where, remedy = (path, "remove its folder, or give another --out") if path.exists() else (f"the row of {variant.name} in --json", "leave --append out")
            raise ConfigError(f"{where} was made with other settings or data: {remedy}")
        return result

    def _row(self, variant: Variant, seed: int) -> dict[str, Any] | None:
        if (stored := self._stored(variant, seed)) is not None:
            return stored
        folder, same = self._folder(variant, seed), self._made_with(variant, seed)
        dataset = self._dataset(same["settings"]["data"]["val_fraction"])
        if not all(self._train_images(name, dataset) for name in variant.pretrained.values()) or self.stop_requested:
            return None
        trainer = self._train(variant.train_config(seed, self._checkpoints()), dataset, folder)
        if trainer is None:
            return None
        result = {
            "variant": variant.name, "idea": variant.idea, "seed": seed, "steps": trainer.step, "training_s": round(trainer.elapsed_s, 1),
            "parameters": sum(p.numel() for p in trainer.model.parameters()), "metrics": trainer.metrics, **self._judge(folder, dataset), "made_with": same,
        }  # fmt: skip
        write_json(folder / "result.json", result)
        return result

    def _train_images(self, name: str, dataset: Dataset) -> bool:
        """Trains an image model unless it is there; false if it was interrupted."""
        folder, config = self.out / "images" / name, self.study.images[name]
        done, last = folder / "result.json", folder / "last.pt"
        settings = json.loads(json.dumps(config.to_dict()))
        if done.exists():
            if json.loads(done.read_text(encoding="utf-8"))["settings"] != settings:
                raise ConfigError(f"{done} was made with other settings: remove its folder, or give another --out")
            return True
        self._at_hand = ImageTrainer(config, dataset, folder, load_checkpoint(last) if last.exists() else None)
        self._at_hand.stop_requested = self.stop_requested
        metrics = self._at_hand.run()
        if self._at_hand.stop_requested:
            return False
        write_json(done, {"settings": settings, "metrics": metrics})
        return True

    def _train(self, config: Any, dataset: Dataset, folder: Path) -> Trainer | None:
        answers = config.model.get("answer_tokens", 0)
        if answers and not self.questions:
            raise CannotTrain(f"{folder.parent.name} answers questions: give --questions, folders of `vla collect --questions`")
        questions = QuestionDataset(self.questions, config.data.val_fraction) if answers else None
        texts = [line for path in (*self.data, *self.questions) if (path / "texts.txt").exists() for line in (path / "texts.txt").read_text().splitlines()]
        last = folder / "last.pt"
        resume = load_checkpoint(last) if last.exists() else None
        try:
            trainer = self._at_hand = Trainer(config, dataset, folder, resume=resume, texts=texts, questions=questions)
        except ConfigError as error:
            raise CannotTrain(str(error)) from error
        trainer.stop_requested = self.stop_requested
        trainer.run()
        return None if trainer.stop_requested else trainer

    def _judge(self, folder: Path, dataset: Dataset) -> dict[str, Any]:
        """The bundle's cost, and how often it succeeds; the reason where a policy cannot be put into one."""
        bundle = folder / "bundle"
        try:
            export = export_bundle(folder / "last.pt", bundle, dataset.folders[0], frames=_EXPORT_FRAMES, threads=1)
        except ConfigError as error:
            return {"no_bundle": str(error)}
        cost = graph_cost(onnx.load(bundle / POLICY_FILE))
        judged = {"operations": cost.operations, "inference_ms": export["inference_ms"], "max_logit_difference": export["max_logit_difference"]}
        if not self.study.episodes:
            return judged
        from vla_ros import evaluate

        study, report = self.study, folder / "evaluation.json"
        words = [str(bundle), "--episodes", str(study.episodes), "--seed", str(study.evaluation_seed), "--split", study.split, "--json", str(report)]
        evaluate.main(words)
        measured = json.loads(report.read_text(encoding="utf-8"))
        return {**judged, "episodes": measured["episodes"], "successes": round(measured["success_rate"] * measured["episodes"])}


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """The Markdown table: a row a variant, figures averaged over its seeds, successes pooled with Wilson's 95 % interval."""
    names = list(dict.fromkeys(result["variant"] for result in results))
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---|" + "---:|" * (len(COLUMNS) - 1)]
    for name in names:
        runs = [result for result in results if result["variant"] == name]
        cells = [runs[0]["idea"], *(_cell(runs, key, digits, factor) for key, digits, factor in _FIGURES), *_success(runs)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


_FIGURES = (
    ("parameters", 2, 1e-6), ("operations", 0, 1e-6), ("metrics.loss_action", 3, 1.0), ("metrics.token_accuracy", 3, 1.0),
    ("metrics.first_mm", 1, 1.0), ("metrics.answer_accuracy", 3, 1.0),
)  # fmt: skip


def _cell(runs: Sequence[Mapping[str, Any]], key: str, digits: int, factor: float) -> str:
    """Mean over the seeds, with the standard deviation where there are several; a dash where a variant has no such figure."""
    section, _, name = key.rpartition(".")
    values = [run[section].get(name) if section else run.get(name) for run in runs]
    if any(value is None for value in values):
        return "–"
    scaled = factor * np.array(values, dtype=np.float64)
    spread = f" ± {scaled.std(ddof=1):.{digits}f}" if len(scaled) > 1 and scaled.std() else ""
    return f"{scaled.mean():.{digits}f}{spread}"


def _success(runs: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    if not all("successes" in run for run in runs):
        return "–", "–"
    successes, episodes = (sum(run[key] for run in runs) for key in ("successes", "episodes"))
    low, high = wilson_interval(successes, episodes)
    return f"{successes / episodes:.1%} ({low:.1%} to {high:.1%})", str(episodes)


def fill(path: Path, results: Sequence[Mapping[str, Any]], study: Study, command: str) -> None:
    """Writes table and command between the marks of a Markdown file; raises ConfigError if it has none."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ConfigError(f"{path} needs the lines {BEGIN} and {END} once each: the table goes between them")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    steps = sorted({result["steps"] for result in results})
    frames = sorted({result["made_with"]["frames"] for result in results})
    said = (
        f"{', '.join(map(str, steps))} steps of training each, {', '.join(map(str, frames))} frames, seeds {', '.join(map(str, study.seeds))}, "
        f"split {study.split}. Made by:\n\n```bash\n{command}\n```"
    )
    path.write_text(f"{head}{BEGIN}\n{table(results)}\n\n{said}\n{END}{tail}", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0, or 1 if a variant could not be trained; SIGINT and SIGTERM save and end the study, and the same command goes on."""
    options = _parser().parse_args(argv)
    keep_heap()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    _log.setLevel(logging.INFO)
    study = read_study(options.config, options.set)
    ablation = AblationStudy(study, options.data, options.questions or [], options.out, _earlier_rows(options))
    variants = study.choose(options.only)
    torch.set_num_threads(max(int(variant.sections["run"].get("threads", 1)) for variant in variants))
    with StopOnSignal(ablation):
        made = ablation.run(variants)
    results = ablation.finished()
    if results:
        write_json(options.out / "ablations.json", {"machine": machine_facts(), "rows": results})
        _log.info("%s", table(results))
    if options.json and results:
        write_json(options.json, {"machine": machine_facts(), "rows": results})
    if options.docs and results:
        fill(options.docs, results, study, _command(options))
    if ablation.stop_requested:
        _log.info("stopped after %d finished rows: the same command goes on", len(made))
    for name, reason in ablation.refused.items():
        _log.error("no row of %s: %s", name, reason)
    return int(bool(ablation.refused))


def _earlier_rows(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Of the file of ``--json``, if they are wanted; none if there is no such file yet."""
    if not options.append:
        return []
    if options.json is None:
        raise ConfigError("--append goes on with the rows in --json: give that file too")
    if not options.json.exists():
        return []
    try:
        return list(json.loads(options.json.read_text(encoding="utf-8"))["rows"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{options.json} has no rows of vla ablate: give another --json, or leave --append out") from error


def _command(options: argparse.Namespace) -> str:
    words = ["vla ablate", str(options.config), "--data", *map(str, options.data)]
    if options.questions:
        words += ["--questions", *map(str, options.questions)]
    words += [word for override in options.set for word in ("--set", override)]
    return " ".join([*words, "--out", str(options.out), "--docs", str(options.docs)])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vla ablate", description="Measure what each idea is worth: one row a variant, same data, seeds, steps and evaluation.")
    parser.add_argument("config", type=Path, help="YAML file of variants, such as config/train/ablations.yaml")
    parser.add_argument("--data", type=Path, nargs="+", required=True, metavar="DIR", help="dataset folders")
    parser.add_argument("--questions", type=Path, nargs="+", metavar="DIR", help="folders of `vla collect --questions`, for variants that answer")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for runs and results")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these variants only")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override one common setting; may be repeated")
    parser.add_argument("--docs", type=Path, metavar="FILE", help="Markdown file whose table is written anew, such as docs/ablations.md")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all rows as JSON here too")
    parser.add_argument("--append", action="store_true", help="go on with the rows in --json: they are not made again")
    return parser
