# SPDX-License-Identifier: Apache-2.0
"""``vla evaluate``: how often the robot does what it is told, with 95 % intervals.

By default in one process and in simulated time (``closed_loop``), on scenes that training never sees: evaluation seeds lie
below ten million, collection's above. ``--ros`` plays the same scenes through the real nodes over DDS, in real time.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import get_context
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from vla_ros.closed_loop import DEFAULT_ASK_PERIOD_MS, DEFAULT_DELAY_MS, EPISODE_LIMIT_S, EXPERT, GAZEBO, MUJOCO, SIMULATORS, ClosedLoop, EpisodeResult, EpisodeSpec, load_closed_loop
from vla_ros.core.errors import ConfigError, VlaError
from vla_ros.core.paths import bundle_dir
from vla_ros.core.takeover import Takeover
from vla_ros.figures import success_summary
from vla_ros.results import PROVIDERS, machine_facts, write_json
from vla_ros.runtime.bundle import Bundle, load_bundle

FAMILIES = ("reach", "push", "pick", "put", "stack")
NEW_FAMILIES = ("front",)  # which the shipped policy was not taught
SPLITS = ("seen", "unseen", "combinations", "phrasings")
VARIATIONS = ("none", "positions", "distractors", "light", "textures")
SEEDS_PER_RUN = 1_000
MAX_SEED = 9_999  # (MAX_SEED + 1) * SEEDS_PER_RUN = 10 million: the first seed that collection uses

Play = Callable[[Sequence[EpisodeSpec]], Iterable[EpisodeResult]]


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 when the evaluation ran (and reached ``--require``, if given), 1 when the rate is lower."""
    if any(argument.partition("=")[0] == "--suite" for argument in (sys.argv[1:] if argv is None else argv)):
        from vla_ros.evaluate_suite import main as evaluate_suite

        return evaluate_suite(argv)
    options = parse(argv)
    is_expert = options.bundle == EXPERT
    folder = None if is_expert else bundle_dir(options.bundle)
    bundle = None if is_expert else load_bundle(folder)  # a broken bundle is refused here, not in a worker process
    specs = plan_episodes(options.episodes, options.pairs, options.seed, options.split, options.families, options.variation)
    console = Console(stderr=True)
    if options.ros:
        from vla_ros.evaluate_ros import play_over_ros

        results = collect_results(play_over_ros(specs, folder, limit_s=options.limit_s, provider=options.provider), len(specs), console)
    else:
        results = collect_results(play_in_processes(specs, options, EXPERT if is_expert else str(folder)), len(specs), console)
    report = summarize(results, bundle=bundle, options=options)
    show(report, Console(highlight=False))
    if options.json:
        write_json(options.json, report)
    return int(options.require is not None and (report["success_rate"] or 0.0) < options.require)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="vla evaluate", description="Measure how often a policy does what it is told.")
    parser.add_argument("bundle", help=f"policy bundle: a folder with manifest.yaml, or the name of a folder below models/; '{EXPERT}' plays the scripted expert")
    parser.add_argument("--suite", help="a benchmark's tasks in place of the tabletop: mt50 (vla evaluate --suite mt50 --help)")
    parser.add_argument("--episodes", type=_count, default=100, help="episodes, dealt to the task families in turn (default 100)")
    parser.add_argument("--pairs", type=_count, default=0, help="scenes that are played twice, with two different instructions (default 0)")
    parser.add_argument("--seed", type=_seed, default=0, help=f"which set of scenes, 0 to {MAX_SEED} (default 0)")
    parser.add_argument("--split", choices=SPLITS, default="seen", help="combinations and phrasings that training saw, or did not, or only one of them not")
    parser.add_argument("--variation", choices=VARIATIONS, default="none", help="scenes beyond what training saw (default: as in training)")
    parser.add_argument("--families", nargs="+", choices=(*FAMILIES, *NEW_FAMILIES), default=FAMILIES, help="task families (default: those that the shipped policy was taught)")
    parser.add_argument("--delay-ms", type=float, default=DEFAULT_DELAY_MS, help="simulated time of one inference (default %(default)g)")
    parser.add_argument("--ask-period-ms", type=float, default=DEFAULT_ASK_PERIOD_MS, help="shortest simulated time between two questions to the policy, by default as the node's inference.max_rate_hz; 0 asks again as soon as it has answered (default %(default)g)")
    parser.add_argument("--takeover", choices=[t.value for t in Takeover], default=Takeover.PREFIX.value, help="how chunks take over (default %(default)s)")
    parser.add_argument("--limit-s", type=float, default=EPISODE_LIMIT_S, help="simulated time limit of an episode (default %(default)g)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--provider", choices=PROVIDERS, default="cpu", help="where the policy runs")
    parser.add_argument("--sim", choices=SIMULATORS, default=MUJOCO, help="where the robot moves; gazebo is Gazebo Classic 11 (docs/gazebo.md)")
    parser.add_argument("--ros", action="store_true", help="through the real nodes over DDS, in real time, one episode at a time")
    parser.add_argument("--require", type=float, metavar="RATE", help="exit with 1 if the success rate is lower than this, 0 to 1")
    parser.add_argument("--json", metavar="FILE", help="write all figures as JSON")
    options = parser.parse_args(argv)
    if options.episodes + 2 * options.pairs == 0:
        parser.error("nothing to do: --episodes and --pairs are both 0")
    if options.bundle == EXPERT and options.ros:
        parser.error(f"the {EXPERT} needs the simulator's ground truth: leave out --ros")
    if (options.variation != "none" or set(options.families) - set(FAMILIES)) and (options.ros or options.sim == GAZEBO):
        parser.error("--variation and new --families are there in the embedded simulator only: leave out --ros and --sim gazebo")
    if options.sim == GAZEBO and options.ros:
        parser.error("--ros plays in the embedded simulator: leave out --sim gazebo")
    if options.workers < 1 or options.delay_ms < 0 or options.ask_period_ms < 0 or options.limit_s <= 0:
        parser.error("--workers and --limit-s must be positive, --delay-ms and --ask-period-ms not negative")
    return options


