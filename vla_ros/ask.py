# SPDX-License-Identifier: Apache-2.0
"""``vla ask``: a question about a picture, answered by a policy bundle in its own words; or how often such answers are right.

With ``--measure N`` the questions come from the simulator, whose ground truth knows the answers, on scenes that training never sees.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from vla_ros.core.errors import ConfigError, InstructionTooLong
from vla_ros.core.paths import bundle_dir
from vla_ros.figures import success_summary
from vla_ros.results import PROVIDERS, machine_facts, write_json
from vla_ros.runtime.answerer import Answerer
from vla_ros.runtime.bundle import load_bundle

SPLITS = ("seen", "unseen")
MAX_PICTURES = 100_000  # far below the first seed of a training scene


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the answer (or the table of ``--measure``) and returns 0; 1 if fewer answers than ``--require`` are right."""
    options = parse(argv)
    answerer = Answerer(load_bundle(bundle_dir(options.bundle)), options.provider, options.threads)
    console = Console(highlight=False)
    if options.measure:
        report = measure(answerer, options.measure, options.split)
        show(report, console)
    else:
        answer = answerer.answer(read_picture(Path(options.image)), options.question)
        report = {"question": options.question, "answer": answer.text, "probability": answer.probability}
        console.print(answer.text, markup=False)
    if options.json:
        write_json(options.json, {**report, "bundle": answerer.bundle.manifest.name, "bundle_sha256": answerer.bundle.sha256})
    return int(options.require is not None and report.get("accuracy", 1.0) < options.require)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="vla ask", description="Ask a policy about a picture.")
    parser.add_argument("bundle", help="policy bundle: a folder with manifest.yaml, or the name of a folder below models/")
    parser.add_argument("image", nargs="?", help="picture of the first camera's view, any size (PNG, JPEG)")
    parser.add_argument("question", nargs="?", help="such as 'what colour is the cube?'")
    parser.add_argument("--measure", type=int, default=0, metavar="N", help="instead of a picture, ask one question of each of N simulated scenes and count right answers")
    parser.add_argument("--split", choices=SPLITS, default="seen", help="phrasings (and tasks) that training saw, or did not")
    parser.add_argument("--require", type=float, metavar="RATE", help="with --measure: exit with 1 if fewer answers are right, 0 to 1")
    parser.add_argument("--provider", choices=PROVIDERS, default="cpu", help="where the policy runs")
    parser.add_argument("--threads", type=int, default=1, help="threads of one pass (default 1)")
    parser.add_argument("--json", metavar="FILE", help="write the answer, or all figures, as JSON")
    options = parser.parse_args(argv)
    if not 0 <= options.measure <= MAX_PICTURES:
        parser.error(f"--measure must be 1 to {MAX_PICTURES}, got {options.measure}")
    if bool(options.measure) == bool(options.image):
        parser.error("give a picture and a question, or --measure N")
    if options.image and not options.question:
        parser.error("the question is missing: vla ask BUNDLE IMAGE 'what colour is the cube?'")
    return options


def read_picture(path: Path) -> np.ndarray:
    """A picture file as uint8 rgb [H, W, 3]; raises ConfigError if it is none."""
    try:
        data = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; give a picture file (PNG, JPEG)") from error
    bgr = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if bgr is None:
        raise ConfigError(f"{path} is no picture that can be decoded: give a PNG or JPEG file")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def measure(answerer: Answerer, pictures: int, split: str) -> dict[str, Any]:
    """Asks about simulated scenes.

    Returns:
        ``accuracy``, ``ci95``, ``questions``, ``split``, ``by_kind``, and every question with what was said under ``answers``.
    """
    from vla_ros.sim.questions import QUESTION_KINDS, is_right

    said = []
    for picture, question in track(draw_questions(pictures, split), total=pictures, description="asking", console=Console(stderr=True)):
        try:
            words = answerer.answer(picture, question.text).text
        except InstructionTooLong:
            words = ""  # a question that the policy cannot read is one that it cannot answer
        said.append({"kind": question.kind, "question": question.text, "answer": words, "truth": question.answer, "right": is_right(question, words)})
    overall = success_summary(row["right"] for row in said)
    by_kind = {kind: success_summary(row["right"] for row in said if row["kind"] == kind) for kind in QUESTION_KINDS}
    return {
        "accuracy": overall["success_rate"], "ci95": overall["ci95"], "questions": len(said), "split": split,
        "by_kind": by_kind, "machine": machine_facts(), "answers": said,
    }  # fmt: skip


def draw_questions(pictures: int, split: str) -> Iterator[tuple[np.ndarray, Any]]:
    """Pictures of evaluation scenes with a question each."""
    from vla_ros.sim.question_data import CAMERA, QuestionRecorder

    recorder = QuestionRecorder(1, split, randomize_look=1.0)
    seed, found = 0, 0
    while found < pictures:
        for frame in recorder.episode(seed):
            yield frame[CAMERA.name], frame["questions"][0]
            found += 1
        seed += 1


def show(report: dict[str, Any], console: Console) -> None:
    """Prints the figures for people."""
    table = Table(title=f"answers, split {report['split']}", title_justify="left")
    for column in ("kind", "right", "95 %", "questions"):
        table.add_column(column, justify="left" if column == "kind" else "right")
    for name, row in {**report["by_kind"], "all": {"success_rate": report["accuracy"], "ci95": report["ci95"], "n": report["questions"]}}.items():
        if row["n"]:
            table.add_row(name, f"{row['success_rate']:.1%}", f"{row['ci95'][0]:.1%} to {row['ci95'][1]:.1%}", str(row["n"]))
    console.print(table)
