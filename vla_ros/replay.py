# SPDX-License-Identifier: Apache-2.0
"""``vla replay FILE``: asks the policy and the control loop again what a recording holds, and compares bit for bit.

Two parts, each with what it depends on: a *decision* (pictures, joints, instruction, committed steps in; action chunk out) and a control
*tick* (calls and clock in; command out). Needs neither ROS nor a robot.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from rich.text import Text

from vla_ros.core.chunk import ActionChunk
from vla_ros.core.control import ControlLoop
from vla_ros.core.errors import ConfigError, VlaError
from vla_ros.core.observation import Observation
from vla_ros.core.paths import bundle_dir
from vla_ros.recording import ROBOT_URDF, ROBOT_YAML, Recording, read_attachments
from vla_ros.results import PROVIDERS, write_json
from vla_ros.robot.description import RobotDescription
from vla_ros.ros.parameters import from_ros
from vla_ros.ros.plain import first_difference, from_plain, picture_digest
from vla_ros.ros.session import make_loop
from vla_ros.ros.tape import capture, replay_tick, restore
from vla_ros.runtime.bundle import Bundle, load_bundle
from vla_ros.runtime.policy import Policy

_KEPT_PICTURES = 2000
_KEPT_DECISIONS = 200  # that wait for a picture; topics of one process overtake each other by a few messages at most
_ENVIRONMENT_FAILED = "InferenceError"  # out of memory and the like: no fact about the policy


@dataclass
class Part:
    """What became of one kind of recorded step.

    Attributes:
        recorded: steps in the file.
        same: repeated, and every bit the same.
        different: repeated, and not the same.
        skipped: reason to number of steps that could not be repeated.
        first_difference: of the first different one, in words.
    """

    recorded: int = 0
    same: int = 0
    different: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    first_difference: str | None = None

    def skip(self, reason: str) -> None:
        """Counts a step that cannot be repeated."""
        self.skipped[reason] = self.skipped.get(reason, 0) + 1

    def judge(self, name: str, difference: str | None) -> None:
        """Counts a repeated step."""
        if difference is None:
            self.same += 1
            return
        self.different += 1
        self.first_difference = self.first_difference or f"{name}: {difference}"


class DecisionReplay:
    """Asks the policy again.

    Args:
        policy: of the recorded bundle.
    """

    def __init__(self, policy: Policy) -> None:
        self.part = Part()
        self.answers: dict[tuple[int, int], ActionChunk] = {}
        self._policy = policy
        self._pictures: OrderedDict[str, np.ndarray] = OrderedDict()
        self._waiting: deque[dict[str, Any]] = deque()

    def put_picture(self, digest: str, image: np.ndarray) -> None:
        """Takes a picture, uint8 [height, width, 3]."""
        self._pictures[digest] = image
        if len(self._pictures) > _KEPT_PICTURES:
            self._pictures.popitem(last=False)
        while self._waiting and self._has_pictures(self._waiting[0]):
            self._repeat(self._waiting.popleft())

    def put_decision(self, decision: dict[str, Any]) -> None:
        """Takes a decision and repeats it as soon as its pictures are there."""
        self.part.recorded += 1
        if self._has_pictures(decision) and not self._waiting:
            self._repeat(decision)
            return
        self._waiting.append(decision)
        if len(self._waiting) > _KEPT_DECISIONS:
            self._give_up(self._waiting.popleft())

    def finish(self) -> Part:
        """The result."""
        while self._waiting:
            decision = self._waiting.popleft()
            (self._repeat if self._has_pictures(decision) else self._give_up)(decision)
        return self.part

    def _give_up(self, decision: dict[str, Any]) -> None:
        self.part.skip("a picture is not in the recording")

    def _has_pictures(self, decision: dict[str, Any]) -> bool:
        return all(digest in self._pictures for digest in decision["pictures"].values())

    def _repeat(self, decision: dict[str, Any]) -> None:
        recorded = from_plain(decision["answer"])
        if isinstance(recorded, str) and recorded.startswith(_ENVIRONMENT_FAILED):
            self.part.skip("inference had failed")
            return
        images = {camera: self._pictures[digest] for camera, digest in decision["pictures"].items()}
        observation = Observation(images=images, **from_plain(decision["observation"]))
        try:
            answer: Any = self._policy.infer(observation, *map(from_plain, decision["arguments"]), **from_plain(decision["named"]))
        except VlaError as error:
            answer = f"{type(error).__name__}: {error}"
        if isinstance(recorded, ActionChunk):
            self.answers[recorded.generation, recorded.obs_stamp_ns] = recorded
        name = f"decision {decision['decision']}, '{observation.instruction}'"
        self.part.judge(name, first_difference(_without_time(recorded), _without_time(answer)))


class ControlReplay:
    """Repeats the control loop's ticks.

    Args:
        make: makes a fresh loop of the recorded robot and parameters.
        answers: recorded chunks by generation and stamp of their observation.
    """

    def __init__(self, make: Any, answers: dict[tuple[int, int], ActionChunk]) -> None:
        self.part = Part()
        self.unexplained_chunks = 0
        self._make = make
        self._answers = answers
        self._chunks: list[ActionChunk] = []
        self._loop: ControlLoop | None = None
        self._next = 0

    def put_tick(self, tick: dict[str, Any]) -> None:
        """Repeats one tick, or skips it until the next key."""
        self.part.recorded += 1
        gap = tick["tick"] != self._next and self.part.recorded > 1
        self._next = tick["tick"] + 1
        self._loop = None if gap else self._loop
        difference = self._begin(tick["key"]) if "key" in tick else None
        if self._loop is None:
            self.part.skip(
                "between a lost or different tick and the next whole state"
            )
            return
        self._chunks += [from_plain(arguments[0]) for name, arguments, _, _ in tick["calls"] if name == "put_chunk"]
        difference = difference or replay_tick(self._loop, tick)
        self.part.judge(f"tick {tick['tick']} at {tick['now_ns'] * 1e-9:.3f} s", difference)
        if difference is not None:
            self._loop = None

    def finish(self) -> Part:
        """The result; a chunk that acted must be a recorded decision's answer."""
        for chunk in self._chunks:
            answer = self._answers.get((chunk.generation, chunk.obs_stamp_ns))
            if answer is None:
                self.unexplained_chunks += 1
            elif (difference := first_difference(answer, chunk)) is not None:
                self.part.judge(f"chunk of generation {chunk.generation} on its way to the control loop", difference)
        return self.part

    def _begin(self, key: dict[str, Any]) -> str | None:
        """Starts at a key; where the loop already runs, its state must be the key's."""
        if self._loop is not None:
            return first_difference(key, capture(self._loop), "state")
        self._loop = self._make()
        restore(self._loop, key)
        return None


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 if everything that was repeated is the same, 1 if something is not or nothing could be repeated."""
    options = parse(argv)
    console = Console(highlight=False)
    with console.status("reading"):
        report = replay(options.file, model=options.model, provider=options.execution_provider)
    _show(report, console)
    if options.json:
        write_json(options.json, report)
    return int(not report["identical"])


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="vla replay", description="Repeat a recording's decisions and compare them bit for bit.")
    parser.add_argument("file", type=Path, help="MCAP file made by 'vla record'")
    parser.add_argument("--model", default="", help="the recorded bundle's folder or name, where it lies elsewhere on this machine")
    parser.add_argument("--execution-provider", choices=PROVIDERS, help="where the policy runs (default: as recorded)")
    parser.add_argument("--json", metavar="FILE", help="write the result as JSON")
    return parser.parse_args(argv)


def replay(path: Path, *, model: str = "", provider: str | None = None) -> dict[str, Any]:
    """Repeats everything in a recording.

    Args:
        path: of the file.
        model: folder or name of the bundle; empty takes the recorded one.
        provider: execution provider; None takes the recorded one.

    Raises:
        ConfigError: the file is no recording, or the bundle is another one.
    """
    session = read_attachments(path).session
    bundle = _bundle(session, model)
    with tempfile.TemporaryDirectory(prefix="vla_replay_") as folder:
        robot = _robot(read_attachments(path), Path(folder))
        parameters = from_ros(session["parameters"])
        policy = Policy(
            bundle,
            robot,
            provider=provider or parameters.execution_provider,
            threads=parameters.inference_threads,
            allow_cpu=parameters.allow_cpu and provider is None,
        )
        decisions = DecisionReplay(policy)
        control = ControlReplay(lambda: make_loop(robot, parameters), decisions.answers)
        recording = Recording(path)
        _feed(recording, session["node"], decisions, control)
        parts = {"decisions": decisions.finish(), "control": control.finish()}
    return {
        "file": str(path),
        "bundle_sha256": bundle.sha256,
        "is_complete": recording.is_complete,
        "identical": all(part.same and not part.different for part in parts.values()),
        "unexplained_chunks": control.unexplained_chunks,
        **{name: vars(part) for name, part in parts.items()},
    }


def _feed(recording: Recording, node: str, decisions: DecisionReplay, control: ControlReplay) -> None:
    node = "/" + node.strip("/")
    text, tape = f"{node}/decision", f"{node}/tape"
    for topic, _, message in recording.messages():
        if topic.startswith(f"{text}/"):
            image = np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)
            decisions.put_picture(picture_digest(image), image)
        elif topic == text:
            decisions.put_decision(json.loads(message.data))
        elif topic == tape:
            for line in message.data.splitlines():
                control.put_tick(json.loads(line))


def _bundle(session: dict[str, Any], model: str) -> Bundle:
    if "bundle" not in session:
        raise ConfigError("the bundle was not at hand when this was recorded: record on the machine on which the policy node runs")
    recorded = session["bundle"]
    bundle = load_bundle(bundle_dir(model or session["parameters"]["model"]))
    if bundle.sha256 != recorded["sha256"]:
        raise ConfigError(
            f"recorded with the bundle {recorded['name']} ({recorded['sha256'][:12]}), {bundle.directory} is {bundle.sha256[:12]}: "
            "give the recorded one with --model"
        )
    return bundle


def _robot(recording: Recording, folder: Path) -> RobotDescription:
    """The robot as it was recorded, written below ``folder``."""
    missing = [name for name in (ROBOT_YAML, ROBOT_URDF) if name not in recording.attachments]
    if missing:
        raise ConfigError(f"{recording.path} has no {', '.join(missing)}: record it again")
    (folder / ROBOT_URDF).write_text(recording.attachments[ROBOT_URDF], encoding="utf-8")
    description = {**yaml.safe_load(recording.attachments[ROBOT_YAML]), "urdf": ROBOT_URDF}
    (folder / ROBOT_YAML).write_text(yaml.safe_dump(description), encoding="utf-8")
    return RobotDescription.load(folder / ROBOT_YAML)


def _without_time(answer: Any) -> Any:
    """How long an inference took is no part of its answer."""
    return replace(answer, inference_ns=0) if isinstance(answer, ActionChunk) else answer


def _show(report: dict[str, Any], console: Console) -> None:
    for name in ("decisions", "control"):
        part = report[name]
        style = "red" if part["different"] else "green" if part["same"] else "yellow"
        noun = "decisions" if name == "decisions" else "control ticks"
        console.print(
            Text(f"{noun}: {part['recorded']} recorded, {part['same']} bit for bit the same, {part['different']} different", style)
        )
        for reason, count in part["skipped"].items():
            console.print(Text(f"  {count} not repeated: {reason}", style="yellow"))
        if part["first_difference"]:
            console.print(Text(f"  first difference: {part['first_difference']}", style="red"), soft_wrap=True)
    if report["unexplained_chunks"]:
        console.print(Text(f"{report['unexplained_chunks']} chunks came from decisions that are not in the recording", style="yellow"))
    if not report["is_complete"]:
        console.print(Text("the end of the file is missing: what is there was read", style="yellow"))