def _count(text: str) -> int:
    value = int(text)
    if not 0 <= value <= SEEDS_PER_RUN // 2:
        raise argparse.ArgumentTypeError(f"must be 0 to {SEEDS_PER_RUN // 2}, got {value}")
    return value


def _seed(text: str) -> int:
    value = int(text)
    if not 0 <= value <= MAX_SEED:
        raise argparse.ArgumentTypeError(f"must be 0 to {MAX_SEED} (training scenes begin behind), got {value}")
    return value


def plan_episodes(
    episodes: int, pairs: int, seed: int, split: str, families: Sequence[str] = FAMILIES, variation: str = "none"
) -> list[EpisodeSpec]:
    """All episodes of a run: single ones with the families in turn, then both halves of each pair.

    A pair's scenes come after all single ones, so that asking for pairs does not change the success rate.
    """
    first = seed * SEEDS_PER_RUN
    in_turn = itertools.cycle(families)
    specs = [EpisodeSpec(seed=first + i, family=next(in_turn), split=split, variation=variation) for i in range(episodes)]
    in_turn = itertools.cycle(families)
    for i in range(pairs):
        family = next(in_turn)
        scene = first + SEEDS_PER_RUN // 2 + i
        specs += [EpisodeSpec(seed=scene, family=family, split=split, variation=variation, other_task=other) for other in (False, True)]
    return specs


def is_pair(spec: EpisodeSpec) -> bool:
    """Whether an episode is half of a pair: by its scene, as ``plan_episodes`` deals them."""
    return spec.seed % SEEDS_PER_RUN >= SEEDS_PER_RUN // 2


# ---- playing ----

_loop: ClosedLoop | None = None


