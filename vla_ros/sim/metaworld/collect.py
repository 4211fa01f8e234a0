# SPDX-License-Identifier: Apache-2.0
"""Demonstrations of the scripted experts: ``vla collect --env metaworld:mt50``.

As many successful episodes a task as asked for (the public data sets have fifty); a failed one is thrown away and counted. Every 50 ms of an
episode give one frame: the picture, proprioception, and two labels, instructions with the chunk that the expert did from then on. The first
says all of the chunk, the second goes on after committed steps. An episode is played on beyond its success until its last chunk is complete.
With ``--disturb`` the hand is pushed now and then, so that recoveries are in the data: no longer the public setting, and named so. No label
says a push: one that a chunk begins with is among its committed steps, and frames with a later one are left out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
import os
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
import yaml

from vla_ros.core.embodiment import METAWORLD, METAWORLD_HORIZON_STEPS, METAWORLD_STEP_S
from vla_ros.core.image import prepare_image
from vla_ros.sim.collect import FIRST_TRAINING_SEED, FORMAT_VERSION, write_shard
from vla_ros.sim.metaworld.env import MetaWorldEnv, gripper_position
from vla_ros.sim.metaworld.expert import PHASES, ScriptedExpert
from vla_ros.sim.metaworld.tasks import MetaWorldTask, nouns, phrasings, tasks_of
from vla_ros.sim.metaworld.words import NOUNS, PHRASINGS

EPISODES_PER_TASK = 50
LABELS = 2  # of a frame
OBJECTS = 2  # what is moved, and where to
ROLES = ("thing", "target")
KINDS = tuple(sorted({noun for pair in NOUNS.values() for noun in pair}))
PLAN_LOW, PLAN_HIGH = (-0.6, 0.3), (0.6, 1.1)  # m, base_link
EPISODES_PER_ROUND, TASKS_PER_SHARD = 5, 10
_SEEDS_PER_ROUND = 1_000
_MAX_TRIES = 50  # of a round; an expert that succeeds in less than a tenth of its episodes is none
_STEPS_PER_FRAME = 4
_STEPS_PER_ACTION = round(METAWORLD.action.dt_s / METAWORLD_STEP_S)
_WINDOW = METAWORLD.action.horizon * _STEPS_PER_ACTION  # steps of a chunk
_COMMITTED, _COMMITTED_SHARES = np.array((1, 2, 4, 6)), np.array((0.3, 0.25, 0.25, 0.2))  # actions of 25 ms
_PUSH_STEPS, _CALM_STEPS = (2, 9), 44  # of a push, and at least from one to the next


@dataclass(frozen=True, kw_only=True)
class Round:
    """One shard's work: so many successful episodes of each of some tasks."""

    name: str
    tasks: tuple[str, ...]
    episodes: int
    first_seed: int
    disturb: float


@dataclass(frozen=True, kw_only=True)
class EpisodeRecord:
    """What became of one episode of an expert; ``steps`` of 12.5 ms."""

    task: str
    seed: int
    success: bool
    steps: int


class DemonstrationRecorder:
    """Plays experts and records what a policy would have seen. One thread only."""

    def __init__(self, disturb: float = 0.0) -> None:
        self.env = MetaWorldEnv()
        self.expert = ScriptedExpert(self.env)
        self._disturb = disturb

    def episode(self, task: str, seed: int) -> tuple[list[dict[str, Any]], EpisodeRecord]:
        """The frames of one episode until its success, and what became of it."""
        rng = np.random.default_rng([seed, 1])
        self.env.reset(seed, family=task)
        pushes, track = _Pushes(rng, self._disturb), _Track()
        frames: dict[int, dict[str, Any]] = {}
        first = int(rng.integers(_STEPS_PER_FRAME))
        for step in range(METAWORLD_HORIZON_STEPS):
            if step == 0 or step % _STEPS_PER_FRAME == first:
                frames[step] = self._seen(rng)
            self._act(track, pushes)
            if self.env.success():
                break
        record = EpisodeRecord(task=task, seed=seed, success=self.env.success(), steps=step + 1)
        if not record.success:
            return [], record
        for _ in range(_WINDOW):
            self._act(track, _Pushes(rng, 0.0))
        labels = {step: track.labels(step, frame["proprio"][:3], rng) for step, frame in frames.items()}
        return [frames[step] | label for step, label in labels.items() if label is not None], record

    def _act(self, track: _Track, pushes: _Pushes) -> None:
        wanted = self.expert.action()
        action = pushes.change(wanted)
        self.env.act(action)
        track.add(self.env.hand_target(), action[3], action is not wanted)

    def _seen(self, rng: np.random.Generator) -> dict[str, Any]:
        """What a frame holds besides its labels."""
        seen, camera = self.env.observe(), METAWORLD.cameras[0]
        words = phrasings(self.env.task)
        place = np.clip(self.expert.place()[:2], PLAN_LOW, PLAN_HIGH)
        return {
            camera.name: prepare_image(seen.images[camera.name], camera.height, camera.width),
            "proprio": seen.joint_positions_J.astype(np.float32),
            "texts": [words[rng.integers(len(words))] for _ in range(LABELS)],
            "plan": np.array([[self.expert.phase(), *place]] * LABELS, dtype=np.float32),
            **self._objects(),
        }

    def _objects(self) -> dict[str, np.ndarray]:
        """Where the picture shows what is moved and where to: a target that training may look at, and the policy never sees."""
        places = (self.env.privileged[4:7], self.env.privileged[36:39])
        return {
            "object_uv": np.array([self.env.project(METAWORLD.cameras[0].name, place) for place in places], dtype=np.float32),
            "object_class": np.array([[role, KINDS.index(noun)] for role, noun in enumerate(nouns(self.env.task))], dtype=np.int16),
        }


