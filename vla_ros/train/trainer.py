# SPDX-License-Identifier: Apache-2.0
"""The training loop of `vla train`.

Leaves in the output folder: `last.pt` (everything needed to go on), `best.pt` (averaged weights with the least validation
action loss), `tokenizer.json`, `config.yaml`, and `metrics.jsonl` (one JSON object a line).
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
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
from vla_ros.model.cross_attention import make_policy
from vla_ros.model.policy import Policy
from vla_ros.train.board import Board
from vla_ros.train.checkpoint import BEGUN_FROM, FOLDED, restore_tokenizer, save_checkpoint
from vla_ros.train.config import TrainConfig
from vla_ros.train.data import Batch, BatchMaker, Dataset
from vla_ros.train.image_config import load_vit, restore_image_tokenizer
from vla_ros.train.losses import Metrics, PolicyLoss
from vla_ros.train.objective import continuous_loss, forward_policy, policy_objective
from vla_ros.train.optim import AveragedWeights, learning_rate, make_optimizer
from vla_ros.train.parallel import Processes, map_tensors, share_batch_norm
from vla_ros.train.prefetch import Prefetcher
from vla_ros.train.questions import QuestionDataset, QuestionMaker, answer_loss, keep_all_but_answers, measure_answers
from vla_ros.train.shape import policy_config
from vla_ros.train.tokenizer import train_tokenizer
from vla_ros.train.transfer import settle_batch_norm, transfer_weights

_log = logging.getLogger(__name__)


class Trainer:
    """One run: model, data and progress.

    Args:
        config: all settings.
        dataset: demonstrations.
        out: output folder.
        resume: state of a `last.pt` to go on from exactly.
        init: state of a checkpoint whose weights and tokenizer to start from.
        transfer: state of a checkpoint of another shape or vocabulary, of which what fits is taken over.
        texts: further texts whose words the tokenizer should know.
        questions: pictures with questions to train on as well; needs model.answer_tokens.
        processes: that train together.
        board: draws the figures as they come.

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
        transfer: dict[str, Any] | None = None,
        texts: Sequence[str] = (),
        questions: QuestionDataset | None = None,
        processes: Processes | None = None,
        board: Board | None = None,
    ) -> None:
        if config.run.max_minutes <= 0 and config.run.max_steps <= 0:
            raise ConfigError("a run needs a budget: set run.max_minutes or run.max_steps")
        self.config, self.dataset, self.out = config, dataset, out
        self.processes, self.board = processes or Processes(), board or Board()
        self.device = _device(config.run.device)
        earlier = resume or init
        if not earlier and not questions and config.model.get("answer_tokens"):
            raise ConfigError("model.answer_tokens is set, but there are no questions to learn from: give --questions, or leave it out")
        torch.manual_seed(config.run.seed)
        self.tokenizer = restore_tokenizer(earlier) if earlier else self._learn_tokenizer([*texts, *(questions.texts() if questions else ())])
        self.model_config = policy_config(config, dataset, self.tokenizer, PolicyConfig.from_dict(earlier["model_config"]) if earlier else None)
        if earlier and PolicyConfig.from_dict(earlier["model_config"]) != self.model_config:
            raise ConfigError("the checkpoint's policy has another shape: use the same model settings and data contract, begin from it with --transfer, or start anew")
        self.only_answers = config.run.only == "answers"
        if self.only_answers and not (questions and self.model_config.answer_depth):
            raise ConfigError("run.only answers needs --questions and model.answer_depth, layers for questions alone (3 is enough)")
        self.meta = replace(dataset.meta, action=self.model_config.action)
        self.model = make_policy(self.model_config)
        self._set_proprio_stats()
        if not earlier:
            self._load_vision()
        self.maker = BatchMaker(dataset, self.tokenizer, config.data, config.run.seed, self.model_config, self._question_maker(questions))
        if transfer and not earlier:
            taken = transfer_weights(self.model, self.tokenizer, transfer)
            _log.info("%d tensors and %d words taken over; new are %s", len(taken.taken), taken.words, ", ".join(taken.fresh) or "none")
        if init:
            self.model.load_state_dict(init["averaged"])
        begun = resume or init or transfer or {}
        self._folded = bool(begun.get(FOLDED)) and (self.only_answers or bool(resume))
        if begun.get(FOLDED) and not self._folded:
            settle_batch_norm(self.model, self.maker.training_batch(0).images)
        self._begun_from = begun.get(BEGUN_FROM)
        averaged = make_policy(self.model_config)
        averaged.load_state_dict(self.model.state_dict())
        if self.only_answers:
            keep_all_but_answers(self.model)
        share_batch_norm(self.model, self.processes)
        self.averaged = AveragedWeights(self.model.to(self.device), averaged.to(self.device), config.optim.ema_decay)
        self.optimizer = make_optimizer(self.model, config.optim)
        self.loss = PolicyLoss(self.meta, config.loss, self.processes, self.device)
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
        rescan_s = self.config.data.rescan_s if self.processes.count == 1 else 0.0  # all must know the same shards
        with Prefetcher(self.maker, self.step, rescan_s) as batches, tqdm(total=100, unit="%", disable=None) as bar:
            while self.progress < 1.0 and not self.stop_requested:
                started = time.monotonic()
                parts = self._update(batches.next_batch())
                self._agree(self.elapsed_s + time.monotonic() - started)
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
        """Measures the averaged weights on held-out episodes and questions, logs, and keeps the best. The first process does it for all."""
        if not self.processes.leads:
            return self.metrics
        metrics, losses, labels = Metrics(self.meta), {}, 0
        model, loss = self.averaged.model, PolicyLoss(self.meta, self.config.loss, device=self.device)
        with torch.inference_mode():
            for batch in self.maker.validation_batches(self.config.run.val_frames):
                batch = self.on_device(batch)
                output = self.forward(model, batch)
                _, parts = loss(output, batch)
                if model.action_head is not None:
                    parts["continuous"] = continuous_loss(model, output, batch, Processes())
                count = len(batch.text_NT)
                labels += count
                losses = {name: losses.get(name, 0.0) + count * float(value) for name, value in parts.items()}
                answered = replace(output, action_NQA=model.chunk_logits(output))
                metrics.add(map_tensors(answered, Tensor.cpu), map_tensors(batch, Tensor.cpu))
        answers = measure_answers(model, self.maker.questions, self.config.run.val_frames, self.device) if self.maker.questions else {}
        self.metrics = {**{f"loss_{name}": value / labels for name, value in losses.items()}, **metrics.result(), **answers}
        self._append({"kind": "validation", **self.metrics})
        _log.info("step %d: %s", self.step, " ".join(f"{name}={value:.3g}" for name, value in self.metrics.items()))
        judged = self.metrics["loss_language" if self.only_answers else "loss_action"]
        if judged < self.best:
            self.best = judged
            save_checkpoint(self.out / "best.pt", self._facts())
        return self.metrics

    def save(self) -> None:
        """Writes `last.pt`."""
        if not self.processes.leads:
            return
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
        return forward_policy(model, batch, told_N2)

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
        self.model.train(not self.only_answers)  # what is kept does not follow the batch's statistics either
        part = self.on_device(self.processes.part_of(batch))
        with torch.autocast(self.device.partition(":")[0], torch.bfloat16, enabled=self.config.run.precision == "bfloat16"):
            if self.only_answers:
                answered = answer_loss(self.model, part.questions, self.processes)
                total = answered.language + self.config.loss.objects * answered.objects
                parts = {"total": total.detach(), "language": answered.language.detach(), "objects": answered.objects.detach()}
            elif self.progress < self.config.run.vision_fraction:
                total = self.loss.vision(self.model.see(part.images), part)
                parts = {"total": total.detach(), "vision": total.detach()}
            else:
                told_N2 = self.on_device(self.processes.part_of(self._tell(batch)))
                total, parts = policy_objective(self.model, self.loss, self.config.loss, part, told_N2, self.processes)
        total.backward()
        self.processes.average_gradients(self.model)
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

    def _load_vision(self) -> None:
        """Pre-trained parts that `vla train-image-tokens` left."""
        run = self.config.run
        if run.vision_init and self.model_config.stem != "vit":
            raise ConfigError(f"run.vision_init needs model.stem vit, got {self.model_config.stem}")
        if run.image_tokens:
            self.model.vision.ids.tokenizer.load_state_dict(restore_image_tokenizer(Path(run.image_tokens)).state_dict())
        if run.vision_init:
            load_vit(Path(run.vision_init), self.model.vision.vit)

    def _question_maker(self, questions: QuestionDataset | None) -> QuestionMaker | None:
        shape = self.model_config
        if questions and not shape.answer_tokens:
            raise ConfigError("questions need room for their answers: set model.answer_tokens (10 is enough)")
        if questions is None:
            return None
        known = tuple(f"{colour} {kind}" for colour in self.dataset.meta.colours for kind in self.dataset.meta.kinds)
        if shape.answer_eye and questions.objects != known:
            raise ConfigError(f"the questions are about other objects ({', '.join(questions.objects)}) than the data ({', '.join(known)}): collect both with one release")
        return QuestionMaker(questions, self.tokenizer, self.config.data, self.config.run.seed, shape.answer_tokens, shape.frames)

    def _agree(self, elapsed_s: float) -> None:
        """Time and a request to stop are the first process's in all of them."""
        self.elapsed_s, stop = self.processes.agree([elapsed_s, float(self.stop_requested)])
        self.stop_requested = bool(stop)

    def on_device(self, value: Any) -> Any:
        """`value` with its tensors where the model is."""
        return value if self.device == "cpu" else map_tensors(value, lambda tensor: tensor.to(self.device, non_blocking=True))

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
            "data": {
                **asdict(meta), "action": self.model_config.action.to_dict(), "frames": self.dataset.num_frames(),
                "folders": len(self.dataset.folders), "provenance": self.dataset.provenance(),
            },
            "step": self.step,
            "elapsed_s": self.elapsed_s,
            "metrics": self.metrics,
            **({"questions": self.maker.questions.dataset.facts()} if self.maker.questions else {}),
            **({FOLDED: True} if self._folded else {}),
            **({BEGUN_FROM: self._begun_from} if self._begun_from else {}),
        }

    def _timed(self, task: Any) -> None:
        """Validation and saving count towards the time budget."""
        started = time.monotonic()
        task()
        self.elapsed_s += time.monotonic() - started

    def _write_run_files(self) -> None:
        if not self.processes.leads:
            return
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
        if not self.processes.leads:
            return
        self.board.draw(values, self.step)
        line = {"step": self.step, "elapsed_s": round(self.elapsed_s, 2), **values}
        with (self.out / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _device(name: str) -> str:
    """`cpu`, or this process's GPU."""
    if name == "cpu":
        return name
    if not torch.cuda.is_available():
        raise ConfigError("run.device is cuda, but torch sees no GPU: set run.device=cpu, or mend the driver (`vla doctor`)")
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


def _plain(value: Any) -> Any:
    """Tuples as lists, for YAML."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
