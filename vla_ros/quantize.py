# SPDX-License-Identifier: Apache-2.0
"""``vla quantize``: a smaller and faster bundle of the same policy, which is refused unless it does what the first one does.

Parity is judged twice: on observations of scenes that training never saw (a mean difference of at most half a bin, the rounding of the
action tokens themselves), and in closed loop (the success rate must not fall below the first bundle's 95 % interval in the same episodes).
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vla_ros.core.errors import ConfigError, VlaError
from vla_ros.core.paths import bundle_dir
from vla_ros.importers.bundle import seal
from vla_ros.results import machine_facts, write_json
from vla_ros.runtime.bundle import Bundle, load_bundle
from vla_ros.runtime.contract import ACTION_LOGITS, FREE_TOKEN, PLAN_TOKENS, PREFIX_TOKENS
from vla_ros.runtime.session import BoundGraph, OnnxPolicy

MAX_MEAN_BIN_DIFFERENCE = 0.5  # bins; action tokens round by up to half a bin themselves
HELD_SEED, CALIBRATION_SEED = 9_998_000, 9_997_000  # evaluation scenes, apart from those of any usual evaluation run
RECORD_LIMIT_S = 10.0  # simulated time of an episode from which observations are taken
TIMING_ROUNDS = 40

Inputs = dict[str, np.ndarray]


class ParityError(VlaError):
    """The quantised policy does not do what the first one does.

    Attributes:
        candidates: one row for each method that was tried.
    """

    def __init__(self, candidates: list[dict[str, Any]]) -> None:
        super().__init__(refusal(candidates))
        self.candidates = candidates


def main(argv: Sequence[str] | None = None) -> int:
    """`vla quantize`: returns 0 when the bundle is written, 1 when parity fails."""
    options = parse(argv)
    console = Console(stderr=True)
    source = load_bundle(bundle_dir(options.bundle))
    if options.out.resolve() == source.directory:
        raise ConfigError(f"--out is the bundle itself: give another folder than {options.out}")
    try:
        report = quantize_bundle(source, options, console)
    except ParityError as error:
        console.print(Text(f"vla quantize: {error}", style="red"), soft_wrap=True)
        if options.json:
            write_json(options.json, {"bundle": None, "refused": str(error), "candidates": error.candidates, "machine": machine_facts()})
        return 1
    if options.json:
        write_json(options.json, report)
    show(report, Console(highlight=False))
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    from vla_ros.quantized_graph import METHODS

    parser = argparse.ArgumentParser(prog="vla quantize", description="Make a bundle faster, and prove that it still does the same.")
    parser.add_argument("bundle", help="policy bundle: a folder with manifest.yaml, or the name of a folder below models/")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the new bundle; replaced if it exists")
    parser.add_argument("--precision", choices=("int8", "fp16"), default="int8", help="int8 for the CPU, fp16 for a GPU (default: %(default)s)")
    parser.add_argument("--method", choices=tuple(METHODS), help="only this one; by default the fastest that keeps parity")
    parser.add_argument("--keep", nargs="*", default=[], metavar="NODE", help="names of graph nodes that stay as they are")
    parser.add_argument("--episodes", type=int, default=100, help="closed-loop episodes of each bundle; 0 skips them (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which set of scenes, as in vla evaluate (default: %(default)s)")
    parser.add_argument("--observations", type=int, default=200, help="held observations that are compared (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes of the closed loop (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads of one inference when methods are timed (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write the parity report as JSON")
    options = parser.parse_args(argv)
    if options.episodes < 0 or min(options.observations, options.workers, options.threads) < 1:
        parser.error("--observations, --workers and --threads must be at least 1, --episodes at least 0")
    return options


def quantize_bundle(source: Bundle, options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Tries the methods, judges the fastest first, and writes the first one that keeps parity.

    Returns:
        The report: ``method``, ``candidates``, ``observations``, ``closed_loop``, sizes and hashes.

    Raises:
        ParityError: none keeps it; nothing is written.
    """
    from vla_ros.quantized_graph import METHODS, write_graph

    names = [options.method] if options.method else [name for name, method in METHODS.items() if method.precision == options.precision]
    with console.status("recording observations of held scenes"):
        held = record_inputs(source, HELD_SEED, options.observations)
        calibration = record_inputs(source, CALIBRATION_SEED, min(options.observations, 64))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{options.out.name}-", dir=options.out.parent) as folder:
        graphs = {name: Path(folder) / f"{name}.onnx" for name in names}
        kept = {}
        for name, path in graphs.items():
            with console.status(f"quantising: {name}"):
                kept[name] = write_graph(source.policy_path, path, METHODS[name], calibration, options.keep)
        candidates = judge(source.policy_path, graphs, held, options.threads)
        for row in candidates:
            row["kept"] = kept[row["method"]]
        order = [row for row in candidates if row["mean_bin_difference"] <= MAX_MEAN_BIN_DIFFERENCE]
        for row in sorted(order, key=lambda row: row["inference_ms"]):
            name = row["method"]
            staged = stage(source, graphs[name], Path(folder) / options.out.name, {"method": name, "kept": kept[name], **observed(row)})
            row["closed_loop"] = closed_loop(source.directory, staged, options) if options.episodes else None
            if row["closed_loop"] is None or row["closed_loop"]["passed"]:
                return publish(source, staged, options.out, row, candidates)
            shutil.rmtree(staged)
    raise ParityError(candidates)


