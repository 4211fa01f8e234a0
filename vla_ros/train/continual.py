# SPDX-License-Identifier: Apache-2.0
"""`vla continual`: teaches a trained policy new demonstrations without losing the old ones, and reports what it forgot.

Methods: `none` (plain further training, the baseline), `rehearsal` (a share of each batch is old), `ewc` (weights that
mattered resist change), `both`. Leaves what `vla train` leaves, `ewc.pt`, and `continual.json`.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from vla_ros.core.errors import ConfigError
from vla_ros.model.config import PolicyConfig
from vla_ros.model.policy import Policy
from vla_ros.train.checkpoint import load_checkpoint, restore_policy, restore_tokenizer, save_checkpoint
from vla_ros.train.config import TrainConfig, read_values
from vla_ros.train.data import Batch, BatchMaker, Dataset
from vla_ros.train.ewc import Consolidation, EwcPenalty, consolidate, sampled_log_likelihood
from vla_ros.train.heap import keep_heap
from vla_ros.train.interrupt import StopOnSignal
from vla_ros.train.losses import Metrics, PolicyLoss
from vla_ros.train.parallel import map_tensors
from vla_ros.train.rehearsal import rehearsal_weights
from vla_ros.train.shape import model_settings
from vla_ros.train.trainer import Trainer

_log = logging.getLogger(__name__)

METHODS = ("none", "rehearsal", "ewc", "both")


def forgetting(score_IJ: np.ndarray) -> dict[str, Any]:
    """What was lost of earlier tasks.

    Args:
        score_IJ: score of task j after stage i of training, higher is better; square, task j is learned in stage j.

    Returns:
        `by_task` (best earlier score minus the last one, for each task but the last), their mean `forgetting` (Chaudhry et al.,
        arXiv 1801.10112), and `backward_transfer` (last score minus the one right after learning; Lopez-Paz and Ranzato,
        arXiv 1706.08840).

    Raises:
        ConfigError: not a square of two tasks or more.
    """
    score_IJ = np.asarray(score_IJ, dtype=np.float64)
    if score_IJ.ndim != 2 or score_IJ.shape[0] != score_IJ.shape[1] or len(score_IJ) < 2:
        raise ConfigError(f"forgetting needs scores of two tasks or more after as many stages, got shape {list(score_IJ.shape)}")
    last = len(score_IJ) - 1
    lost = [float(score_IJ[task:last, task].max() - score_IJ[last, task]) for task in range(last)]
    transfer = float(np.mean([score_IJ[last, task] - score_IJ[task, task] for task in range(last)]))
    return {"by_task": lost, "forgetting": float(np.mean(lost)), "backward_transfer": transfer}


class PenalisedLoss:
    """A policy's loss with the penalty of consolidation, which counts in training only; stands in `Trainer.loss`."""

    def __init__(self, loss: PolicyLoss, penalty: EwcPenalty, model: Policy) -> None:
        self._loss, self._penalty, self._model = loss, penalty, model

    def __call__(self, output: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """As `PolicyLoss`, with the part `ewc`."""
        total, parts = self._loss(output, batch)
        if not torch.is_grad_enabled():
            return total, parts
        penalty = self._penalty(self._model)
        return total + penalty, {**parts, "total": parts["total"] + penalty.detach(), "ewc": penalty.detach()}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loss, name)


def consolidate_policy(policy: Policy, dataset: Dataset, tokenizer: Tokenizer, config: TrainConfig, samples: int) -> Consolidation:
    """Remembers a policy, from `samples` frames of the dataset with one label each."""
    single = replace(config.data, frames_per_batch=1, labels_per_frame=1)
    maker = BatchMaker(dataset, tokenizer, single, config.run.seed, policy.config)
    policy = policy.eval().requires_grad_(True)

    def log_likelihoods() -> Iterator[Tensor]:
        for number in range(samples):
            yield sampled_log_likelihood(Trainer.forward(policy, maker.training_batch(number)))

    return consolidate(policy, log_likelihoods())


