# SPDX-License-Identifier: Apache-2.0
"""`vla train-image-tokens`: VQ-VAE, dVAE or masked autoencoder on the pictures of collected shards.

Leaves in the output folder: `last.pt` (everything needed to go on), `best.pt` (weights with the least held-out error),
`config.yaml`, `metrics.jsonl` (PSNR, use of the codes) and `pictures.png` (held-out pictures above what was painted).
A run that was interrupted goes on bit for bit: its batches depend on the seed and the step alone.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor, nn
from tqdm import tqdm

from vla_ros.core.errors import ConfigError
from vla_ros.core.tabletop import CAMERAS
from vla_ros.model.image_tokens import annealed_temperature
from vla_ros.model.mae import MaskedAutoencoder
from vla_ros.model.vector_quantizer import code_counts, perplexity
from vla_ros.train.checkpoint import load_checkpoint, save_checkpoint
from vla_ros.train.config import read_values
from vla_ros.train.data import Dataset
from vla_ros.train.image_config import MODELS, ImageTrainConfig, build_model, config_of
from vla_ros.train.image_measure import MaskedMeasure, TokenizerMeasure, write_pictures
from vla_ros.train.interrupt import StopOnSignal
from vla_ros.train.optim import learning_rate, make_optimizer

_log = logging.getLogger(__name__)

SHOWN = 8  # pictures of each camera in pictures.png


class ImageTrainer:
    """One run: model, pictures and progress.

    Raises:
        ConfigError: a checkpoint of another model.
    """

    def __init__(self, config: ImageTrainConfig, dataset: Dataset, out: Path, resume: dict[str, Any] | None = None) -> None:
        self.config, self.dataset, self.out = config, dataset, out
        torch.manual_seed(config.run.seed)
        self.model = build_model(config)
        self.optimizer = make_optimizer(self.model, config.optim)
        self.step, self.elapsed_s, self.best = 0, 0.0, float("inf")
        self.metrics: dict[str, float] = {}
        self.stop_requested = False
        if resume:
            self._restore(resume)

    @property
    def progress(self) -> float:
        """Part of the budget that is spent, 0..1 and beyond."""
        run = self.config.run
        by_steps = self.step / run.max_steps if run.max_steps > 0 else 0.0
        return max(by_steps, self.elapsed_s / (60 * run.max_minutes) if run.max_minutes > 0 else 0.0)

    def run(self) -> dict[str, float]:
        """Trains until the budget is spent or `stop_requested`; returns the last held-out metrics."""
        run = self.config.run
        torch.set_num_threads(run.threads)
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "config.yaml").write_text(yaml.safe_dump(self.config.to_dict(), sort_keys=False), encoding="utf-8")
        saved_s = self.elapsed_s
        with tqdm(total=100, unit="%", disable=None) as bar:
            while self.progress < 1.0 and not self.stop_requested:
                started = time.monotonic()
                parts = self.update(draw_pictures(self.dataset, np.random.default_rng([run.seed, self.step]), run.frames_per_batch))
                if self.step % run.validate_steps == 0:
                    self.validate()
                self.elapsed_s += time.monotonic() - started
                if self.step % run.log_steps == 0:
                    self._append({"kind": "training", **parts})
                    bar.n = min(100, round(100 * self.progress))
                    bar.set_postfix(step=self.step, loss=f"{parts['loss']:.4f}")
                if self.elapsed_s - saved_s > 60 * run.checkpoint_minutes:
                    saved_s = self.elapsed_s
                    self.save()
        if not self.stop_requested:
            self.validate()
            write_pictures(self.out / "pictures.png", self.model, next(self._held_out(SHOWN)))
        self.save()
        return self.metrics

    def update(self, images: dict[str, Tensor]) -> dict[str, float]:
        """One step on a batch; its loss and parts."""
        optim, run = self.config.optim, self.config.run
        rate = learning_rate(optim, self.step, self.progress)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        temperature = annealed_temperature(self.progress / run.anneal_fraction, run.temperature_start, run.temperature_end)
        loss, parts = training_loss(self.model, images, temperature)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), optim.grad_clip)
        if not torch.isfinite(norm):
            raise ConfigError(f"step {self.step}: the gradient is not finite: lower optim.learning_rate and resume from last.pt")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        if run.model == "dvae":
            parts["temperature"] = temperature
        return {"loss": float(loss.detach()), **parts, "learning_rate": rate}

    def validate(self) -> dict[str, float]:
        """Measures held-out episodes, logs, and keeps the best weights."""
        self.model.eval()
        measure = MaskedMeasure(self.config.run.seed) if self.config.run.model == "mae" else TokenizerMeasure(self.config.tokenizer.codes)
        with torch.inference_mode():
            for images in self._held_out(self.config.run.val_frames):
                measure.add(self.model, images)
        self.metrics = measure.result()
        self._append({"kind": "validation", **self.metrics})
        _log.info("step %d: %s", self.step, " ".join(f"{name}={value:.4g}" for name, value in self.metrics.items()))
        if self.metrics["error"] < self.best:
            self.best = self.metrics["error"]
            save_checkpoint(self.out / "best.pt", self._facts())
        return self.metrics

    def save(self) -> None:
        """Writes `last.pt`."""
        state = {**self._facts(), "optimizer": self.optimizer.state_dict(), "best": self.best, "random_state": torch.get_rng_state()}
        save_checkpoint(self.out / "last.pt", state)

    def _facts(self) -> dict[str, Any]:
        return {
            "image_model": self.model.state_dict(), "image_config": self.config.to_dict(),
            "step": self.step, "elapsed_s": self.elapsed_s, "metrics": self.metrics,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        earlier = config_of(state)
        if (earlier.run.model, earlier.tokenizer, earlier.vit, earlier.mae) != (self.config.run.model, self.config.tokenizer, self.config.vit, self.config.mae):
            raise ConfigError("the checkpoint holds another model: use the same run.model, tokenizer, vit and mae settings, or start anew")
        self.model.load_state_dict(state["image_model"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random_state"])
        self.step, self.elapsed_s, self.best, self.metrics = state["step"], state["elapsed_s"], state["best"], state["metrics"]

    def _held_out(self, frames: int) -> Iterator[dict[str, Tensor]]:
        """Always the same held-out pictures, in batches."""
        rng = np.random.default_rng([self.config.run.seed, 1 << 32])
        size = self.config.run.frames_per_batch
        for start in range(0, frames, size):
            yield draw_pictures(self.dataset, rng, min(size, frames - start), held_out=True)

    def _append(self, values: dict[str, Any]) -> None:
        with (self.out / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": self.step, "elapsed_s": round(self.elapsed_s, 2), **values}) + "\n")


def training_loss(model: nn.Module, images: dict[str, Tensor], temperature: float) -> tuple[Tensor, dict[str, float]]:
    """Loss of a batch (mean over cameras for a tokenizer) and figures of it."""
    if isinstance(model, MaskedAutoencoder):
        return model(images).loss, {}
    outputs = [model(image_BHWC, temperature) for image_BHWC in images.values()]
    loss = torch.stack([output.loss for output in outputs]).mean()
    ids = torch.cat([output.ids_Bhw.flatten() for output in outputs])
    parts = {name: float(torch.stack([getattr(output, name) for output in outputs]).mean().detach()) for name in ("reconstruction", "regulariser")}
    return loss, {**parts, "perplexity": perplexity(code_counts(ids, model.config.codes))}


def draw_pictures(dataset: Dataset, rng: np.random.Generator, count: int, held_out: bool = False) -> dict[str, Tensor]:
    """`count` random frames' pictures, uint8 [B, H, W, 3] for each camera's name."""
    drawn = dataset.draw(rng, count, held_out)
    return {camera.name: torch.from_numpy(np.concatenate([shard.arrays[camera.name][rows] for shard, rows in drawn])) for camera in CAMERAS}


def main(argv: Sequence[str] | None = None) -> int:
    """`vla train-image-tokens`: returns 0; SIGINT and SIGTERM save and end the run."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    overrides = [*arguments.set, *([f"run.model={arguments.model}"] if arguments.model else [])]
    config = ImageTrainConfig.from_dict(read_values(arguments.config, overrides))
    last = arguments.out / "last.pt"
    if last.exists() and not arguments.resume:
        raise ConfigError(f"{last} exists: use --resume to go on, or another --out")
    dataset = Dataset(arguments.data, arguments.weights, config.run.val_fraction)
    trainer = ImageTrainer(config, dataset, arguments.out, load_checkpoint(last) if arguments.resume else None)
    with StopOnSignal(trainer):
        metrics = trainer.run()
    if arguments.json:
        from vla_ros.results import write_json

        write_json(arguments.json, {"model": config.run.model, "step": trainer.step, "elapsed_s": trainer.elapsed_s, "finished": not trainer.stop_requested, **metrics})
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vla train-image-tokens", description="Train a VQ-VAE, a dVAE or a masked autoencoder on recorded pictures.")
    parser.add_argument("--model", choices=MODELS, help="overrides run.model of the config")
    parser.add_argument("--config", type=Path, help="YAML file of settings, such as config/train/image_tokens.yaml")
    parser.add_argument("--data", type=Path, nargs="+", required=True, metavar="DIR", help="dataset folders")
    parser.add_argument("--weights", type=float, nargs="+", metavar="W", help="how often each folder is drawn from; default: by size")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for checkpoints and metrics")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override one setting; may be repeated")
    parser.add_argument("--resume", action="store_true", help="go on from OUT/last.pt")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the final metrics as JSON")
    return parser
