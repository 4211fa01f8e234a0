# SPDX-License-Identifier: Apache-2.0
"""``vla inspect``: a policy bundle's contract for people, and whether its files are the ones that were measured.

Needs neither onnxruntime nor torch: a bundle that cannot be loaded can still be looked at.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vla_ros.core.manifest import Manifest
from vla_ros.core.paths import bundle_dir
from vla_ros.results import write_json
from vla_ros.runtime.bundle import bundle_sha256, file_sha256, read_manifest

FILE_OK = "ok"
FILE_MISSING = "missing"
FILE_CHANGED = "changed"


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 if every file is as the manifest says, 1 if one is missing or changed."""
    parser = argparse.ArgumentParser(prog="vla inspect", description="Show a policy bundle's manifest and verify its files.")
    parser.add_argument("bundle", help="folder with manifest.yaml, or the name of a folder below models/")
    parser.add_argument("--json", metavar="FILE", help="write manifest and file check as JSON")
    options = parser.parse_args(argv)
    folder = bundle_dir(options.bundle)
    manifest = read_manifest(folder)
    files = check_files(folder, manifest)
    show(folder, manifest, files, Console(highlight=False))
    intact = all(entry["state"] == FILE_OK for entry in files.values())
    if options.json:
        facts = {"bundle": str(folder), "bundle_sha256": bundle_sha256(manifest), "intact": intact, "files": files}
        write_json(options.json, {**facts, "manifest": manifest.to_dict()})
    return 0 if intact else 1


def check_files(folder: Path, manifest: Manifest) -> dict[str, dict[str, Any]]:
    """State, size in bytes and hashes of every file that the manifest names."""
    result = {}
    for name in manifest.file_names:
        path, expected = folder / name, manifest.sha256[name]
        found = file_sha256(path) if path.is_file() else None
        state = FILE_MISSING if found is None else FILE_OK if found == expected else FILE_CHANGED
        size = path.stat().st_size if found else 0
        result[name] = {"state": state, "bytes": size, "sha256": found, "expected_sha256": expected}
    return result


def show(folder: Path, manifest: Manifest, files: dict[str, dict[str, Any]], console: Console) -> None:
    """Prints the bundle for people."""
    console.print(Text(manifest.name, style="bold"), Text(f"({folder})", style="dim"))
    console.print(Text(manifest.description))
    console.print(_facts(manifest))
    console.print(_actions(manifest))
    console.print(_files(files))
    _show_measured(folder, manifest, console)


def _facts(manifest: Manifest) -> Table:
    proprio = [f"{entry.name} [{entry.unit}]" for entry in manifest.proprio]
    table = Table.grid(padding=(0, 2))
    rows = {
        "robot": manifest.robot,
        "cameras": ", ".join(f"{c.name} {c.height}x{c.width}x{c.channels}{'' if c.required else ' (optional)'}" for c in manifest.cameras) + (f"; {manifest.frames} pictures of each" if manifest.frames > 1 else ""),
        "proprio": f"{len(proprio)}: " + ", ".join(proprio) if proprio else "none",
        "prompt": manifest.prompt_template or "none: it reads no text",
        "plan": "none" if manifest.plan is None else ", ".join(_plan_slot(slot) for slot in manifest.plan.slots),
        "decoding": manifest.decoding if manifest.output == "tokens" else "continuous actions",
        **_tokens(manifest),
        "graph": f"opset {manifest.opset}",
        "sha256": bundle_sha256(manifest),
    }
    for key, value in rows.items():
        table.add_row(Text(key, style="cyan"), Text(value))
    return table


def _tokens(manifest: Manifest) -> dict[str, str]:
    """How the context is shared and what the ids are, where there are any."""
    context, vocabulary = manifest.context, manifest.vocabulary
    if context is None or vocabulary is None:
        return {}
    return {
        "context": f"{context.length} tokens: image {context.image_tokens}, text {context.text_tokens}, state {context.state_tokens}, "
        f"action {context.action_tokens}",
        "vocabulary": f"{vocabulary.size} ids, actions {vocabulary.first_action_token}.."
        f"{vocabulary.first_action_token + vocabulary.num_action_tokens - 1}" + ("" if manifest.codec is None else ", quantile bins"),
    }


def _plan_slot(slot: Any) -> str:
    return f"{slot.name} ({'|'.join(slot.words)})" if slot.words else f"{slot.name} [{slot.low}..{slot.high} {slot.unit}, {slot.frame}]"


def _actions(manifest: Manifest) -> Table:
    spec = manifest.action
    table = Table(title=f"action chunk: {spec.horizon} steps of {spec.dt_s} s", title_justify="left", box=SIMPLE_HEAD)
    for column in ("dimension", "kind", "unit", "frame", "relative", "low", "high", "bins"):
        table.add_column(column, overflow="fold")
    for dim in spec.dims:
        relative = "yes" if dim.relative else "no"
        table.add_row(dim.name, dim.kind, dim.unit, dim.frame, relative, f"{dim.low:g}", f"{dim.high:g}", str(dim.num_bins))
    return table


def _files(files: dict[str, dict[str, Any]]) -> Table:
    table = Table(title="files", title_justify="left", box=SIMPLE_HEAD)
    for column in ("file", "state", "MB", "sha256"):
        table.add_column(column, overflow="fold")
    for name, entry in files.items():
        style = "green" if entry["state"] == FILE_OK else "bold red"
        table.add_row(name, Text(entry["state"], style=style), f"{entry['bytes'] / 1e6:.2f}", entry["expected_sha256"][:16] + "…")
    return table


def _show_measured(folder: Path, manifest: Manifest, console: Console) -> None:
    """How the bundle was made, and its own evaluation where it has one."""
    if manifest.provenance:
        console.print(Text("provenance", style="cyan"))
        console.print(Text(yaml.safe_dump(manifest.provenance, sort_keys=False, allow_unicode=True).rstrip()))
    evaluation = folder / "evaluation.json"
    if not evaluation.is_file():
        return
    try:
        measured = json.loads(evaluation.read_text(encoding="utf-8"))
        line = f"{measured['success_rate']:.1%} of {measured['episodes']} episodes, split {measured['split']}, 95 % {measured['ci95']}"
    except (ValueError, KeyError, TypeError) as error:
        line = f"evaluation.json cannot be read: {error!r}"
    console.print(Text("evaluation", style="cyan"), Text(line))
