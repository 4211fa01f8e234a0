# SPDX-License-Identifier: Apache-2.0
"""The training loop and `vla train`.

Leaves in the output folder: `last.pt` (everything needed to go on), `best.pt` (averaged weights with the least validation
action loss), `tokenizer.json`, `config.yaml`, and `metrics.jsonl` (one JSON object a line).
"""

from __future__ import annotations

import argparse
import ctypes
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from tokenizers import Tokenizer
from torch import Tensor
from tqdm import tqdm

from vla_ros.core.errors import ConfigError
from vla_ros.core.tabletop import PROMPT_TEMPLATE
from vla_ros.model.config import PolicyConfig
from vla_ros.model.policy import Policy
from vla_ros.train.checkpoint import load_checkpoint, restore_tokenizer, save_checkpoint
from vla_ros.train.config import TrainConfig, load_config
from vla_ros.train.data import Batch, BatchMaker, Dataset
from vla_ros.train.interrupt import StopOnSignal
from vla_ros.train.losses import Metrics, PolicyLoss
from vla_ros.train.optim import AveragedWeights, learning_rate, make_optimizer
from vla_ros.train.prefetch import Prefetcher
from vla_ros.train.tokenizer import PAD_ID, train_tokenizer, word_ids

_log = logging.getLogger(__name__)

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h