def refusal(candidates: Sequence[Mapping[str, Any]]) -> str:
    """What failed, and what to do."""
    lines = []
    for row in candidates:
        line = f"{row['method']}: {row['mean_bin_difference']:.2f} bins apart on average, allowed are {MAX_MEAN_BIN_DIFFERENCE}"
        if row.get("closed_loop"):
            loop = row["closed_loop"]
            line += f"; success {loop['quantised']['success_rate']:.0%}, needed {loop['source']['ci95'][0]:.0%}"
        lines.append(line)
    remedy = "keep the layers that differ most with --keep, take --precision fp16 (for a GPU), or stay with the bundle as it is"
    return "no method keeps parity and nothing was written.\n  " + "\n  ".join(lines) + f"\nTo go on: {remedy}"


# ---- observations ----


class RecordingBackend:
    """A policy's back end that remembers what it was given."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.seen: list[Inputs] = []

    def infer(self, inputs: Mapping[str, np.ndarray]) -> Any:
        """As the back end does."""
        self.seen.append({name: array.copy() for name, array in inputs.items()})
        return self._backend.infer(inputs)

    def warm_up(self) -> float:
        """As the back end does."""
        return self._backend.warm_up()


def record_inputs(bundle: Bundle, first_seed: int, count: int) -> list[Inputs]:
    """Graph inputs of ``count`` observations, spread over episodes that the policy plays in scenes from ``first_seed`` on."""
    from vla_ros.closed_loop import ClosedLoop, EpisodeSpec
    from vla_ros.evaluate import FAMILIES
    from vla_ros.runtime.policy import Policy
    from vla_ros.sim.env import TabletopEnv

    env = TabletopEnv()
    recorder = RecordingBackend(OnnxPolicy(bundle))
    policy = Policy(bundle, env.robot, backend=recorder)
    loop = ClosedLoop(env=env, policy=policy, cameras=bundle.manifest.cameras, limit_s=RECORD_LIMIT_S)
    episode = 0
    while len(recorder.seen) < count or episode < len(FAMILIES):
        loop.run(EpisodeSpec(seed=first_seed + episode, family=FAMILIES[episode % len(FAMILIES)]))
        episode += 1
    places = np.linspace(0, len(recorder.seen) - 1, count).astype(int)
    return [recorder.seen[place] for place in places]


def compare(outputs: Sequence[Inputs], expected: Sequence[Inputs], inputs: Sequence[Inputs]) -> dict[str, float]:
    """How far tokens are apart, over the tokens that were free.

    Args:
        outputs: of the quantised graph.
        expected: of the first one.
        inputs: what both were given.

    Returns:
        ``equal_tokens`` (share), ``mean_bin_difference``, ``p99_bin_difference``, ``max_bin_difference``, ``equal_plans`` (share).
    """
    free_KN = np.concatenate([sample[PREFIX_TOKENS] == FREE_TOKEN for sample in inputs])
    bins_KN, expected_KN = (np.concatenate([answer[ACTION_LOGITS].argmax(-1) for answer in answers]) for answers in (outputs, expected))
    difference = np.abs(bins_KN - expected_KN)[free_KN]
    plans = [np.array_equal(a[PLAN_TOKENS], b[PLAN_TOKENS]) for a, b in zip(outputs, expected, strict=True) if PLAN_TOKENS in b]
    return {
        "equal_tokens": round(float((difference == 0).mean()), 4),
        "mean_bin_difference": round(float(difference.mean()), 4),
        "p99_bin_difference": float(np.percentile(difference, 99)),
        "max_bin_difference": float(difference.max()),
        "equal_plans": round(float(np.mean(plans)), 4) if plans else 1.0,
    }


def judge(source: Path, graphs: Mapping[str, Path], held: Sequence[Inputs], threads: int) -> list[dict[str, Any]]:
    """One row for each graph: parity on the held observations, latency beside the first graph in interleaved rounds, size."""
    from vla_ros.bench.rounds import interleave

    bound = {name: BoundGraph(path, threads=threads) for name, path in {"": source, **graphs}.items()}
    answers = {name: [_copied(graph.infer(sample)) for sample in held] for name, graph in bound.items()}
    seconds = interleave([(name, lambda g=graph: g.infer(held[0])) for name, graph in bound.items()], TIMING_ROUNDS)
    medians_ms = {name: 1e3 * float(np.median(values)) for name, values in seconds.items()}
    return [
        {
            "method": name,
            **compare(answers[name], answers[""], held),
            "inference_ms": round(medians_ms[name], 3),
            "ratio": round(medians_ms[""] / medians_ms[name], 3),
            "size_mb": round(path.stat().st_size / 1e6, 2),
        }
        for name, path in graphs.items()
    ]


def observed(row: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a row that does not depend on how busy the machine was."""
    return {key: value for key, value in row.items() if "difference" in key or "equal" in key}


