# SPDX-License-Identifier: Apache-2.0
"""The command line of ``vla bench``: runs one subject or all, prints tables, writes JSON and a plot."""

from __future__ import annotations

import argparse
import importlib
import platform
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vla_ros.bench.parts import earlier_report, joined
from vla_ros.cli import missing_module_hint
from vla_ros.results import PROVIDERS, machine_facts, write_json

#: Subject to the module and function that measure it, in the order of ``all``.
SUBJECTS = {
    "inference": ("vla_ros.bench.inference", "bench_inference"),
    "control": ("vla_ros.bench.control", "bench_control"),
    "filter": ("vla_ros.bench.filter", "bench_filter"),
    "stops": ("vla_ros.bench.stops", "bench_stops"),
    "end-to-end": ("vla_ros.bench.end_to_end", "bench_end_to_end"),
    "transport": ("vla_ros.bench.transport", "bench_transport"),
    "takeover": ("vla_ros.bench.takeover", "bench_takeover"),
    "scale": ("vla_ros.bench.scale", "bench_scale"),
}
CONDITIONS = ("idle", "load", "flood")
SCHEDULERS = ("fifo", "normal")
AXES = ("image", "cameras", "chunk", "model")
FIGURES = ("p50", "p99", "p999", "max")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0, or with ``--check`` 1 if a figure is over its limit."""
    options = parse(argv)
    console = Console(stderr=True)
    report = begun_report(options)
    for subject in SUBJECTS if options.what == "all" else [options.what]:
        part = measure_or_note(subject, options, console) if options.what == "all" else measure(subject, options, console)
        report |= {key: value for key, value in part.items() if key not in ("results", "notes")}
        report["results"] = joined(report["results"], part["results"])
        report["notes"] += [note for note in part["notes"] if note not in report["notes"]]
        if options.fill:
            from vla_ros.bench.markdown import fill

            fill(options.fill, subject, only(subject, report))
        if options.json:  # after each subject: a record takes hours
            write_json(options.json, report)
    show(report, Console(highlight=False))
    if options.plot:
        from vla_ros.bench.plot import write_svg

        write_svg(options.plot, report["results"])
    return int(options.check and any(over_limit(row) for row in report["results"]))


def begun_report(options: argparse.Namespace) -> dict[str, Any]:
    """What figures go into: empty, or with ``--append`` what ``--json`` holds of this machine."""
    machine = bench_facts()
    earlier = earlier_report(options.json, machine) if options.append else {"results": [], "notes": [], "dates": []}
    dates = sorted({*earlier["dates"], date.today().isoformat()})
    return {**earlier, "settings": settings_of(options), "machine": machine, "dates": dates}


def only(subject: str, report: Mapping[str, Any]) -> dict[str, Any]:
    """A report of one subject alone."""
    return {**report, **{key: [item for item in report[key] if item["subject"] == subject] for key in ("results", "notes")}}


def measure_or_note(subject: str, options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Runs one subject of all; one whose packages are not installed is left out with a note."""
    try:
        return measure(subject, options, console)
    except ModuleNotFoundError as error:
        hint = missing_module_hint(error)
        if hint is None:
            raise
        return named(subject, {"results": [], "notes": [f"{subject} left out: {hint}"]})


