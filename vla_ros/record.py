# SPDX-License-Identifier: Apache-2.0
"""``vla record``: everything that the policy's decisions depend on, and what came of them, in one MCAP file.

``vla replay FILE`` repeats it bit for bit; ``ros2 bag`` and Foxglove read it as well.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from vla_ros.core.errors import ConfigError, VlaError
from vla_ros.recording import MANIFEST, ROBOT_URDF, ROBOT_YAML, SESSION, RecordingWriter
from vla_ros.results import machine_facts, write_json

if TYPE_CHECKING:
    from vla_ros.ros.parameters import PolicyNodeParameters
    from vla_ros.ros.process import StopSignals

_LOOK_PERIOD_S = 0.5


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 when a recording was made, 1 if the policy node does not answer or the disk is full."""
    options = parse(argv)
    console = Console(stderr=True, highlight=False)
    from vla_ros.ros.process import StopSignals

    with StopSignals() as signals:
        counts = record(options, console, signals)
    console.print(Text(f"{options.out}: {sum(counts.values())} messages of {len(counts)} topics"), soft_wrap=True)
    if options.json:
        write_json(options.json, {"file": str(options.out), "messages": counts})
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="vla record",
        description="Record what the policy node sees, decides and commands. Ctrl-C ends the recording.",
    )
    name = time.strftime("vla_%Y-%m-%d_%H-%M-%S.mcap")
    parser.add_argument("--out", type=Path, default=Path(name), metavar="FILE", help="file to write (default: vla_DATE_TIME.mcap)")
    parser.add_argument("--node", default="/vla_policy", help="fully qualified name of the policy node (default: %(default)s)")
    parser.add_argument("--sent-images", action="store_true", help="also record the cameras' own topics; the policy's pictures always are")
    parser.add_argument("--seconds", type=float, default=0.0, help="stop by itself after so long (default: at Ctrl-C)")
    parser.add_argument("--no-compression", action="store_true", help="larger file, less work")
    parser.add_argument("--json", metavar="FILE", help="write the number of messages by topic as JSON")
    options = parser.parse_args(argv)
    if options.seconds < 0:
        parser.error("--seconds must not be negative")
    return options


def record(options: argparse.Namespace, console: Console, signals: StopSignals) -> dict[str, int]:
    """Records until a signal or the time is over; returns messages by topic.

    Raises:
        VlaError: the policy node does not answer, or the disk is full.
    """
    from vla_ros.ros.recorder import Recorder, read_parameters, recorder_node

    try:
        with recorder_node() as (node, executor):
            parameters = read_parameters(node, options.node)
            with RecordingWriter(options.out, compress=not options.no_compression) as writer:
                _attach_session(writer, options.node, parameters, console)
                say = lambda sentence: console.print(Text(sentence, style="yellow"), soft_wrap=True)  # noqa: E731
                recorder = Recorder(node, writer, options.node, sent_images=options.sent_images, say=say)
                executor.add_node(node)
                signals.wakes(executor.wake)
                with console.status("") as status:
                    _spin(recorder, executor, writer, options, signals, status)
                return dict(writer.counts)
    except OSError as error:
        raise VlaError(f"{options.out}: {error.strerror or error}: what was recorded so far is there, its index is not") from error


def _spin(recorder: Any, executor: Any, writer: RecordingWriter, options: argparse.Namespace, signals: StopSignals, status: Any) -> None:
    start = time.monotonic()
    next_look = start
    while not signals.requested.is_set():
        now = time.monotonic()
        if options.seconds and now - start >= options.seconds:
            return
        if now >= next_look:
            recorder.look()
            next_look = now + _LOOK_PERIOD_S
            waiting = "" if recorder.can_replay else ", waiting for the node to be configured"
            status.update(
                f"{options.out}: {now - start:.0f} s, {sum(writer.counts.values())} messages of {len(recorder.topics)} topics{waiting}"
            )
        executor.spin_once(timeout_sec=0.1)


def _attach_session(writer: RecordingWriter, policy_node: str, parameters: PolicyNodeParameters, console: Console) -> None:
    """Puts parameters, manifest and robot first into the file."""
    from vla_ros.ros.parameters import to_ros
    from vla_ros.ros.session import Contract

    session: dict[str, Any] = {"node": policy_node, "parameters": to_ros(parameters), "machine": machine_facts()}
    try:
        contract = Contract.load(parameters)
    except ConfigError as error:
        console.print(Text(f"the recording cannot be replayed: {error}", style="yellow"), soft_wrap=True)
        writer.attach(SESSION, json.dumps(session, indent=1))
        return
    session["bundle"] = {"name": contract.bundle.manifest.name, "sha256": contract.bundle.sha256}
    writer.attach(SESSION, json.dumps(session, indent=1))
    writer.attach(MANIFEST, (contract.bundle.directory / "manifest.yaml").read_text(encoding="utf-8"))
    writer.attach(ROBOT_YAML, contract.robot_path.read_text(encoding="utf-8"))
    writer.attach(ROBOT_URDF, contract.robot.urdf_path.read_text(encoding="utf-8"))
