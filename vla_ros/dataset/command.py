# SPDX-License-Identifier: Apache-2.0
"""``vla dataset``: check datasets, exchange them with LeRobot, import recordings of a robot."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from vla_ros.results import write_json

_SHARDS = (
    "--out",
    {"type": Path, "required": True, "metavar": "SHARDS", "help": "dataset folder for `vla train`; shards are added to what is there"},
)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 when done, 1 if a checked dataset has faults."""
    options = parse(argv)
    console = Console(stderr=True, highlight=False)
    with console.status(f"{options.command} {options.source}"):
        code, facts, lines = options.run(options)
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
    if options.json:
        write_json(options.json, facts)
    return code


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="vla dataset", description="Check datasets, exchange them with LeRobot, import recordings of a robot."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    check = _command(commands, "check", "is anything missing, not finite, empty or at a wrong rate? and statistics", _check, "DIR")
    check.add_argument(
        "--statistics", type=Path, metavar="FILE", help="also write dataset_statistics.json of actions and proprioception (shards only)"
    )
    export = _command(commands, "export-lerobot", "shards to a LeRobotDataset v3", _export, "SHARDS")
    export.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make")
    export.add_argument("--codec", choices=("h264", "av1"), default="h264", help="of the films (default: %(default)s)")
    export.add_argument("--crf", type=int, default=18, help="quality of the films, smaller is better (default: %(default)s)")
    lerobot = _command(commands, "import-lerobot", "a LeRobotDataset v3 to shards", _import_lerobot, "DIR")
    lerobot.add_argument(_SHARDS[0], **_SHARDS[1])
    lerobot.add_argument(
        "--camera",
        action="append",
        default=[],
        metavar="NAME=FEATURE",
        help="which feature is camera NAME (default: observation.images.NAME)",
    )
    lerobot.add_argument(
        "--mapping",
        type=Path,
        metavar="FILE",
        help="YAML with embodiment, robot and joints (names, units), as in config/recordings/example.yaml",
    )
    rosbag = _command(
        commands, "import-rosbag", "MCAP recordings of a robot (ros2 bag, vla record) to shards", _import_rosbag, "MCAP", several=True
    )
    rosbag.add_argument(
        "--mapping", type=Path, required=True, metavar="FILE", help="what the topics mean: config/recordings/example.yaml has every key"
    )
    rosbag.add_argument(_SHARDS[0], **_SHARDS[1])
    options = parser.parse_args(argv)
    if options.command == "import-lerobot" and not all("=" in pair for pair in options.camera):
        parser.error("--camera must be NAME=FEATURE, as front=observation.images.top")
    return options


def _command(commands: Any, name: str, summary: str, run: Any, source: str, *, several: bool = False) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:])
    parser.add_argument("source", type=Path, metavar=source, **({"nargs": "+"} if several else {}))
    parser.add_argument("--json", metavar="FILE", help="write what was found or done as JSON")
    parser.set_defaults(run=run)
    return parser


def _check(options: argparse.Namespace) -> tuple[int, dict[str, Any], list[str]]:
    from vla_ros.dataset.checks import findings
    from vla_ros.dataset.summary import summary, write_statistics

    found = list(findings(options.source))
    facts: dict[str, Any] = {"dataset": str(options.source), "findings": found}
    if found:
        return 1, facts, [*found, f"{options.source}: {len(found)} findings"]
    facts |= summary(options.source)
    if options.statistics:
        write_statistics(options.source, options.statistics)
    lines = [
        f"{name}: mean {_numbers(values['mean'])}, std {_numbers(values['std'])}, min {_numbers(values['min'])}, max {_numbers(values['max'])}"
        for name, values in facts["statistics"].items()
    ]
    return 0, facts, [*lines, f"{options.source}: {facts['episodes']} episodes, {facts['frames']} frames, nothing to object to"]


def _numbers(values: Sequence[float]) -> str:
    return "[" + ", ".join(f"{value:.4g}" for value in values) + "]"


def _export(options: argparse.Namespace) -> tuple[int, dict[str, Any], list[str]]:
    from vla_ros.dataset.lerobot import export_lerobot

    return _done(options, export_lerobot(options.source, options.out, codec=options.codec, crf=options.crf))


def _import_lerobot(options: argparse.Namespace) -> tuple[int, dict[str, Any], list[str]]:
    from vla_ros.core.schema import Fields
    from vla_ros.dataset.lerobot import import_lerobot
    from vla_ros.dataset.mapping import read_body, read_joints, read_yaml
    from vla_ros.train.shards import DataError

    path = options.mapping or Path("the defaults")
    fields = Fields(read_yaml(path) if options.mapping else {}, str(path), DataError)
    body, robot = read_body(fields, path)
    joints = read_joints(fields.mapping("joints", {}), str(path), robot)
    fields.finish()
    cameras = dict(pair.split("=", 1) for pair in options.camera)
    return _done(options, import_lerobot(options.source, options.out, body=body, robot=robot, cameras=cameras, joints=joints))


def _import_rosbag(options: argparse.Namespace) -> tuple[int, dict[str, Any], list[str]]:
    from vla_ros.dataset.mapping import read_mapping
    from vla_ros.dataset.rosbag import import_rosbag

    return _done(options, import_rosbag(options.source, options.out, read_mapping(options.mapping)))


def _done(options: argparse.Namespace, counts: Any) -> tuple[int, dict[str, Any], list[str]]:
    sources = [str(source) for source in options.source] if isinstance(options.source, list) else str(options.source)
    facts = {"source": sources, "out": str(options.out), "episodes": counts.episodes, "frames": counts.frames, "notes": counts.notes}
    return 0, facts, [*counts.notes, f"{options.out}: {counts.episodes} episodes, {counts.frames} frames"]