def measure(policy: Policy, maker: BatchMaker, loss: PolicyLoss, frames: int) -> dict[str, float]:
    """Loss of the action tokens and validation metrics on held-out frames."""
    metrics, total, labels = Metrics(maker.meta), 0.0, 0
    device = next(policy.parameters()).device
    with torch.inference_mode():
        for batch in maker.validation_batches(frames):
            output = Trainer.forward(policy.eval(), map_tensors(batch, lambda tensor: tensor.to(device)))
            answered = replace(output, action_NQA=policy.chunk_logits(output))
            total += len(batch.text_NT) * float(loss.action(map_tensors(output, Tensor.cpu), batch))
            labels += len(batch.text_NT)
            metrics.add(map_tensors(answered, Tensor.cpu), batch)
    return {"loss_action": total / labels, **metrics.result()}


def continual_config(state: dict[str, Any], path: Path | None, overrides: Sequence[str]) -> TrainConfig:
    """The earlier run's settings with changes from a file and from `section.key=value`. The phase that trains vision alone is left out.

    A bundle's checkpoint knows the network's shape and no other setting.
    """
    earlier, changes = state.get("train_config") or {"model": model_settings(state["model_config"]), "run": {}}, read_values(path, overrides)
    merged = {section: dict(values) for section, values in earlier.items()}
    merged["run"]["vision_fraction"] = 0.0
    for section, values in changes.items():
        merged[section] = {**merged.get(section, {}), **(values or {})}
    return TrainConfig.from_dict(merged)


class ContinualRun:
    """One stage: the policy of a checkpoint learns new data.

    Args:
        config: settings of the training.
        state: checkpoint of the policy that knows the old data.
        old, new: dataset folders.
        out: output folder; with `resume`, the one that holds last.pt and ewc.pt.
        method: one of `METHODS`.
        share: part of each batch that is old, with rehearsal.
        strength: of the penalty, with EWC.
        samples: frames that the Fisher information is measured on.
        memory: ewc.pt of an earlier stage, to be remembered as well.
    """

    def __init__(
        self, config: TrainConfig, state: dict[str, Any], old: Sequence[Path], new: Sequence[Path], out: Path, *,
        method: str, share: float = 0.3, strength: float = 100.0, samples: int = 500, memory: Path | None = None,
        resume: bool = False,
    ) -> None:
        if method not in METHODS:
            raise ConfigError(f"method is {method!r}: valid are {', '.join(METHODS)}")
        self.config, self.state, self.method, self.out = config, state, method, out
        self._data = {"old": Dataset(old, None, config.data.val_fraction), "new": Dataset(new, None, config.data.val_fraction)}
        folders, weights = list(new), None
        if method in ("rehearsal", "both"):
            sizes = [[Dataset([folder], None, config.data.val_fraction).num_frames() for folder in group] for group in (new, old)]
            folders, weights = [*new, *old], rehearsal_weights(*sizes, share)
        dataset = Dataset(folders, weights, config.data.val_fraction)
        last = load_checkpoint(out / "last.pt") if resume else None
        self.trainer = Trainer(config, dataset, out, resume=last, init=None if resume else state)
        self._strength = strength if method in ("ewc", "both") else 0.0
        if self._strength:
            penalty = EwcPenalty(self._remembered(samples, memory, resume), strength)
            self.trainer.loss = PenalisedLoss(self.trainer.loss, penalty, self.trainer.model)

    def run(self) -> dict[str, Any]:
        """Trains and reports: metrics of old and new data before and after, and `forgetting` of scores that are minus the action loss."""
        with torch.random.fork_rng():  # a network made for measuring must not change what a resumed run draws
            before = self._measure(restore_policy(self.state))
        self.trainer.run()
        after = self._measure(self.trainer.averaged.model)
        score_IJ = [[-stage[part]["loss_action"] for part in ("old", "new")] for stage in (before, after)]
        return {
            "method": self.method, "step": self.trainer.step, "finished": not self.trainer.stop_requested,
            "before": before, "after": after, "score": "minus loss_action", **forgetting(np.array(score_IJ)),
        }

    def _measure(self, policy: Policy) -> dict[str, dict[str, float]]:
        frames = self.config.run.val_frames
        makers = {name: self._maker(dataset) for name, dataset in self._data.items()}
        return {name: measure(policy, maker, PolicyLoss(maker.meta, self.config.loss), frames) for name, maker in makers.items()}

    def _maker(self, dataset: Dataset) -> BatchMaker:
        shape = PolicyConfig.from_dict(self.state["model_config"])
        return BatchMaker(dataset, restore_tokenizer(self.state), self.config.data, self.config.run.seed, shape)

    def _remembered(self, samples: int, earlier: Path | None, resume: bool) -> Consolidation:
        """Made once and saved beside the checkpoints, since a resumed run must resist alike."""
        path = self.out / "ewc.pt"
        if resume:
            return _load_memory(path)
        torch.manual_seed(self.config.run.seed)
        begun = restore_policy({**self.state, "averaged": self.trainer.model.state_dict()})  # a bundle's batch norms are settled by now
        memory = consolidate_policy(begun, self._data["old"], restore_tokenizer(self.state), self.config, samples)
        if earlier:
            memory = _load_memory(earlier).joined(memory)
        save_checkpoint(path, memory.to_dict())
        return memory