class _Track:
    """What the hand was told step by step, from which chunks are read afterwards."""

    def __init__(self) -> None:
        self._targets: list[np.ndarray] = []
        self._efforts: list[float] = []
        self._pushed: list[bool] = []

    def add(self, target: np.ndarray, effort: float, pushed: bool) -> None:
        """One step: where the hand's target then was (m), the fingers' effort, and whether it was a push instead of the expert's."""
        self._targets.append(target)
        self._efforts.append(effort)
        self._pushed.append(pushed)

    def labels(self, step: int, hand: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray] | None:
        """The chunk that began at ``step`` with the hand at ``hand`` and how much of it is committed; None where it ends in a push."""
        pushed = np.flatnonzero(self._pushed[step : step + _WINDOW])
        least = int(pushed[-1]) // _STEPS_PER_ACTION + 1 if len(pushed) else 0
        if least > _COMMITTED[-1]:
            return None
        shares = _COMMITTED_SHARES * (_COMMITTED >= least)
        drawn = int(rng.choice(_COMMITTED, p=shares / shares.sum()))
        ends = np.arange(step, step + _WINDOW, _STEPS_PER_ACTION) + _STEPS_PER_ACTION - 1
        moves = np.array([self._targets[end] for end in ends]) - hand
        grips = gripper_position(np.array([self._efforts[end] for end in ends]))
        chunk = METAWORLD.action.clip(np.column_stack([moves, grips])).astype(np.float32)
        return {"actions": np.stack([chunk] * LABELS), "committed": np.array([least, drawn], dtype=np.int8)}


class _Pushes:
    """Now and then the hand goes another way than the expert says for some steps."""

    def __init__(self, rng: np.random.Generator, probability: float) -> None:
        self._rng, self._probability = rng, probability
        self._left, self._calm, self._step = 0, 0, np.zeros(3)

    def change(self, action: np.ndarray) -> np.ndarray:
        """The action to take in place of ``action``; ``probability`` is that of a push beginning within 50 ms."""
        if self._left == 0 and self._calm == 0 and self._rng.random() < self._probability / _STEPS_PER_FRAME:
            self._left = int(self._rng.integers(*_PUSH_STEPS))
            self._calm, self._step = self._left + _CALM_STEPS, self._rng.uniform(-1.0, 1.0, 3)
        self._calm = max(self._calm - 1, 0)
        if self._left == 0:
            return action
        self._left -= 1
        return np.array([*np.clip(0.3 * action[:3] + self._step, -1.0, 1.0), action[3]])


# ---- files ----


def plan_rounds(tasks: Sequence[str], episodes: int, first_seed: int, disturb: float) -> list[Round]:
    """All shards' work, every task again and again, so that what is there at any time covers all of them."""
    rounds = []
    for number, begun in enumerate(range(0, episodes, EPISODES_PER_ROUND)):
        for part in range(0, len(tasks), TASKS_PER_SHARD):
            some = tuple(tasks[part : part + TASKS_PER_SHARD])
            name = f"shard_mt50_{first_seed}_{number:03d}_{some[0]}"
            seed = first_seed + number * _SEEDS_PER_ROUND
            rounds.append(Round(name=name, tasks=some, episodes=min(EPISODES_PER_ROUND, episodes - begun), first_seed=seed, disturb=disturb))
    return rounds


def record_round(folder: Path, work: Round) -> list[EpisodeRecord]:
    """Records one shard; returns all its episodes, the failed ones too."""
    recorder = DemonstrationRecorder(work.disturb)
    frames: list[dict[str, Any]] = []
    episodes: list[int] = []
    numbers: list[int] = []
    records: list[EpisodeRecord] = []
    for task in work.tasks:
        for played, record in _until_enough(recorder, task, work):
            records.append(record)
            if record.success:
                frames += played
                episodes += [episode_number(task, record.seed)] * len(played)
                numbers += range(len(played))
    write_shard(folder / work.name, frames, episodes, numbers, {"episodes.json": json.dumps([asdict(r) for r in records], indent=0)})
    recorder.env.close()
    return records


def _until_enough(recorder: DemonstrationRecorder, task: str, work: Round) -> Iterator[tuple[list[dict[str, Any]], EpisodeRecord]]:
    succeeded = 0
    for seed in range(work.first_seed, work.first_seed + _MAX_TRIES):
        played, record = recorder.episode(task, seed)
        yield played, record
        succeeded += record.success
        if succeeded == work.episodes:
            return
    raise RuntimeError(f"{task}: {succeeded} of {_MAX_TRIES} episodes succeeded, {work.episodes} were wanted")


