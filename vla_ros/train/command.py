# SPDX-License-Identifier: Apache-2.0
"""`vla train`: command line of the training loop."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from vla_ros.core.errors import ConfigError
from vla_ros.train.board import Board
from vla_ros.train.checkpoint import load_checkpoint
from vla_ros.train.config import load_config
from vla_ros.train.dataset import Dataset
from vla_ros.train.heap import keep_heap
from vla_ros.train.interrupt import StopOnSignal
from vla_ros.train.parallel import Processes
from vla_ros.train.questions import QuestionDataset
from vla_ros.train.trainer import Trainer

_log = logging.getLogger(__name__)


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
    if arguments.init and arguments.transfer:
        raise ConfigError("--init and --transfer are two ways to begin: give one")
    init = load_checkpoint(arguments.init) if arguments.init and not resume else None
    transfer = load_checkpoint(arguments.transfer) if arguments.transfer and not resume else None
    texts = [line for path in _text_files(arguments) for line in path.read_text(encoding="utf-8").splitlines()]
    questions = QuestionDataset(arguments.questions, config.data.val_fraction) if arguments.questions else None
    processes = Processes.join(config.run.device)
    board = Board(arguments.out / "tensorboard" if arguments.tensorboard and processes.leads else None)
    trainer = Trainer(config, dataset, arguments.out, resume=resume, init=init, transfer=transfer, texts=texts, questions=questions, processes=processes, board=board)
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    _log.info(
        "%.2f M parameters, %d frames to train on, %d held out, K=%d",
        parameters / 1e6, dataset.num_frames(), dataset.num_frames(held_out=True), dataset.labels,
    )
    with StopOnSignal(trainer), board:
        metrics = trainer.run()
    processes.leave()
    if arguments.json and processes.leads:
        from vla_ros.results import write_json

        write_json(arguments.json, {"step": trainer.step, "elapsed_s": trainer.elapsed_s, "finished": not trainer.stop_requested, **metrics})
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vla train", description="Train a policy on demonstrations that `vla collect` recorded.")
    parser.add_argument("--config", type=Path, help="YAML file of settings, such as config/train/tabletop.yaml")
    parser.add_argument("--data", type=Path, nargs="+", required=True, metavar="DIR", help="dataset folders")
    parser.add_argument("--weights", type=float, nargs="+", metavar="W", help="how often each folder is drawn from; default: by size")
    parser.add_argument("--questions", type=Path, nargs="+", metavar="DIR", help="folders of `vla collect --questions`, for co-training; needs model.answer_tokens")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for checkpoints and metrics")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override one setting; may be repeated")
    parser.add_argument("--resume", action="store_true", help="go on from OUT/last.pt")
    parser.add_argument("--init", type=Path, metavar="CHECKPOINT", help="start from the weights of another run")
    parser.add_argument("--transfer", type=Path, metavar="CHECKPOINT", help="start anew with what fits of another run's weights, such as to teach answers to a policy that acts")
    parser.add_argument("--texts", type=Path, metavar="FILE", help="further texts, one a line, whose words the tokenizer should know; default: texts.txt of the data")
    parser.add_argument("--tensorboard", action="store_true", help="also write the metrics to OUT/tensorboard (needs the package tensorboard)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the final metrics as JSON")
    return parser


def _text_files(arguments: argparse.Namespace) -> list[Path]:
    """The file that was named, else those that lie beside the demonstrations."""
    if arguments.texts:
        return [arguments.texts]
    return [folder / "texts.txt" for folder in [*arguments.data, *(arguments.questions or [])] if (folder / "texts.txt").exists()]
