# SPDX-License-Identifier: Apache-2.0
"""`vla renew`: the graphs of a policy bundle written anew, as this release exports them. Weights, contract and answers stay.

Exporters get better after a policy was trained, and an execution provider may not know an operator that another is fastest with
(`--plain-attention`). Neither needs the training run: a bundle of `vla export` holds every weight that its graphs use.
"""

from __future__ import annotations

import argparse
import logging
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vla_ros import __version__
from vla_ros.bundle_checkpoint import bundle_state
from vla_ros.core.errors import ConfigError
from vla_ros.export import MAX_LOGIT_DIFFERENCE, ExportedPolicy, check_parity, export_graphs, git_hash, measure
from vla_ros.export_answers import ParityError
from vla_ros.importers.bundle import seal, staged
from vla_ros.model.fused import OPSET
from vla_ros.results import write_json
from vla_ros.runtime.bundle import load_bundle
from vla_ros.runtime.contract import ACTION_LOGITS, PLAN_TOKENS
from vla_ros.runtime.session import OnnxPolicy, probe_inputs
from vla_ros.train.checkpoint import restore_policy

PROBES = 16
OF_THE_OLD_FILES = ("evaluation.json",)  # measured with the old graphs, whose hash it names

_log = logging.getLogger(__name__)


def renew(source: Path, out: Path, *, plain_attention: bool = False, threads: int = 2) -> dict[str, Any]:
    """Writes `source`'s bundle with new graphs to `out`, which must not exist.

    Returns:
        Parity with the network and with the old graph (`max_logit_difference`, `max_difference_from_before`), and `inference_ms` of both.

    Raises:
        BundleError: `source` is no whole bundle.
        ConfigError: it is not of `vla export`, or `out` exists.
        ParityError: the new graph differs; nothing is written.
    """
    if out.exists():
        raise ConfigError(f"{out} exists: give another --out, or move it away")
    before = load_bundle(source)
    policy = restore_policy(bundle_state(source))
    old, rng = OnnxPolicy(before, threads=threads), np.random.default_rng(0)
    samples = [probe_inputs(old.inputs, before, rng, number % before.manifest.action.horizon) for number in range(PROBES)]
    with staged(out) as folder:
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns(*OF_THE_OLD_FILES), dirs_exist_ok=True)
        answers = export_graphs(policy, samples, folder, plain_attention)
        written_by = {"vla_ros": __version__, "git": git_hash()}
        manifest = replace(before.manifest, opset=OPSET, provenance={**before.manifest.provenance, "graphs": written_by})
        new = OnnxPolicy(seal(folder, manifest), threads=threads)
        report = {
            **check_parity(ExportedPolicy(policy).eval(), new, samples), **answers, "max_difference_from_before": _difference(old, new, samples),
            "inference_ms": {"before": measure(old, samples)["inference_ms"], "after": measure(new, samples)["inference_ms"]}, "threads": threads,
        }
    return report


def _difference(old: OnnxPolicy, new: OnnxPolicy, samples: Sequence[dict[str, np.ndarray]]) -> float:
    """Largest difference of a logit.

    Raises:
        ParityError: it is larger than rounding explains, or the graphs plan otherwise; one tie may flip.
    """
    worst, plans = 0.0, 0
    for sample in samples:
        said = {name: array.copy() for name, array in old.infer(sample).items()}
        answer = new.infer(sample)
        worst = max(worst, float(np.abs(answer[ACTION_LOGITS] - said[ACTION_LOGITS]).max()))
        plans += int((answer[PLAN_TOKENS] != said[PLAN_TOKENS]).any())
    if not worst <= MAX_LOGIT_DIFFERENCE or plans > 1:
        raise ParityError(
            f"the new graph answers otherwise than the bundle: logits differ by {worst:.2g}, allowed are {MAX_LOGIT_DIFFERENCE}; {plans} of {len(samples)} plans differ"
        )
    return worst


def main(argv: Sequence[str] | None = None) -> int:
    """`vla renew`: returns 0 when the bundle is written, 1 when a new graph differs from the old."""
    parser = argparse.ArgumentParser(prog="vla renew", description="Write a bundle's graphs anew: same weights and answers, the operators of this release.")
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder that `vla export` wrote, such as models/tabletop")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the new bundle; its last part is not its name, which stays")
    parser.add_argument("--plain-attention", action="store_true", help="write attention out, for OpenVINO, which does not know ONNX's operator")
    parser.add_argument("--threads", type=int, default=2, help="threads of the latency figures (default 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write parity and latency as JSON")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")  # the exporter's libraries say much at INFO
    _log.setLevel(logging.INFO)
    try:
        report = renew(arguments.bundle, arguments.out, plain_attention=arguments.plain_attention, threads=arguments.threads)
    except ParityError as error:
        _log.error("vla renew: %s", error)
        return 1
    if arguments.json:
        write_json(arguments.json, report)
    before, after = (report["inference_ms"][which]["p50"] for which in ("before", "after"))
    _log.info("%s: answers alike, logits differ by at most %.1e; %.1f ms an inference, before %.1f", arguments.out, report["max_difference_from_before"], after, before)
    _log.info("measure it anew: vla evaluate %s --json %s", arguments.out, arguments.out / "evaluation.json")
    return 0
