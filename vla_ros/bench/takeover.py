# SPDX-License-Identifier: Apache-2.0
"""What each way to take over costs and brings when inference takes longer: success, and jerk at the seams beside jerk inside chunks.

In simulated time with the embedded simulator: the figures do not depend on this machine's speed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import track

from vla_ros import evaluate
from vla_ros.bench.rounds import entry
from vla_ros.closed_loop import EpisodeResult
from vla_ros.core.paths import bundle_dir
from vla_ros.core.takeover import Takeover
from vla_ros.figures import success_summary

METRIC = "takeover_jerk"
SEED = 77  # scenes that no evaluation of the documentation uses


def bench_takeover(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Returns ``results``: root mean square jerk of each episode, relative to the limits; and ``success`` with a note for each combination."""
    combinations = [(takeover, delay_ms) for delay_ms in options.delays for takeover in Takeover]
    played = {combination: play(options, *combination) for combination in track(combinations, "takeover", console=console)}
    results, success, notes = [], [], []
    for (takeover, delay_ms), episodes in played.items():
        name = f"{takeover.value}, {delay_ms:g} ms"
        results += entries(name, episodes)
        summary = success_summary(episode.success for episode in episodes)
        success.append({"takeover": takeover.value, "delay_ms": delay_ms, **summary})
        low, high = summary["ci95"]
        notes.append(f"{name}: {summary['success_rate']:.1%} of {summary['n']} episodes succeed ({low:.1%} to {high:.1%})")
    return {"results": results, "success": success, "notes": notes}


def play(options: argparse.Namespace, takeover: Takeover, delay_ms: float) -> list[EpisodeResult]:
    """The same scenes for every combination."""
    arguments = [options.model, "--episodes", str(options.episodes), "--seed", str(SEED), "--provider", options.provider]
    evaluation = evaluate.parse([*arguments, "--delay-ms", f"{delay_ms:g}", "--takeover", takeover.value])
    specs = evaluate.plan_episodes(evaluation.episodes, 0, evaluation.seed, evaluation.split)
    return list(evaluate.play_in_processes(specs, evaluation, str(bundle_dir(options.model))))


def entries(name: str, episodes: Sequence[EpisodeResult]) -> list[dict[str, Any]]:
    """Two entries; the ratio is the jerk inside chunks over that at their seams: 1 and more is no rougher."""
    inside = entry(f"{name}: inside chunks", METRIC, "of the limit", [episode.inside_jerk for episode in episodes])
    seams = entry(f"{name}: at seams", METRIC, "of the limit", [episode.boundary_jerk for episode in episodes])
    if seams["p50"]:
        seams |= {"baseline": inside["name"], "ratio": round(inside["p50"] / seams["p50"], 3)}
    return [inside, seams]
