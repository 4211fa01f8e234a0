# SPDX-License-Identifier: Apache-2.0
"""Variants take turns, in a new order every round: on a machine that others use too, those of one round meet the same load.

Only ratios of one run mean something there. Must import nothing that a variant does not need.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import track

from vla_ros.figures import percentiles

WARM_UP_ROUNDS = 5
SCALES = {"s": 1.0, "ms": 1e3, "us": 1e6}

#: A variant: its name, and one call of it.
Variant = tuple[str, Callable[[], Any]]


@dataclass(frozen=True, kw_only=True)
class Timings:
    """Of every counted turn, by variant, s.

    Attributes:
        wall: of its last call.
        first: of its first call, which finds the caches full of what the other variants left there.
        cpu: what the whole process computed from the last call until the next turn, spinning threads included.
    """

    wall: dict[str, list[float]]
    first: dict[str, list[float]]
    cpu: dict[str, list[float]]


def time_rounds(
    variants: Sequence[Variant], rounds: int, console: Console | None = None, title: str = "", rest_s: float = 0.0, turn_s: float = 0.0
) -> Timings:
    """Gives every variant one turn a round; the first rounds are not counted.

    Args:
        variants: names and calls.
        rounds: counted rounds.
        console: for a progress bar, None for none.
        title: of the bar.
        rest_s: pause after each turn, in which threads that spin for work fall asleep: they would slow the next variant.
        turn_s: a turn has calls one right after the other until it has lasted so long, at least one. The last one then shows what is asked
            again and again, on a processor that is as fast as it gets; the first one what comes after a rest and something else.
    """
    order = list(variants)
    timings = Timings(**{kind: {name: [] for name, _ in order} for kind in ("wall", "first", "cpu")})
    shuffle = random.Random(0).shuffle
    turns: Any = range(rounds + WARM_UP_ROUNDS)
    for index in turns if console is None else track(turns, description=title, console=console):
        shuffle(order)
        for name, call in order:
            elapsed, begun = [], time.perf_counter()
            while not elapsed or time.perf_counter() - begun < turn_s:
                cpu, start = time.process_time(), time.perf_counter()
                call()
                elapsed.append(time.perf_counter() - start)
            if rest_s:
                time.sleep(rest_s)
            if index >= WARM_UP_ROUNDS:
                timings.wall[name].append(elapsed[-1])
                timings.first[name].append(elapsed[0])
                timings.cpu[name].append(time.process_time() - cpu)
    return timings


def interleave(variants: Sequence[Variant], rounds: int, console: Console | None = None, title: str = "") -> dict[str, list[float]]:
    """Seconds of every call by variant, without rests."""
    return time_rounds(variants, rounds, console, title).wall


def entry(name: str, metric: str, unit: str, values: Sequence[float], **more: Any) -> dict[str, Any]:
    """One entry of ``results``; ``values`` in its unit."""
    figures = {key: value if key == "n" else round(value, 4) for key, value in percentiles(values).items()}
    return {"name": name, "metric": metric, "unit": unit, **figures, **more}


def as_results(seconds: Mapping[str, Sequence[float]], *, metric: str, unit: str, baseline: str) -> list[dict[str, Any]]:
    """One entry for each variant; ``ratio`` is the baseline's median over this one's: 2 is twice as fast."""
    entries = [entry(name, metric, unit, [SCALES[unit] * value for value in values]) for name, values in seconds.items()]
    return with_ratios(entries, baseline)


def with_ratios(entries: Sequence[dict[str, Any]], baseline: str, key: str = "p50") -> list[dict[str, Any]]:
    """Entries of one metric with ``baseline`` and ``ratio``, the baseline's ``key`` over theirs; those of the baseline itself have none."""
    base = next((row[key] for row in entries if row["name"] == baseline), None)
    return [
        row if base is None or row["name"] == baseline or not row[key] else {**row, "baseline": baseline, "ratio": round(base / row[key], 3)}
        for row in entries
    ]