def _copied(outputs: Mapping[str, np.ndarray]) -> Inputs:
    return {name: array.copy() for name, array in outputs.items()}


# ---- closed loop ----


def closed_loop(source: Path, quantised: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Both bundles in the same episodes, by ``vla evaluate``; ``passed`` unless the rate falls below the first one's interval."""
    from vla_ros import evaluate

    reports = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, bundle in (("source", source), ("quantised", quantised)):
            path = Path(folder) / f"{name}.json"
            words = {"--episodes": options.episodes, "--seed": options.seed, "--workers": options.workers, "--json": path}
            evaluate.main([str(bundle), *(str(word) for pair in words.items() for word in pair)])
            reports[name] = json.loads(path.read_text(encoding="utf-8"))
    return closed_loop_parity(reports["source"], reports["quantised"])


def closed_loop_parity(source: Mapping[str, Any], quantised: Mapping[str, Any]) -> dict[str, Any]:
    """The verdict of two reports of ``vla evaluate`` over the same episodes."""
    pairs = list(zip(source["outcomes"], quantised["outcomes"], strict=True))
    return {
        "passed": quantised["success_rate"] >= source["ci95"][0],
        "source": {key: source[key] for key in ("success_rate", "ci95", "episodes", "bundle_sha256")},
        "quantised": {key: quantised[key] for key in ("success_rate", "ci95", "episodes", "bundle_sha256")},
        "only_source_succeeds": sum(a["success"] and not b["success"] for a, b in pairs),
        "only_quantised_succeeds": sum(b["success"] and not a["success"] for a, b in pairs),
        "evaluation": dict(quantised),
    }


# ---- the new bundle ----


def stage(source: Bundle, graph: Path, folder: Path, facts: Mapping[str, Any]) -> Path:
    """Writes the new bundle into ``folder``: graph, tokenizer, manifest with their hashes and where it came from."""
    folder.mkdir()
    manifest = source.manifest
    policy = manifest.files["policy"]
    shutil.copyfile(graph, folder / policy)
    for name in manifest.file_names:
        if name != policy:
            shutil.copyfile(source.directory / name, folder / name)
    new = replace(
        manifest,
        name=folder.name,
        provenance={**manifest.provenance, "quantisation": {**facts, "source": manifest.name, "source_sha256": source.sha256}},
    )
    OnnxPolicy(seal(folder, new)).warm_up()
    return folder


def publish(source: Bundle, staged: Path, out: Path, row: dict[str, Any], candidates: list[dict[str, Any]]) -> dict[str, Any]:
    """Moves the bundle to its place and returns the report."""
    loop = row.pop("closed_loop")
    if loop is not None:
        write_json(staged / "evaluation.json", loop.pop("evaluation"))
    if out.exists():
        shutil.rmtree(out)
    staged.rename(out)
    return {
        "bundle": str(out),
        "method": row["method"],
        "observations": row,
        "closed_loop": loop,
        "candidates": candidates,
        "source_size_mb": round(source.policy_path.stat().st_size / 1e6, 2),
        "source_sha256": source.sha256,
        "sha256": load_bundle(out).sha256,
        "machine": machine_facts(),
    }


def show(report: Mapping[str, Any], console: Console) -> None:
    """Prints the report for people."""
    table = Table(title=f"{report['bundle']}: {report['method']}", title_justify="left")
    for column in ("method", "tokens equal", "mean bins apart", "plans equal", "ms", "times as fast", "MB"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for row in report["candidates"]:
        figures = (f"{row['equal_tokens']:.1%}", f"{row['mean_bin_difference']:.3f}", f"{row['equal_plans']:.1%}")
        table.add_row(row["method"], *figures, f"{row['inference_ms']:.2f}", f"{row['ratio']:.2f}", f"{row['size_mb']:.1f}")
    console.print(table)
    loop = report["closed_loop"]
    if loop is None:
        console.print("closed loop: not played (--episodes 0): this bundle's success is not measured")
        return
    for name in ("source", "quantised"):
        low, high = loop[name]["ci95"]
        console.print(f"  {name}: {loop[name]['success_rate']:.1%} ({low:.1%} to {high:.1%}) of {loop[name]['episodes']} episodes")