def play_in_processes(specs: Sequence[EpisodeSpec], options: argparse.Namespace, bundle: str) -> Iterator[EpisodeResult]:
    """Plays episodes in worker processes, in the order in which they end.

    Raises:
        ConfigError: what a worker met, in one sentence.
    """
    arguments = {"provider": options.provider, "simulator": options.sim, "settings": {"delay_ms": options.delay_ms, "ask_period_ms": options.ask_period_ms, "limit_s": options.limit_s, "takeover": options.takeover}}
    workers = min(options.workers, len(specs))
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_limit_threads)
    try:
        futures = [pool.submit(_play_one, spec, bundle, arguments) for spec in specs]
        for future in as_completed(futures):
            yield future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _limit_threads() -> None:
    """One thread a worker: several pools on the same cores slow each other down."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"


def _play_one(spec: EpisodeSpec, bundle: str, arguments: dict[str, Any]) -> EpisodeResult:
    global _loop
    try:
        if _loop is None:
            _loop = load_closed_loop(bundle, **arguments)
        return _loop.run(spec)
    except VlaError as error:  # travels between processes as text: not every exception can be pickled
        raise ConfigError(f"seed {spec.seed}: {error}") from None


def collect_results(played: Iterable[EpisodeResult], total: int, console: Console) -> list[EpisodeResult]:
    """Gathers results behind a progress bar that shows the success rate so far."""
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    columns = (TextColumn("evaluating"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), *times)
    results: list[EpisodeResult] = []
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("episodes", total=total, rate="")
        for result in played:
            results.append(result)
            progress.update(bar, advance=1, rate=f"{sum(r.success for r in results) / len(results):.0%} succeed")
    return sorted(results, key=lambda result: (result.spec.seed, result.spec.other_task))


# ---- figures ----


def summarize(results: Sequence[EpisodeResult], *, bundle: Bundle | None, options: argparse.Namespace) -> dict[str, Any]:
    """The report with the keys that DESIGN names; all rates are those of single episodes, pairs are apart."""
    single = [result for result in results if not is_pair(result.spec)]
    overall = success_summary(result.success for result in single)
    succeeded = [result for result in single if result.success]
    return {
        "success_rate": overall["success_rate"],
        "ci95": overall["ci95"],
        "episodes": len(single),
        "split": options.split,
        "seed": options.seed,
        "variation": options.variation,
        "by_task": {family: success_summary(r.success for r in single if r.family == family) for family in options.families},
        "pairs": summarize_pairs([result for result in results if is_pair(result.spec)]),
        "mean_steps": _mean([result.steps for result in single]),
        "mean_seconds_of_successes": _mean([result.seconds for result in succeeded]),
        "inference_ms": _mean([result.inference_ms for result in results if result.inferences]),
        "rejected_chunks": sum(result.rejected for result in results),
        "failures": _counts(result.reason for result in single if not result.success),
        "simulator": options.sim,
        "mode": "ros" if options.ros else "in_process",
        "delay_ms": None if options.ros else options.delay_ms,
        "ask_period_ms": None if options.ros else options.ask_period_ms,
        "takeover": options.takeover,
        "limit_s": options.limit_s,
        "provider": options.provider,
        "bundle": EXPERT if bundle is None else bundle.manifest.name,
        "bundle_sha256": None if bundle is None else bundle.sha256,
        "machine": machine_facts(),
        "outcomes": [asdict(result) for result in results],
    }


def summarize_pairs(results: Sequence[EpisodeResult]) -> dict[str, Any]:
    """How often both instructions of a scene had the right outcome, over the scenes of which both were played."""
    scenes: dict[int, list[bool]] = {}
    for result in results:
        scenes.setdefault(result.spec.seed, []).append(result.success)
    return success_summary(all(outcomes) for outcomes in scenes.values() if len(outcomes) == 2)


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 2) if values else None


def _counts(reasons: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for reason in reasons:
        counts[reason] = counts.get(reason, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def show(report: dict[str, Any], console: Console) -> None:
    """Prints the report for people."""
    table = Table(title=f"{report['bundle']}, split {report['split']}, seed {report['seed']}", title_justify="left")
    for column in ("task", "success", "95 %", "episodes"):
        table.add_column(column, justify="left" if column == "task" else "right")
    rows = {**report["by_task"], "all": {**report, "n": report["episodes"]}}
    if report["pairs"]["n"]:
        rows["pairs: both right"] = report["pairs"]
    for name, row in rows.items():
        if row["n"]:
            low, high = row["ci95"]
            table.add_row(name, f"{row['success_rate']:.1%}", f"{low:.1%} to {high:.1%}", str(row["n"]))
    console.print(table)
    for reason, count in report["failures"].items():
        console.print(f"  {count} × {reason}")
