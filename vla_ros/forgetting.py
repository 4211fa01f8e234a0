# SPDX-License-Identifier: Apache-2.0
"""``vla forgetting``: what a policy lost of its old tasks when it learned new ones, from evaluations before and after.

Reads reports of ``vla evaluate --json``. Both of a pair must have played the same scenes with the same words, so that every episode is
compared with itself.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from vla_ros.core.errors import ConfigError
from vla_ros.figures import Z_95, success_summary
from vla_ros.results import write_json

_SPEC = ("seed", "family", "split", "other_task", "variation")
_SETTINGS = ("delay_ms", "takeover", "limit_s", "simulator", "mode")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0, or 1 if more than ``--allowed`` of the old tasks' success was lost."""
    options = _parser().parse_args(argv)
    old = compare(read(options.old[0]), read(options.old[1]))
    report: dict[str, Any] = {"old": old, "allowed": options.allowed}
    if options.new:
        report["new"] = compare(read(options.new[0]), read(options.new[1]))
    _show(report, Console(highlight=False))
    if options.json:
        write_json(options.json, report)
    return int(old["lost"] > options.allowed)


def read(path: Path) -> dict[str, Any]:
    """A report of ``vla evaluate``.

    Raises:
        ConfigError: the file is none.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        report["outcomes"][0]["spec"]["seed"]
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise ConfigError(f"{path} is no report of vla evaluate --json ({type(error).__name__})") from error
    return report | {"path": str(path)}


def compare(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Success before and after, what was ``lost`` (before minus after, a part of 1) with its interval, and all of it by family.

    Raises:
        ConfigError: they played other episodes, or under other conditions.
    """
    for key in _SETTINGS:
        if before[key] != after[key]:
            raise ConfigError(f"{before['path']} was played with {key} {before[key]}, {after['path']} with {after[key]}: evaluate both alike")
    outcomes = [{tuple(row["spec"].get(key) for key in _SPEC): row for row in report["outcomes"]} for report in (before, after)]
    if set(outcomes[0]) != set(outcomes[1]):
        raise ConfigError(f"{before['path']} and {after['path']} played other scenes: evaluate both with the same --episodes, --seed, --split and --families")
    pairs = [(row["family"], row["success"], outcomes[1][spec]["success"]) for spec, row in outcomes[0].items()]
    families = dict.fromkeys(family for family, _, _ in pairs)
    return {
        **_figures([pair[1:] for pair in pairs]),
        "bundles": [report["bundle_sha256"] for report in (before, after)],
        "by_task": {name: _figures([pair[1:] for pair in pairs if pair[0] == name]) for name in families},
    }


def _figures(pairs: Sequence[tuple[bool, bool]]) -> dict[str, Any]:
    before, after = (success_summary(column) for column in zip(*pairs))
    low, high = paired_interval(sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs), len(pairs))
    return {"before": before, "after": after, "lost": round(before["success_rate"] - after["success_rate"], 4), "lost_ci95": [round(low, 4), round(high, 4)]}


def paired_interval(only_before: int, only_after: int, trials: int) -> tuple[float, float]:
    """95 % interval of the difference of two proportions of the same trials, after Agresti and Min (2005): Wald's with half a trial added to each cell.

    Args:
        only_before, only_after: trials with success before only, and after only.
        trials: all of them.
    """
    b, c, n = only_before + 0.5, only_after + 0.5, trials + 2
    half = Z_95 * math.sqrt(b + c - (b - c) ** 2 / n) / n
    return (b - c) / n - half, (b - c) / n + half


def _show(report: dict[str, Any], console: Console) -> None:
    table = Table(title="before and after learning new tasks", title_justify="left")
    for column in ("tasks", "before", "after", "lost, points", "95 %", "episodes"):
        table.add_column(column, justify="left" if column == "tasks" else "right")
    for part in ("old", "new"):
        if part not in report:
            continue
        for name, row in ({**report[part]["by_task"], f"{part}, all": report[part]}).items():
            low, high = row["lost_ci95"]
            rates = [f"{row[when]['success_rate']:.1%}" for when in ("before", "after")]
            table.add_row(name, *rates, f"{100 * row['lost']:+.1f}", f"{100 * low:+.1f} to {100 * high:+.1f}", str(row["before"]["n"]))
    console.print(table)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vla forgetting", description="What a policy lost of its old tasks when it learned new ones.")
    pair = ("BEFORE", "AFTER")
    parser.add_argument("--old", type=Path, nargs=2, required=True, metavar=pair, help="reports of vla evaluate --json on the old tasks, of both policies")
    parser.add_argument("--new", type=Path, nargs=2, metavar=pair, help="the same on the new tasks")
    parser.add_argument("--allowed", type=float, default=0.02, help="greatest loss, as a part of 1 (default 0.02: two points)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the comparison as JSON")
    return parser
