# SPDX-License-Identifier: Apache-2.0
"""``vla evaluate BUNDLE --suite mt50``: Meta-World's fifty tasks by the benchmark's own success flag and horizon.

By default the simulation waits for the policy, as in published evaluations (``direct_loop``); ``--control loop`` plays through the node's
control loop with its delay, limits and checks. ``docs/metaworld.md`` says what else differs from published protocols.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import get_context
import os
from pathlib import Path
import re
from typing import Any

from rich.console import Console
from rich.table import Table

from vla_ros.closed_loop import EXPERT, EpisodeResult, EpisodeSpec, load_closed_loop
from vla_ros.core.embodiment import METAWORLD
from vla_ros.core.errors import ConfigError, VlaError
from vla_ros.core.paths import bundle_dir
from vla_ros.evaluate import MAX_SEED, SEEDS_PER_RUN, collect_results
from vla_ros.figures import success_summary
from vla_ros.results import PROVIDERS, machine_facts, write_json
from vla_ros.runtime.bundle import Bundle, load_bundle
from vla_ros.sim.metaworld.tasks import GROUPS, SPLITS, SUITE, group_of, tasks_of

DIRECT, LOOP = CONTROLS = ("direct", "loop")
_DELAY_MS = 50.0  # of ``--control loop``

#: Success in percent by group, as published: easy, medium, hard, very hard, and their mean. Shukor et al. (arXiv 2506.01844, table 2).
PUBLISHED = {
    "Diffusion Policy": (23.1, 10.7, 1.9, 6.1, 10.5),
    "TinyVLA": (77.6, 21.5, 11.4, 15.8, 31.6),
    "pi0 (3.5 B)": (71.8, 48.2, 41.7, 30.0, 47.9),
    "SmolVLA (0.45 B)": (82.5, 41.8, 45.0, 60.0, 57.3),
    "SmolVLA (2.25 B)": (87.14, 51.82, 70.0, 64.0, 68.24),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 when the evaluation ran (and reached ``--require``, if given), 1 when the rate is lower."""
    options = parse(argv)
    is_expert = options.bundle == EXPERT
    bundle = None if is_expert else load_bundle(bundle_dir(options.bundle))
    if bundle is not None and bundle.manifest.robot != METAWORLD.robot:
        raise ConfigError(f"bundle '{bundle.manifest.name}' is for robot '{bundle.manifest.robot}', the suite's is '{METAWORLD.robot}'")
    specs = plan_suite(tasks_of(f"{METAWORLD.name}:{options.suite}"), options.episodes, options.seed, options.split)
    played = play_in_processes(specs, options, EXPERT if is_expert else str(bundle_dir(options.bundle)))
    results = collect_results(played, len(specs), Console(stderr=True))
    report = summarize(results, bundle=bundle, options=options)
    show(report, Console(highlight=False))
    if options.json:
        write_json(options.json, report)
    if options.fill:
        fill(options.fill, report)
    return int(options.require is not None and (report["success_rate"] or 0.0) < options.require)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="vla evaluate", description="Measure how often a policy does Meta-World's tasks.")
    parser.add_argument("bundle", help=f"policy bundle for robot {METAWORLD.robot}: a folder or a name; '{EXPERT}' plays the scripted experts")
    parser.add_argument("--suite", default=SUITE, help=f"{SUITE}, a group ({', '.join(GROUPS)}) or one task such as drawer-open-v3")
    parser.add_argument("--episodes", type=int, default=10, help="episodes of each task (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help=f"which set of scenes, 0 to {MAX_SEED} (default 0)")
    parser.add_argument("--split", choices=SPLITS, default="seen", help="phrasings that training saw, or did not")
    parser.add_argument("--control", choices=CONTROLS, default=DIRECT, help="direct: as published; loop: through the node's control loop")
    parser.add_argument("--ask-period-ms", type=float, default=100.0, help="simulated time between two questions to the policy (default %(default)g)")
    parser.add_argument("--delay-ms", type=float, help=f"simulated time of one inference, with --control loop (default {_DELAY_MS:g})")
    parser.add_argument("--workers", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--provider", choices=PROVIDERS, default="cpu", help="where the policy runs")
    parser.add_argument("--require", type=float, metavar="RATE", help="exit with 1 if the success rate is lower than this, 0 to 1")
    parser.add_argument("--json", metavar="FILE", help="write all figures as JSON")
    parser.add_argument("--fill", metavar="FILE", help="write the tables between their marks in this document, such as docs/metaworld.md")
    options = parser.parse_args(argv)
    if not 1 <= options.episodes <= SEEDS_PER_RUN or not 0 <= options.seed <= MAX_SEED:
        parser.error(f"--episodes must be 1 to {SEEDS_PER_RUN}, --seed 0 to {MAX_SEED} (training scenes begin behind)")
    if options.delay_ms is not None and options.control == DIRECT:
        parser.error("--delay-ms needs --control loop: without it the simulation waits for the policy")
    options.delay_ms = _DELAY_MS if options.delay_ms is None else options.delay_ms
    if options.workers < 1 or options.ask_period_ms <= 0 or options.delay_ms < 0:
        parser.error("--workers and --ask-period-ms must be positive, --delay-ms not negative")
    return options


def plan_suite(tasks: Sequence[str], episodes: int, seed: int, split: str) -> list[EpisodeSpec]:
    """``episodes`` of each task; its scenes differ from those of other tasks even where the number is the same."""
    first = seed * SEEDS_PER_RUN
    return [EpisodeSpec(seed=first + number, family=task, split=split) for task in tasks for number in range(episodes)]


# ---- playing ----

_loop: Any = None


def play_in_processes(specs: Sequence[EpisodeSpec], options: argparse.Namespace, bundle: str) -> Iterator[EpisodeResult]:
    """Plays episodes in worker processes, one task after another.

    Raises:
        ConfigError: what a worker met, in one sentence.
    """
    settings = {"ask_period_ms": options.ask_period_ms}
    if options.control == LOOP:
        settings |= {"delay_ms": options.delay_ms, "limit_s": METAWORLD.episode_limit_s}
    arguments = {"provider": options.provider, "settings": settings}
    pool = ProcessPoolExecutor(min(options.workers, len(specs)), mp_context=get_context("spawn"), initializer=_begin_worker)
    try:
        futures = [pool.submit(_play_one, spec, bundle, options.control, arguments) for spec in specs]
        for future in as_completed(futures):
            yield future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin_worker() -> None:
    """One thread a worker; both libraries read this while they load."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LP_NUM_THREADS"):
        os.environ[name] = "1"


def _play_one(spec: EpisodeSpec, bundle: str, control: str, arguments: dict[str, Any]) -> EpisodeResult:
    global _loop
    try:
        if _loop is None:
            from vla_ros.direct_loop import DirectLoop

            make_loop = DirectLoop if control == DIRECT else None
            _loop = load_closed_loop(bundle, simulator=f"{METAWORLD.name}:{spec.family}", make_loop=make_loop, **arguments)
        return _loop.run(spec)
    except VlaError as error:  # travels between processes as text: not every exception can be pickled
        raise ConfigError(f"{spec.family}, seed {spec.seed}: {error}") from None


# ---- figures ----


def summarize(results: Sequence[EpisodeResult], *, bundle: Bundle | None, options: argparse.Namespace) -> dict[str, Any]:
    """The report with the keys of ``vla evaluate``, ``by_group`` and ``mean_of_groups``, by which the field reports."""
    overall = success_summary(result.success for result in results)
    tasks = sorted({result.family for result in results})
    groups = [group for group in GROUPS if any(group_of(task) == group for task in tasks)]
    by_group = {group: success_summary(r.success for r in results if group_of(r.family) == group) for group in groups}
    answered = [result.inference_ms for result in results if result.inferences]
    succeeded = [result.seconds for result in results if result.success]
    return {
        "suite": options.suite,
        "success_rate": overall["success_rate"],
        "ci95": overall["ci95"],
        "episodes": len(results),
        "split": options.split,
        "seed": options.seed,
        "by_task": {task: success_summary(r.success for r in results if r.family == task) for task in tasks},
        "by_group": by_group,
        "mean_of_groups": round(sum(row["success_rate"] for row in by_group.values()) / len(by_group), 4),
        "mean_steps": _mean([float(result.steps) for result in results]),
        "mean_seconds_of_successes": _mean(succeeded),
        "inference_ms": _mean(answered),
        "rejected_chunks": sum(result.rejected for result in results),
        "failures": _counts([result.reason for result in results if not result.success]),
        "simulator": METAWORLD.name,
        "mode": options.control,
        "delay_ms": options.delay_ms if options.control == LOOP else 0.0,
        "ask_period_ms": options.ask_period_ms,
        "limit_s": METAWORLD.episode_limit_s,
        "provider": options.provider,
        "bundle": EXPERT if bundle is None else bundle.manifest.name,
        "bundle_sha256": None if bundle is None else bundle.sha256,
        "parameters": None if bundle is None else bundle.manifest.provenance.get("parameters"),
        "machine": machine_facts(),
        "outcomes": [asdict(result) for result in results],
    }


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 2) if values else None


def _counts(reasons: Sequence[str]) -> dict[str, int]:
    return {reason: reasons.count(reason) for reason in sorted(set(reasons), key=reasons.count, reverse=True)}


def show(report: dict[str, Any], console: Console) -> None:
    """Prints the report for people."""
    table = Table(title=f"{report['bundle']}, {report['suite']}, split {report['split']}, seed {report['seed']}", title_justify="left")
    for column in ("task", "success", "95 %", "episodes"):
        table.add_column(column, justify="left" if column == "task" else "right")
    rows = {**report["by_task"], **report["by_group"], "all": {**report, "n": report["episodes"]}}
    for name, row in rows.items():
        low, high = row["ci95"]
        table.add_row(name.replace("_", " "), f"{row['success_rate']:.1%}", f"{low:.1%} to {high:.1%}", str(row["n"]))
    console.print(table)
    console.print(f"  mean of the groups {report['mean_of_groups']:.1%}")
    for reason, count in report["failures"].items():
        console.print(f"  {count} × {reason}")


# ---- document ----


def marks(bundle: str) -> tuple[str, str]:
    """The lines between which a bundle's tables stand."""
    return f"<!-- vla evaluate {bundle}: begin -->", f"<!-- vla evaluate {bundle}: end -->"


def fill(path: str | Path, report: dict[str, Any]) -> None:
    """Writes the report's tables between the marks of its bundle.

    Raises:
        ConfigError: the file cannot be read or written, or has no such marks.
    """
    target, (begin, end) = Path(path), marks(report["bundle"])
    try:
        text = target.read_text(encoding="utf-8")
        pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        if not pattern.search(text):
            raise ConfigError(f"{target} has no place for {report['bundle']}: put the lines {begin} and {end} where its tables should stand")
        block = "\n".join([begin, "", *tables(report), "", end])
        target.write_text(pattern.sub(lambda _: block, text), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot fill {target}: {error.strerror}") from error


def tables(report: dict[str, Any]) -> Iterator[str]:
    """How it was measured, the groups beside the published ones, and every task."""
    machine = report["machine"]
    sha = f", bundle {report['bundle_sha256'][:12]}" if report["bundle_sha256"] else ""
    delay = f", {report['delay_ms']:g} ms delay" if report["mode"] == LOOP else ""
    yield (
        f"`{report['bundle']}`{sha}: {report['episodes']} episodes, control {report['mode']}{delay}, a question every {report['ask_period_ms']:g} ms, "
        f"split {report['split']}, seed {report['seed']}, vla_ros {machine['vla_ros']}."
    )
    yield ""
    yield "| success [%] | easy | medium | hard | very hard | mean of groups | all episodes |"
    yield "|---|--:|--:|--:|--:|--:|--:|"
    groups = [f"{100 * report['by_group'][g]['success_rate']:.1f}" if g in report["by_group"] else "" for g in GROUPS]
    low, high = report["ci95"]
    overall = f"{100 * report['success_rate']:.1f} ({100 * low:.1f} to {100 * high:.1f})"
    yield f"| **{report['bundle']}** | " + " | ".join([*groups, f"{100 * report['mean_of_groups']:.1f}", overall]) + " |"
    for name, row in PUBLISHED.items():
        yield f"| {name} | " + " | ".join(f"{value:.1f}" for value in row) + " | |"
    yield ""
    yield "| task | group | success [%] | 95 % | n |"
    yield "|---|---|--:|--:|--:|"
    for task, row in report["by_task"].items():
        low, high = row["ci95"]
        yield f"| {task} | {group_of(task).replace('_', ' ')} | {100 * row['success_rate']:.0f} | {100 * low:.0f} to {100 * high:.0f} | {row['n']} |"
