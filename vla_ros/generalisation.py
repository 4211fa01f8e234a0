# SPDX-License-Identifier: Apache-2.0
"""``vla generalisation``: success as an expectation over tasks and scenes, the ones that demonstrations show and those that they do not.

Each condition has as many episodes with the families in turn; the table gives its rate with Wilson's interval. One thing is changed at a time, so
that a drop has one cause.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from rich.console import Console

from vla_ros.closed_loop import EXPERT
from vla_ros.core.errors import ConfigError
from vla_ros.core.paths import bundle_dir
from vla_ros.evaluate import FAMILIES, collect_results, parse, plan_episodes, play_in_processes, summarize
from vla_ros.results import machine_facts, write_json
from vla_ros.runtime.bundle import load_bundle

BEGIN, END = "<!-- generalisation: begin -->", "<!-- generalisation: end -->"


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What differs from demonstrations: ``split`` and ``variation`` as of ``vla evaluate``."""

    name: str
    idea: str
    split: str = "seen"
    variation: str = "none"


CONDITIONS = (
    Condition(name="seen", idea="as in demonstrations, in scenes that were none"),
    Condition(name="combinations", idea="family, colour and shape together were never shown (one in seven)", split="combinations"),
    Condition(name="phrasings", idea="sentences that were never used", split="phrasings"),
    Condition(name="unseen", idea="both", split="unseen"),
    Condition(name="positions", idea="every block outside the rectangle in which demonstrations lay them", variation="positions"),
    Condition(name="distractors", idea="six blocks in place of three or four", variation="distractors"),
    Condition(name="light", idea="place and strength of the light two to three spreads away", variation="light"),
    Condition(name="textures", idea="a pattern on the table, colours of table and floor two to three spreads away", variation="textures"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 when every condition was played."""
    options = _parser().parse_args(argv)
    chosen = [condition for condition in CONDITIONS if condition.name in options.only]
    is_expert = options.bundle == EXPERT
    folder = None if is_expert else bundle_dir(options.bundle)
    bundle = None if is_expert else load_bundle(folder)
    rows, console = earlier_rows(options, None if bundle is None else bundle.sha256), Console(stderr=True)
    for condition in chosen:
        if condition.name in rows:
            continue
        console.print(f"{condition.name}: {condition.idea}", highlight=False)
        settings = ["--episodes", str(options.episodes), "--seed", str(options.seed), "--workers", str(options.workers), "--provider", options.provider]
        run = parse([options.bundle, *settings, "--split", condition.split, "--variation", condition.variation])
        specs = plan_episodes(run.episodes, 0, run.seed, run.split, FAMILIES, run.variation)
        played = collect_results(play_in_processes(specs, run, EXPERT if is_expert else str(folder)), len(specs), console)
        rows[condition.name] = {"idea": condition.idea, **summarize(played, bundle=bundle, options=run)}
        if options.json:
            write_json(options.json, {"machine": machine_facts(), "conditions": rows})
    rows = {condition.name: rows[condition.name] for condition in CONDITIONS if condition.name in rows}
    Console(highlight=False).print(table(rows), soft_wrap=True)
    if options.plot:
        _write(options.plot, svg(rows))
    if options.docs:
        fill(options.docs, rows, command(options))
    return 0


def earlier_rows(options: argparse.Namespace, sha256: str | None) -> dict[str, Any]:
    """Conditions that an earlier call has written to ``--json`` for the same bundle, seed and number of episodes."""
    path = options.json
    if path is None or not path.exists():
        return {}
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["conditions"]
        same = {name: row for name, row in rows.items() if (row["bundle_sha256"], row["seed"], row["episodes"]) == (sha256, options.seed, options.episodes)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is no report of vla generalisation ({error}): remove it, or give another name") from error
    if len(same) != len(rows):
        raise ConfigError(f"{path} is of another bundle, seed or number of episodes: remove it, or give another name")
    return same


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """A Markdown table: one row a condition, with the difference to ``seen`` in points and every family's rate."""
    lines = ["| condition | what differs from demonstrations | success | 95 % | against seen | " + " | ".join(FAMILIES) + " | episodes |"]
    lines.append("|---|---|--:|--:|--:|" + "--:|" * len(FAMILIES) + "--:|")
    base = rows.get("seen", {}).get("success_rate")
    for name, row in rows.items():
        low, high = row["ci95"]
        against = "–" if base is None or name == "seen" else f"{100 * (row['success_rate'] - base):+.1f}"
        families = [row["by_task"][family] for family in FAMILIES]
        rates = ["–" if family["success_rate"] is None else f"{family['success_rate']:.0%}" for family in families]
        cells = [name, row["idea"], f"{row['success_rate']:.1%}", f"{low:.1%} to {high:.1%}", against, *rates, str(row["episodes"])]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def svg(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The figure: a dot and its interval for each condition."""
    left, width, step, top = 130, 420, 28, 30
    height = top + step * len(rows) + 36

    def x(rate: float) -> float:
        return left + width * rate

    parts = [f'<text x="{left}" y="16" font-weight="bold">success, with 95 % intervals</text>']
    bottom = top + step * len(rows)
    for tick in range(0, 101, 20):
        parts.append(f'<line x1="{x(tick / 100):.1f}" x2="{x(tick / 100):.1f}" y1="{top}" y2="{bottom}" stroke="#ddd"/>')
        parts.append(f'<text x="{x(tick / 100):.1f}" y="{bottom + 18}" text-anchor="middle">{tick} %</text>')
    for index, (name, row) in enumerate(rows.items()):
        y = top + step * (index + 0.5)
        low, high = row["ci95"]
        parts.append(f'<text x="{left - 10}" y="{y + 4:.1f}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<line x1="{x(low):.1f}" x2="{x(high):.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="#0072b2" stroke-width="2"/>')
        parts.append(f'<circle cx="{x(row["success_rate"]):.1f}" cy="{y:.1f}" r="5" fill="#0072b2"><title>{row["success_rate"]:.1%}</title></circle>')
    size = f'width="{left + width + 40}" height="{height}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12"><rect {size} fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n"


def fill(path: Path, rows: Mapping[str, Mapping[str, Any]], made_by: str) -> None:
    """Writes table and command between the marks of a Markdown file; raises ConfigError if it has none."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ConfigError(f"{path} needs the lines {BEGIN} and {END} once each: the table goes between them")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    first = next(iter(rows.values()))
    said = f"Bundle `{first['bundle']}` ({(first['bundle_sha256'] or 'none')[:12]}), seed {first['seed']}, {first['delay_ms']:g} ms from picture to chunk. Made by:\n\n```bash\n{made_by}\n```"
    _write(path, f"{head}{BEGIN}\n{table(rows)}\n\n{said}\n{END}{tail}")


def command(options: argparse.Namespace) -> str:
    """The command line that makes these rows."""
    words = ["vla generalisation", options.bundle, "--episodes", str(options.episodes), "--seed", str(options.seed), "--docs", str(options.docs)]
    return " ".join([*words, *(["--plot", str(options.plot)] if options.plot else [])])


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error


def _parser() -> argparse.ArgumentParser:
    names = [condition.name for condition in CONDITIONS]
    parser = argparse.ArgumentParser(prog="vla generalisation", description="Measure a policy on tasks and scenes that its demonstrations show, and on those that they do not.")
    parser.add_argument("bundle", help=f"policy bundle: a folder with manifest.yaml, or the name of a folder below models/; '{EXPERT}' plays the scripted expert")
    parser.add_argument("--episodes", type=int, default=100, help="of each condition (default 100)")
    parser.add_argument("--seed", type=int, default=0, help="which set of scenes (default 0)")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=f"these conditions: {', '.join(names)}")
    parser.add_argument("--workers", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--provider", default="cpu", help="where the policy runs (default cpu)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all figures; conditions that it holds already are not played again")
    parser.add_argument("--docs", type=Path, metavar="FILE", help="Markdown file whose table is written anew, such as docs/generalisation.md")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="figure as SVG")
    return parser