def _load_memory(path: Path) -> Consolidation:
    saved = load_checkpoint(path)
    if "fisher" not in saved:
        raise ConfigError(f"{path} holds no memory of weights: give the ewc.pt of an earlier `vla continual`")
    return Consolidation(fisher=saved["fisher"], anchor=saved["anchor"])


def main(argv: Sequence[str] | None = None) -> int:
    """`vla continual`: returns 0; SIGINT and SIGTERM save and end the run."""
    arguments = _parser().parse_args(argv)
    keep_heap()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    last = arguments.out / "last.pt"
    if last.exists() and not arguments.resume:
        raise ConfigError(f"{last} exists: use --resume to go on, or another --out")
    state = load_checkpoint(arguments.checkpoint)
    if "model_config" not in state or "averaged" not in state:
        raise ConfigError(f"{arguments.checkpoint} holds no policy: give best.pt or last.pt of `vla train`, or what `vla checkpoint` made of a bundle")
    if "train_config" not in state and not arguments.config:
        raise ConfigError(
            f"{arguments.checkpoint} was made of a bundle, which does not tell how to train: give --config config/train/tabletop.yaml "
            "--set loss.vision=0 --set data.proprio_dropout=0 (a bundle has no weights of the vision loss and of a withheld state, which would begin at random)"
        )
    config = continual_config(state, arguments.config, arguments.set)
    run = ContinualRun(
        config, state, arguments.old, arguments.new, arguments.out, method=arguments.method, share=arguments.share,
        strength=arguments.strength, samples=arguments.samples, memory=arguments.memory,
        resume=arguments.resume,
    )
    with StopOnSignal(run.trainer):
        report = run.run()
    from vla_ros.results import write_json

    write_json(arguments.out / "continual.json", report)
    if arguments.json:
        write_json(arguments.json, report)
    _log.info("old data: loss_action %.4g before, %.4g after; new data: %.4g before, %.4g after", *(
        report[stage][part]["loss_action"] for part in ("old", "new") for stage in ("before", "after")
    ))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vla continual", description="Teach a trained policy new demonstrations without losing the old ones.")
    parser.add_argument("--checkpoint", type=Path, required=True, help="best.pt or last.pt of the policy that knows the old data, or a bundle's (vla checkpoint)")
    parser.add_argument("--old", type=Path, nargs="+", required=True, metavar="DIR", help="datasets that it knows (a memory of some episodes will do)")
    parser.add_argument("--new", type=Path, nargs="+", required=True, metavar="DIR", help="datasets that it is to learn")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for checkpoints and the report")
    parser.add_argument("--method", choices=METHODS, default="both", help="default both")
    parser.add_argument("--share", type=float, default=0.3, help="rehearsal: part of each batch that is old (default 0.3)")
    parser.add_argument("--strength", type=float, default=100.0, help="ewc: strength of the penalty (default 100)")
    parser.add_argument("--samples", type=int, default=500, help="ewc: frames for the Fisher information (default 500)")
    parser.add_argument("--memory", type=Path, metavar="FILE", help="ewc: ewc.pt of an earlier stage, remembered as well")
    parser.add_argument("--config", type=Path, help="YAML file of settings that replace the earlier run's")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="replace one setting; may be repeated")
    parser.add_argument("--resume", action="store_true", help="go on from OUT/last.pt")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON here too")
    return parser
