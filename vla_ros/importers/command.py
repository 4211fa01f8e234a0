# SPDX-License-Identifier: Apache-2.0
"""``vla import``: checkpoints of other projects to policy bundles. Nothing of a checkpoint is executed or unpickled."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from vla_ros.importers.interface import UNNAMED_ROBOT, Interface
from vla_ros.results import write_json
from vla_ros.runtime.bundle import Bundle


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 when the bundle is written."""
    options = parse(argv)
    logging.basicConfig(level=logging.WARNING, format="vla import: %(message)s")
    console = Console(stderr=True, highlight=False)
    with console.status(f"reading {options.checkpoint}"):
        bundle = options.run(options)
    facts = describe(bundle)
    if options.json:
        write_json(options.json, facts)
    console.print(f"{bundle.directory}: {facts['bytes'] / 1e6:.1f} MB, sha256 {bundle.sha256[:16]}", markup=False)
    if bundle.manifest.robot == UNNAMED_ROBOT:
        console.print(
            "it drives no robot yet: name one, its camera and units in a file and give it with --interface (docs/own_model.md)",
            markup=False,
        )
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="vla import", description="Turn a checkpoint of another project into a policy bundle.")
    formats = parser.add_subparsers(dest="format", required=True, metavar="FORMAT")
    openvla = _format(
        formats, "openvla", "OpenVLA's folder: config.json, safetensors, tokenizer.json, statistics", _openvla, interface_required=False
    )
    openvla.add_argument(
        "--unnorm-key", metavar="KEY", help="data set whose statistics decode the actions, where the checkpoint has several"
    )
    openvla.add_argument(
        "--precision", choices=("fp16", "fp32"), default="fp16", help="of weights on disk and of the computing (default: %(default)s)"
    )
    openvla.add_argument("--text-tokens", type=int, default=64, metavar="N", help="longest prompt in tokens (default: %(default)s)")
    openvla.add_argument(
        "--center-crop", type=float, default=1.0, metavar="SHARE",
        help="share of the picture's area to keep; 0.9 for models fine-tuned with random crops (default: all)",
    )  # fmt: skip
    _format(formats, "lerobot-act", "LeRobot's ACT folder: config.json, model.safetensors, statistics", _act, interface_required=True)
    options = parser.parse_args(argv)
    if options.format == "openvla" and options.text_tokens < 16:
        parser.error(f"--text-tokens must be at least 16, got {options.text_tokens}")
    return options


def describe(bundle: Bundle) -> dict[str, Any]:
    """Machine-readable facts: ``bundle``, ``sha256``, ``robot``, ``decoding``, ``output``, ``bytes``, ``action``."""
    manifest = bundle.manifest
    return {
        "bundle": str(bundle.directory),
        "sha256": bundle.sha256,
        "robot": manifest.robot,
        "decoding": manifest.decoding,
        "output": manifest.output,
        "bytes": sum((bundle.directory / name).stat().st_size for name in manifest.file_names),
        "action": list(manifest.action.names),
    }


def _format(
    formats: Any, name: str, summary: str, run: Callable[[argparse.Namespace], Bundle], interface_required: bool
) -> argparse.ArgumentParser:
    parser = formats.add_parser(name, help=summary, description=f"{summary}. Nothing of it is executed or unpickled.")
    parser.add_argument("checkpoint", type=Path, metavar="DIR", help="the checkpoint's folder")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="BUNDLE", help="folder of the bundle; an earlier bundle there is replaced"
    )
    parser.add_argument(
        "--interface",
        type=Path,
        metavar="FILE",
        required=interface_required,
        help="YAML: robot, cameras, units and rate, which a checkpoint does not say",
    )
    parser.add_argument(
        "--no-parity",
        dest="parity",
        action="store_false",
        help="do not compare the graphs with PyTorch on an example, where memory is short",
    )
    parser.add_argument("--json", metavar="FILE", help="write facts of the bundle as JSON")
    parser.set_defaults(run=run)
    return parser


def _openvla(options: argparse.Namespace) -> Bundle:
    from vla_ros.importers.openvla import import_openvla

    return import_openvla(
        options.checkpoint, options.out, unnorm_key=options.unnorm_key, precision=options.precision, text_tokens=options.text_tokens,
        crop_area=options.center_crop, parity=options.parity, interface=Interface.load(options.interface) if options.interface else None,
    )  # fmt: skip


def _act(options: argparse.Namespace) -> Bundle:
    from vla_ros.importers.act import import_act

    return import_act(options.checkpoint, options.out, Interface.load(options.interface), parity=options.parity)