def episode_number(task: str, seed: int) -> int:
    """A number of its own for every episode, int32: whole episodes are held out by it."""
    return tasks_of("metaworld:mt50").index(task) * 10_000_000 + (seed - FIRST_TRAINING_SEED) % 10_000_000


def write_meta(folder: Path, seed: int, disturb: float) -> None:
    """``meta.yaml``, what the arrays mean, and ``texts.txt``, everything that can be said, from which the tokenizer learns words."""
    meta = {
        "format_version": FORMAT_VERSION, "K": LABELS, "M": OBJECTS, "phases": list(PHASES), "colours": list(ROLES), "kinds": list(KINDS),
        "plan": {"low": list(PLAN_LOW), "high": list(PLAN_HIGH), "unit": "m", "frame": METAWORLD.base_frame},
        "action": METAWORLD.action.to_dict(), "embodiment": METAWORLD.name, "record_rate_hz": 1.0 / (_STEPS_PER_FRAME * METAWORLD_STEP_S),
        "first_seed": seed, "disturb": disturb, "proprio": list(METAWORLD.proprio_names),
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "meta.yaml").write_text(yaml.safe_dump(meta, sort_keys=False), encoding="utf-8")
    texts = sorted(text for seen, unseen in PHRASINGS.values() for text in (*seen, *unseen))
    (folder / "texts.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")


def collect(folder: Path, rounds: Sequence[Round], workers: int) -> list[EpisodeRecord]:
    """Records every shard that is not there yet; returns the episodes of all of them."""
    records: list[EpisodeRecord] = []
    columns = (TextColumn("collecting"), BarColumn(), MofNCompleteColumn(), TextColumn("shards, success {task.fields[rate]}"), TimeRemainingColumn())
    with Progress(*columns) as progress:
        bar = progress.add_task("collect", total=len(rounds), rate="-")
        for part in _recorded(folder, rounds, workers):
            records += part
            progress.update(bar, advance=1, rate=f"{np.mean([r.success for r in records]):.0%}")
    return records


def _recorded(folder: Path, rounds: Sequence[Round], workers: int) -> Iterator[list[EpisodeRecord]]:
    missing = []
    for work in rounds:
        path = folder / work.name / "episodes.json"
        if path.is_file():
            yield [EpisodeRecord(**record) for record in json.loads(path.read_text(encoding="utf-8"))]
        else:
            missing.append(work)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(record_round, folder, work) for work in missing]):
            yield future.result()


def success_by_task(records: Iterable[EpisodeRecord]) -> dict[str, dict[str, float]]:
    """Episodes, success rate and mean steps of the successes of every task."""
    by_task: dict[str, list[EpisodeRecord]] = {}
    for record in records:
        by_task.setdefault(record.task, []).append(record)
    return {
        task: {
            "episodes": len(some),
            "success_rate": float(np.mean([r.success for r in some])),
            "mean_steps": float(np.mean([r.steps for r in some if r.success] or [np.nan])),
        }
        for task, some in sorted(by_task.items())
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of ``vla collect --env metaworld:...``."""
    parser = argparse.ArgumentParser(prog="vla collect", description="Record successful episodes of Meta-World's scripted experts.")
    parser.add_argument("--env", required=True, help="metaworld:mt50, metaworld:<group of difficulty> or metaworld:<task>")
    parser.add_argument("--out", type=Path, required=True, help="dataset directory; shards that are there already are kept")
    parser.add_argument("--episodes-per-task", type=int, default=EPISODES_PER_TASK, help="successful ones (default %(default)s, as the public data sets)")
    parser.add_argument("--disturb", type=float, default=0.0, help="probability that a push of the hand begins within 50 ms (default 0, as the public data sets)")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--seed", type=int, default=FIRST_TRAINING_SEED, help="first scene; evaluation uses seeds below 10 million")
    parser.add_argument("--json", type=Path, help="write the counts to this file")
    options = parser.parse_args(argv)
    if options.seed < FIRST_TRAINING_SEED:
        parser.error(f"--seed {options.seed} belongs to evaluation: use {FIRST_TRAINING_SEED} or more")
    if options.episodes_per_task < 1 or options.workers < 1 or not 0.0 <= options.disturb <= 1.0:
        parser.error("--episodes-per-task and --workers must be positive, --disturb in 0 to 1")
    os.environ.setdefault("LP_NUM_THREADS", "1")
    tasks = tuple(MetaWorldTask(task).family for task in tasks_of(options.env))
    write_meta(options.out, options.seed, options.disturb)
    records = collect(options.out, plan_rounds(tasks, options.episodes_per_task, options.seed, options.disturb), options.workers)
    if options.json:
        successes = [record.success for record in records]
        counts = {"episodes": len(records), "success_rate": float(np.mean(successes)), "by_task": success_by_task(records)}
        options.json.write_text(json.dumps(counts, indent=2), encoding="utf-8")
    return 0