def measure(subject: str, options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Runs one subject."""
    return named(subject, function_of(subject)(options, console))


def named(subject: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that was found carries the subject's name."""
    more = {f"{subject.replace('-', '_')}_{key}": value for key, value in found.items() if key not in ("results", "notes")}
    results = [{"subject": subject, **row} for row in found["results"]]
    return {"results": results, "notes": [{"subject": subject, "text": text} for text in found.get("notes", [])], **more}


def function_of(subject: str) -> Callable[[argparse.Namespace, Console], dict[str, Any]]:
    """What measures a subject; its module is imported here."""
    module, name = SUBJECTS[subject]
    return getattr(importlib.import_module(module), name)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="vla bench", description="Measure speed beside baselines and beside what cannot be beaten.")
    add = parser.add_argument
    add("what", nargs="?", choices=(*SUBJECTS, "all"), default="all", help="default: %(default)s")
    add("--model", default="tabletop", help="policy bundle (default: %(default)s)")
    add("--threads", type=int, default=1, help="threads of one inference on the CPU (default: %(default)s)")
    add("--provider", choices=PROVIDERS, default="cpu", help="where the policy runs (default: %(default)s)")
    add("--json", metavar="FILE", help="write all figures as JSON")
    add("--plot", metavar="FILE", help="draw all figures as SVG")
    add("--append", action="store_true", help="go on with the record in --json, of this machine: what is measured again is replaced, the rest is kept")
    add("--fill", metavar="FILE", help="write the tables between their marks in a Markdown file, such as docs/realtime.md")
    add("--check", action="store_true", help="exit with 1 if a figure is over its limit")
    group = parser.add_argument_group("inference and scale")
    add = group.add_argument
    add("--rounds", type=int, default=200, help="rounds, each calls every variant once (default: %(default)s)")
    add("--int8", metavar="BUNDLE", help="quantised bundle of the same policy; by default one is made for the run")
    add("--autoregressive", metavar="BUNDLE", help="a bundle of the project's own policy that decodes token after token, to compare in the same rounds")
    add("--checkpoint", type=Path, help="training checkpoint of the same network, where the bundle does not say how it is built")
    add("--no-compile", action="store_true", help="leave torch.compile out: compiling takes minutes")
    add("--global-pool", action="store_true", help="also a session on ONNX Runtime's global thread pool")
    add("--axes", type=_choices(AXES), default=AXES, metavar="LIST", help=f"what scale varies, of {','.join(AXES)} (default: all)")
    group = parser.add_argument_group("control and end-to-end")
    add = group.add_argument
    add("--cycles", type=int, default=10_000, help="control periods of each condition (default: %(default)s)")
    add("--rate", type=_numbers(1, 1000, "Hz", "50,100"), default=(50, 100, 200), metavar="HZ,HZ", help="control rates, Hz (default: 50,100,200)")
    add("--conditions", type=_choices(CONDITIONS), default=CONDITIONS, metavar="LIST", help=f"of {','.join(CONDITIONS)} (default: all)")
    add("--scheduler", type=_choices(SCHEDULERS), default=SCHEDULERS, metavar="LIST", help=f"of {','.join(SCHEDULERS)} (default: both)")
    add("--segments", type=int, default=4, help="parts in which conditions take turns (default: %(default)s)")
    parser.add_argument_group("stops").add_argument("--stops", type=int, default=20, help="of each kind (default: %(default)s)")
    group = parser.add_argument_group("takeover")
    group.add_argument("--episodes", type=int, default=50, help="episodes of each delay and way to take over (default: %(default)s)")
    group.add_argument("--delays", type=_numbers(0, 10_000, "ms", "0,200"), default=(0, 100, 200, 300, 400), metavar="MS,MS", help="of inference (default: 0,100,200,300,400)")
    group = parser.add_argument_group("transport")
    group.add_argument("--pictures", type=int, default=900, help="pictures of each profile (default: %(default)s)")
    options = parser.parse_args(argv)
    if options.append and not options.json:
        parser.error("--append goes on with the record in --json: name it")
    for name in ("rounds", "threads", "cycles", "segments", "pictures", "episodes", "stops"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1")
    return options


def _choices(valid: Sequence[str]) -> Any:
    def read(text: str) -> tuple[str, ...]:
        names = tuple(text.split(","))
        unknown = [name for name in names if name not in valid]
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown {', '.join(unknown)}: choose of {', '.join(valid)}")
        return names

    return read


def _numbers(low: int, high: int, unit: str, example: str) -> Callable[[str], tuple[int, ...]]:
    def read(text: str) -> tuple[int, ...]:
        try:
            numbers = tuple(int(part) for part in text.split(","))
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"expected whole numbers like {example}, got {text!r}") from error
        if not all(low <= number <= high for number in numbers):
            raise argparse.ArgumentTypeError(f"must be {low} to {high} {unit}, got {text}")
        return numbers

    return read


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """The options, as JSON knows them."""
    values = {name: value for name, value in vars(options).items() if name not in ("json", "append", "plot", "fill", "check")}
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def bench_facts() -> dict[str, Any]:
    """What a figure of time depends on besides the machine: kernel and its preemption model."""
    return {**machine_facts(), "kernel": platform.release(), "kernel_version": platform.version()}


def over_limit(row: Mapping[str, Any]) -> bool:
    """Whether a figure of an entry is over its own limit."""
    return any(row[key] > bound for key, bound in row.get("limit", {}).items())


def show(report: Mapping[str, Any], console: Console) -> None:
    """Prints one table for each metric, then the notes."""
    results = report["results"]
    for metric in dict.fromkeys(row["metric"] for row in results):
        rows = [row for row in results if row["metric"] == metric]
        unit = f" [{rows[0]['unit']}]" if rows[0]["unit"] else ""
        table = Table(title=Text(f"{metric}{unit}"), title_justify="left", box=SIMPLE_HEAD)
        for column in ("variant", "p50", "p99", "p99.9", "max", "n", "ratio", "limit"):
            table.add_column(column, justify="left" if column == "variant" else "right", overflow="fold")
        for row in rows:
            ratio = f"{row['ratio']:.2f}" if "ratio" in row else "-"
            table.add_row(row["name"], *(f"{row[key]:.2f}" for key in FIGURES), str(row["n"]), ratio, _limit(row))
        console.print(table)
    for note in report["notes"]:
        console.print(Text(f"note: {note['text']}"), soft_wrap=True)


def _limit(row: Mapping[str, Any]) -> Text:
    if "limit" not in row:
        return Text("-")
    words = ", ".join(f"{key} {bound:g}" for key, bound in row["limit"].items())
    return Text(words, style="red" if over_limit(row) else "green")