class Trainer:
    """One run: model, data and progress.

    Args:
        config: all settings.
        dataset: demonstrations.
        out: output folder.
        resume: state of a `last.pt` to go on from exactly.
        init: state of a checkpoint whose weights and tokenizer to start from.
        texts: further texts whose words the tokenizer should know.

    Raises:
        ConfigError: no budget, or a checkpoint that does not fit the data.
    """

    def __init__(
        self,
        config: TrainConfig,
        dataset: Dataset,
        out: Path,
        *,
        resume: dict[str, Any] | None = None,
        init: dict[str, Any] | None = None,
        texts: Sequence[str] = (),
    ) -> None:
        if config.run.max_minutes <= 0 and config.run.max_steps <= 0:
            raise ConfigError("a run needs a budget: set run.max_minutes or run.max_steps")
        self.config, self.dataset, self.out = config, dataset, out
        earlier = resume or init
        torch.manual_seed(config.run.seed)
        self.tokenizer = restore_tokenizer(earlier) if earlier else self._learn_tokenizer(texts)
        self.model_config = policy_config(config, dataset, self.tokenizer)
        if earlier and PolicyConfig.from_dict(earlier["model_config"]) != self.model_config:
            raise ConfigError("the checkpoint's policy has another shape: use the same model settings and data contract, or start anew")
        self.model = Policy(self.model_config)
        self._set_proprio_stats()
        if init:
            self.model.load_state_dict(init["averaged"])
        averaged = Policy(self.model_config)
        averaged.load_state_dict(self.model.state_dict())
        self.averaged = AveragedWeights(self.model, averaged, config.optim.ema_decay)
        self.optimizer = make_optimizer(self.model, config.optim)
        self.maker = BatchMaker(dataset, self.tokenizer, config.data, config.run.seed)
        self.loss = PolicyLoss(dataset.meta, config.loss)
        self.step, self.elapsed_s, self.best = 0, 0.0, float("inf")
        self.metrics: dict[str, float] = {}
        self.stop_requested = False
        if resume:
            self._restore(resume)

    def run(self) -> dict[str, float]:
        """Trains until the budget is spent or `stop_requested`; validates and saves at the end; returns the last metrics."""
        run = self.config.run
        torch.set_num_threads(run.threads)
        self._write_run_files()
        last_validation = last_save = self.elapsed_s
        rescan_s = self.config.data.rescan_s
        with Prefetcher(self.maker, self.step, rescan_s) as batches, tqdm(total=100, unit="%", disable=None) as bar:
            while self.progress < 1.0 and not self.stop_requested:
                started = time.monotonic()
                parts = self._update(batches.next_batch())
                self.elapsed_s += time.monotonic() - started
                if self.step % run.log_steps == 0:
                    self._log_step(parts, bar)
                due = run.validate_steps and self.step % run.validate_steps == 0
                if due or (not run.validate_steps and self.elapsed_s - last_validation > 60 * run.validate_minutes):
                    last_validation = self.elapsed_s
                    self._timed(self.validate)
                if self.elapsed_s - last_save > 60 * run.checkpoint_minutes:
                    last_save = self.elapsed_s
                    self._timed(self.save)
        if not self.stop_requested:
            self.validate()
        self.save()
        return self.metrics

    @property
    def progress(self) -> float:
        """Part of the budget that is spent, 0..1 and beyond."""
        run = self.config.run
        by_steps = self.step / run.max_steps if run.max_steps > 0 else 0.0
        by_time = self.elapsed_s / (60 * run.max_minutes) if run.max_minutes > 0 else 0.0
        return max(by_steps, by_time)

    def validate(self) -> dict[str, float]:
        """Measures the averaged weights on held-out episodes, logs, and keeps the best."""
        metrics, losses, labels = Metrics(self.dataset.meta), {}, 0
        with torch.inference_mode():
            for batch in self.maker.validation_batches(self.config.run.val_frames):
                output = self.forward(self.averaged.model, batch)
                _, parts = self.loss(output, batch)
                count = len(batch.text_NT)
                labels += count
                losses = {name: losses.get(name, 0.0) + count * float(value) for name, value in parts.items()}
                metrics.add(output, batch)
        self.metrics = {**{f"loss_{name}": value / labels for name, value in losses.items()}, **metrics.result()}
        self._append({"kind": "validation", **self.metrics})
        _log.info("step %d: %s", self.step, " ".join(f"{name}={value:.3g}" for name, value in self.metrics.items()))
        if self.metrics["loss_action"] < self.best:
            self.best = self.metrics["loss_action"]
            save_checkpoint(self.out / "best.pt", self._facts())
        return self.metrics

    def save(self) -> None:
        """Writes `last.pt`."""
        state = {
            **self._facts(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": self.best,
            "random_state": torch.get_rng_state(),
        }
        save_checkpoint(self.out / "last.pt", state)

    @staticmethod
    def forward(model: Policy, batch: Batch, told_N2: Tensor | None = None) -> Any:
        """The policy's output for a batch."""
        return model(batch.images, batch.text_NT, batch.proprio_BS, batch.prefix_NQ, batch.withheld_B, told_N2)

    def _tell(self, batch: Batch) -> Tensor:
        """True places with noise for some labels, NaN for the others, [N, 2]."""
        data = self.config.data
        noisy_N2 = batch.point_N2 + data.told_noise * torch.randn_like(batch.point_N2)
        told_N1 = torch.rand(len(noisy_N2), 1) < data.told_probability
        return torch.where(told_N1, noisy_N2, torch.nan)

    def _update(self, batch: Batch) -> dict[str, float]:
        config = self.config.optim
        rate = learning_rate(config, self.step, self.progress)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        if self.progress < self.config.run.vision_fraction:
            total = self.loss.vision(self.model.see(batch.images), batch)
            parts = {"total": total.detach(), "vision": total.detach()}
        else:
            total, parts = self.loss(self.forward(self.model, batch, self._tell(batch)), batch)
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.grad_clip)
        if not torch.isfinite(norm):
            raise ConfigError(f"step {self.step}: the gradient is not finite: lower optim.learning_rate and resume from last.pt")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.averaged.update(self.step)
        self.step += 1
        return {**parts, "grad_norm": norm, "learning_rate": rate}

    def _learn_tokenizer(self, texts: Sequence[str]) -> Tokenizer:
        meta = self.dataset.meta
        return train_tokenizer([*self.dataset.instructions(), *meta.colours, *meta.kinds, *texts], PROMPT_TEMPLATE, self.config.run.vocab_size)

    def _set_proprio_stats(self) -> None:
        mean_S, std_S = self.dataset.proprio_stats()
        self.model.state.mean_S.copy_(torch.from_numpy(mean_S))
        self.model.state.std_S.copy_(torch.from_numpy(std_S))

    def _restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.averaged.model.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random_state"])
        self.step, self.elapsed_s, self.best, self.metrics = state["step"], state["elapsed_s"], state["best"], state["metrics"]

    def _facts(self) -> dict[str, Any]:
        """What both kinds of checkpoint hold."""
        meta = self.dataset.meta
        return {
            "averaged": self.averaged.model.state_dict(),
            "model_config": self.model_config.to_dict(),
            "train_config": self.config.to_dict(),
            "tokenizer": self.tokenizer.to_str(),
            "data": {**asdict(meta), "action": meta.action.to_dict(), "frames": self.dataset.num_frames(), "folders": len(self.dataset.folders)},
            "step": self.step,
            "elapsed_s": self.elapsed_s,
            "metrics": self.metrics,
        }

    def _timed(self, task: Any) -> None:
        """Validation and saving count towards the time budget."""
        started = time.monotonic()
        task()
        self.elapsed_s += time.monotonic() - started

    def _write_run_files(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "config.yaml").write_text(yaml.safe_dump(_plain(self.config.to_dict()), sort_keys=False), encoding="utf-8")
        self.tokenizer.save(str(self.out / "tokenizer.json"))

    def _log_step(self, parts: dict[str, Any], bar: tqdm) -> None:
        values = {name: float(value) for name, value in parts.items()}
        speed = self.step / self.elapsed_s if self.elapsed_s else 0.0
        self._append({"kind": "training", **values, "steps_per_s": speed})
        bar.n = min(100, round(100 * self.progress))
        shown = {name: f"{values[name]:.3f}" for name in ("action", "plan", "vision") if name in values}
        bar.set_postfix(step=self.step, **shown)

    def _append(self, values: dict[str, Any]) -> None:
        line = {"step": self.step, "elapsed_s": round(self.elapsed_s, 2), **values}
        with (self.out / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def policy_config(config: TrainConfig, dataset: Dataset, tokenizer: Tokenizer) -> PolicyConfig:
    """The network's shape: what the data fix, and the `model` section for the rest."""
    meta = dataset.meta
    first_action_token = tokenizer.get_vocab_size()
    fixed = {
        "vocab_size": first_action_token + meta.action.num_bins,
        "first_action_token": first_action_token,
        "pad_token": PAD_ID,
        "action": meta.action.to_dict(),
        "plan_phases": len(meta.phases),
        "seen_tokens": word_ids(tokenizer, [*meta.colours, *meta.kinds]),
    }
    clash = sorted(set(fixed) & set(config.model))
    if clash:
        raise ConfigError(f"the data fix model.{', model.'.join(clash)}: remove these settings")
    return PolicyConfig.from_dict({**config.model, **fixed})


def main(argv: Sequence[str] | None = None) -> int:
    """`vla train`: returns 0; SIGINT and SIGTERM save and end the run."""
    arguments = _parser().parse_args(argv)
    keep_heap()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    config = load_config(arguments.config, arguments.set)
    dataset = Dataset(arguments.data, arguments.weights, config.data.val_fraction)
    last = arguments.out / "last.pt"
    if last.exists() and not arguments.resume:
        raise ConfigError(f"{last} exists: use --resume to go on, or another --out")
    resume = load_checkpoint(last) if arguments.resume else None
    init = load_checkpoint(arguments.init) if arguments.init and not resume else None
    texts = [line for path in _text_files(arguments) for line in path.read_text(encoding="utf-8").splitlines()]
    trainer = Trainer(config, dataset, arguments.out, resume=resume, init=init, texts=texts)
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    _log.info(
        "%.2f M parameters, %d frames to train on, %d held out, K=%d",
        parameters / 1e6, dataset.num_frames(), dataset.num_frames(held_out=True), dataset.labels,
    )
    with StopOnSignal(trainer):
        metrics = trainer.run()
    if arguments.json:
        from vla_ros.results import write_json

        write_json(arguments.json, {"step": trainer.step, "elapsed_s": trainer.elapsed_s, "finished": not trainer.stop_requested, **metrics})
    return 0


def keep_heap() -> None:
    """Lets the C library reuse freed memory instead of returning it: a step's tensors are as large as the last one's.

    Page faults cost up to half of a training step otherwise. Does nothing where the C library is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vla train", description="Train a policy on demonstrations that `vla collect` recorded.")
    parser.add_argument("--config", type=Path, help="YAML file of settings, such as config/train/tabletop.yaml")
    parser.add_argument("--data", type=Path, nargs="+", required=True, metavar="DIR", help="dataset folders")
    parser.add_argument("--weights", type=float, nargs="+", metavar="W", help="how often each folder is drawn from; default: by size")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for checkpoints and metrics")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override one setting; may be repeated")
    parser.add_argument("--resume", action="store_true", help="go on from OUT/last.pt")
    parser.add_argument("--init", type=Path, metavar="CHECKPOINT", help="start from the weights of another run")
    parser.add_argument("--texts", type=Path, metavar="FILE", help="further texts, one a line, whose words the tokenizer should know; default: texts.txt of the data")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the final metrics as JSON")
    return parser


def _text_files(arguments: argparse.Namespace) -> list[Path]:
    """The file that was named, else those that lie beside the demonstrations."""
    if arguments.texts:
        return [arguments.texts]
    return [folder / "texts.txt" for folder in arguments.data if (folder / "texts.txt").exists()]


def _plain(value: Any) -> Any:
    """Tuples as lists, for YAML."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
