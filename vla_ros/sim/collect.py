# SPDX-License-Identifier: Apache-2.0
"""Records the expert's demonstrations: ``vla collect``.

Every 0.2 s of an episode gives one frame: both pictures, proprioception, and K labels. A label is an instruction with the chunk that the
expert would do for it from just that state and from the first steps on that are committed already; the first is the one being carried
out, the others are what else could be asked. The same picture with different words and different actions is what makes a policy listen. Pushes and slips are injected, so that recoveries are
in the data.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
import json
import multiprocessing
from pathlib import Path
from queue import Empty
import shutil
import sys
from typing import Any, Protocol

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
import yaml

from vla_ros.core import tabletop
from vla_ros.core.image import prepare_image
from vla_ros.robot.kinematics import Kinematics, KinematicsError
from vla_ros.sim import expert
from vla_ros.sim.commitments import draw_committed
from vla_ros.sim.env import CONTROL_PERIOD_S, TabletopEnv
from vla_ros.sim.foresight import continued_chunk
from vla_ros.sim.scene import COLOURS, KINDS
from vla_ros.sim.tasks import ALL_FAMILIES, FAMILIES, SPLITS, ObjectRef, Task, all_tasks, draw_evenly, is_held_out, phrasings
from vla_ros.sim.world import WorldState

FORMAT_VERSION = 2
FIRST_TRAINING_SEED = 10_000_000  # evaluation uses small seeds
MAX_OBJECTS = 8
PLAN_LOW, PLAN_HIGH = (0.10, -0.35), (0.60, 0.35)  # m, base_link
LABELS = 6  # instructions of a frame
PLACING_FAMILIES = ("put", "stack", "front")  # what can be begun with a block in the hand
_FRAMES_PER_SHARD = 1000
_TASKS_PER_EPISODE = 3
_MAX_FRAMES_PER_TASK = 60
_DONE_FRAMES = 4
_STEPS_PER_FRAME = round(tabletop.ACTION_SPEC.dt_s / CONTROL_PERIOD_S)
_P_PUSHED, _P_SLIP, _P_ANYWHERE, _P_DONE_LABEL = 0.10, 0.02, 0.5, 0.1


class Recorder(Protocol):
    """Makes the frames of one scene after another."""

    successes: list[bool]

    def episode(self, seed: int) -> Iterator[dict[str, Any]]:
        """Yields the frames of ``seed``'s scene."""


MakeRecorder = Callable[[], Recorder]
WriteShard = Callable[[Path, list[dict[str, Any]], list[int], list[int]], None]
WriteMeta = Callable[[Path, int, int], None]


class EpisodeRecorder:
    """Runs the expert through one seed's scene after another and yields frames."""

    def __init__(self, labels_per_frame: int, randomize_look: float = 1.0, families: Sequence[str] = FAMILIES) -> None:
        self.env = TabletopEnv(randomize_look=randomize_look)
        self.kinematics = Kinematics(self.env.robot)
        self._labels = labels_per_frame
        self._families = families
        self.successes: list[bool] = []

    def episode(self, seed: int) -> Iterator[dict[str, Any]]:
        """Yields the frames of up to three tasks in the scene of ``seed``."""
        rng = np.random.default_rng([seed, 1])
        self.env.reset(seed)
        if rng.random() < _P_ANYWHERE:
            self.env.place_arm(self.random_arm(rng))
        finished: list[Task] = []
        for _ in range(_TASKS_PER_EPISODE):
            task = self._next_task(rng)
            if task is None:
                return
            self.env.set_task(task)
            yield from self._perform(task, rng, finished)
            finished = [*finished, task] if self.env.success() else []
            self.successes.append(self.env.success())

    def _perform(self, task: Task, rng: np.random.Generator, finished: list[Task]) -> Iterator[dict[str, Any]]:
        disturbance = _Disturbance(rng)
        done_frames = 0
        for _ in range(_MAX_FRAMES_PER_TASK):
            world = self.env.world_state()
            yield self.frame(task, world, rng, finished)
            current = expert.plan(task, world)
            done_frames += current.phase == "done"
            if done_frames >= _DONE_FRAMES:
                return
            self._execute(current, world, disturbance.draw())

    def _execute(self, current: expert.Plan, world: WorldState, offset: np.ndarray) -> None:
        poses = expert.follow(current, world, [CONTROL_PERIOD_S * (i + 1) for i in range(_STEPS_PER_FRAME)])
        joints = self.env.observe(cameras=False).joint_positions_J
        low, high = self.env.robot.workspace_min, self.env.robot.workspace_max
        for i, pose in enumerate(poses):
            ramp = offset[:4] * (i + 1) / _STEPS_PER_FRAME
            try:
                joints = self.kinematics.ik(np.clip(pose[1:4] + ramp[:3], low, high), pose[4] + ramp[3], joints)
            except KinematicsError:
                pass  # a push towards a place that the arm cannot reach: it stays where it is for this period
            joints[-1] = pose[5] if np.isnan(offset[4]) else offset[4]
            self.env.step(joints)

    def frame(
        self, task: Task, world: WorldState, rng: np.random.Generator, finished: list[Task], images: Mapping[str, np.ndarray] | None = None
    ) -> dict[str, Any]:
        """One frame of the present state; ``images`` saves rendering where the policy's pictures of it exist already."""
        observation = self.env.observe(cameras=images is None)
        if images is None:
            images = {c.name: prepare_image(observation.images[c.name], c.height, c.width) for c in tabletop.CAMERAS}
        tasks = [task, *self._other_tasks(task, world, rng, finished)]
        spec, bounds = tabletop.ACTION_SPEC, np.stack([self.env.robot.workspace_min, self.env.robot.workspace_max])
        committed = [draw_committed(rng, t, tasks, world, spec, bounds) for t in tasks]
        chunks, plans = zip(*(continued_chunk(t, world, steps, spec.horizon, spec.dt_s) for t, steps in zip(tasks, committed)))
        return {
            **images,
            "proprio": np.array([*observation.joint_positions_J, *world.tool, world.tool_yaw], dtype=np.float32),
            "touch": self.env.touch_forces().astype(np.float32),
            "texts": [str(rng.choice(phrasings(t))) for t in tasks],
            "actions": np.stack([spec.clip(chunk) for chunk in chunks]).astype(np.float32),
            "committed": np.array([len(steps) for steps in committed], dtype=np.int8),
            "plan": np.array([[expert.PHASES.index(p.phase), *np.clip(p.place[:2], PLAN_LOW, PLAN_HIGH)] for p in plans], dtype=np.float32),
            **self._objects(world),
        }

    def _objects(self, world: WorldState) -> dict[str, np.ndarray]:
        uv = np.full((MAX_OBJECTS, 2), np.nan, dtype=np.float32)
        classes = np.full((MAX_OBJECTS, 2), -1, dtype=np.int16)
        for i, (ref, state) in enumerate(world.objects.items()):
            uv[i] = self.env.project("front", state.position)
            classes[i] = list(COLOURS).index(ref.colour), KINDS.index(ref.kind)
        return {"object_uv": uv, "object_class": classes}

    def _other_tasks(self, task: Task, world: WorldState, rng: np.random.Generator, finished: list[Task]) -> list[Task]:
        """K - 1 further instructions that make sense now: families equally likely, never a held-out combination."""
        held = world.held()
        pool = [t for t in self.env.feasible_tasks(self._families) if t != task and not is_held_out(t) and (held is None or t.obj == held or t.family == "reach")]
        others: list[Task] = []
        while len(others) < self._labels - 1:
            if finished and rng.random() < _P_DONE_LABEL:
                others.append(finished[-1])
                continue
            families = [f for f in ALL_FAMILIES if any(t.family == f and t not in others for t in pool)]
            if not families:
                others.append(task)
                continue
            family = families[rng.integers(len(families))]
            fitting = [t for t in pool if t.family == family and t not in others]
            others.append(fitting[rng.integers(len(fitting))])
        return others

    def _next_task(self, rng: np.random.Generator) -> Task | None:
        held = self.env.world_state().held()
        pool = [
            t for t in self.env.feasible_tasks(self._families) if not is_held_out(t) and (held is None or (t.obj == held and t.family in PLACING_FAMILIES))
        ]  # fmt: skip
        return draw_evenly(rng, pool)

    def random_arm(self, rng: np.random.Generator) -> np.ndarray:
        robot = self.env.robot
        joints = robot.home.copy()
        for _ in range(20):
            try:
                joints = self.kinematics.ik(rng.uniform([0.22, -0.24, 0.10], [0.46, 0.24, 0.30]), rng.uniform(-0.6, 0.6), robot.home)
                break
            except KinematicsError:
                continue
        joints[-1] = rng.choice([robot.gripper_open, robot.gripper_closed, rng.uniform(robot.gripper_closed, robot.gripper_open)])
        return joints


class _Disturbance:
    """Pushes of the tool (offset x, y, z in m, yaw in rad over one frame) and slips of the gripper (a target in m, else NaN)."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._offset = np.array([0.0, 0.0, 0.0, 0.0, np.nan])
        self._frames_left = 0

    def draw(self) -> np.ndarray:
        """Returns this frame's [5]."""
        rng = self._rng
        if self._frames_left > 0:
            self._frames_left -= 1
            return self._offset
        self._offset = np.array([0.0, 0.0, 0.0, 0.0, np.nan])
        if rng.random() < _P_PUSHED:
            self._offset[:4] = rng.normal(0.0, [0.02, 0.02, 0.012, 0.12])
            self._frames_left = int(rng.integers(0, 3))
        elif rng.random() < _P_SLIP:
            self._offset[4] = rng.choice([0.0, 0.042])
            self._frames_left = 1
        return self._offset


# ---- files ----


def write_shard(
    folder: Path, frames: list[dict[str, Any]], episodes: list[int], first_frame: list[int], files: Mapping[str, str] | None = None
) -> None:
    """Writes one shard, with further text ``files`` by name; it appears under its name only when complete."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    texts = sorted({t for f in frames for t in f["texts"]})
    index = {t: i for i, t in enumerate(texts)}
    (partial / "instructions.json").write_text(json.dumps(texts, indent=0), encoding="utf-8")
    np.save(partial / "text_index.npy", np.array([[index[t] for t in f["texts"]] for f in frames], dtype=np.int32))
    for key in frames[0].keys() - {"texts"}:
        np.save(partial / f"{key}.npy", np.stack([f[key] for f in frames]))
    np.save(partial / "episode.npy", np.array(episodes, dtype=np.int32))
    np.save(partial / "frame.npy", np.array(first_frame, dtype=np.int32))
    for name, text in (files or {}).items():
        (partial / name).write_text(text, encoding="utf-8")
    partial.rename(folder)


def write_meta(folder: Path, labels: int, seed: int, families: Sequence[str] = FAMILIES) -> None:
    """Writes ``meta.yaml``, what the arrays mean, and ``texts.txt``, everything that can be said, from which the tokenizer learns words."""
    meta = {
        "format_version": FORMAT_VERSION, "K": labels, "M": MAX_OBJECTS, "phases": list(expert.PHASES), "colours": list(COLOURS), "kinds": list(KINDS),
        "plan": {"low": list(PLAN_LOW), "high": list(PLAN_HIGH), "unit": "m", "frame": "base_link"},
        "action": tabletop.ACTION_SPEC.to_dict(), "record_rate_hz": 1.0 / tabletop.ACTION_SPEC.dt_s, "first_seed": seed,
        "proprio": list(tabletop.PROPRIO_NAMES),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "meta.yaml").write_text(yaml.safe_dump(meta, sort_keys=False), encoding="utf-8")
    objects = [ObjectRef(c, k) for c in COLOURS for k in KINDS]
    texts = {text for task in all_tasks(objects, families) for split in SPLITS for text in phrasings(task, split)}
    (folder / "texts.txt").write_text("\n".join(sorted(texts)) + "\n", encoding="utf-8")


def _work(
    folder: Path, worker: int, workers: int, frames_wanted: int, first_seed: int, make_recorder: MakeRecorder, name: str, report: Any, write: WriteShard
) -> None:
    recorder = make_recorder()
    frames: list[dict[str, Any]] = []
    episodes: list[int] = []
    numbers: list[int] = []
    written, shard, seed = 0, 0, first_seed + worker
    while written < frames_wanted:
        for number, frame in enumerate(recorder.episode(seed)):
            frames.append(frame)
            episodes.append(seed)
            numbers.append(number)
        seed += workers
        report.put((len(frames), None))
        if len(frames) >= min(_FRAMES_PER_SHARD, frames_wanted - written):
            write(folder / f"shard_{name}_{first_seed}_{worker:02d}_{shard:04d}", frames, episodes, numbers)
            written, shard = written + len(frames), shard + 1
            report.put((0, (len(frames), recorder.successes[:])))
            frames, episodes, numbers = [], [], []
            recorder.successes.clear()
    report.put(None)


def collect(
    folder: Path,
    frames: int,
    *,
    make_recorder: MakeRecorder,
    name: str = "run",
    labels: int = LABELS,
    workers: int = 2,
    seed: int = FIRST_TRAINING_SEED,
    write: WriteShard = write_shard,
    describe: WriteMeta = write_meta,
) -> dict[str, float]:
    """Records at least ``frames`` frames into ``folder`` (adding to what is there) and returns counts.

    Args:
        make_recorder: makes each process's recorder of ``labels`` labels a frame; has to be picklable.
        name: part of the shards' names.
        write, describe: write a shard, and what the arrays of all mean; have to be picklable.

    Returns:
        ``frames`` written, ``tasks`` tried and their ``success_rate``, disturbances included.
    """
    describe(folder, labels, seed)
    context = multiprocessing.get_context("spawn")
    report = context.Queue()
    share = -(-frames // workers)
    arguments = [(folder, w, workers, share, seed, make_recorder, name, report, write) for w in range(workers)]
    processes = [context.Process(target=_work, args=each, daemon=True) for each in arguments]
    for process in processes:
        process.start()
    written, tasks, running = 0, [], workers
    columns = (TextColumn("collecting"), BarColumn(), MofNCompleteColumn(), TextColumn("frames, success {task.fields[rate]}"), TimeRemainingColumn())
    with Progress(*columns) as progress:
        bar = progress.add_task("collect", total=frames, rate="-")
        while running:
            try:
                message = report.get(timeout=1.0)
            except Empty:
                if not any(p.is_alive() for p in processes):
                    raise RuntimeError("a collecting process died: see its traceback above") from None
                continue
            if message is None:
                running -= 1
            elif message[1] is not None:
                written += message[1][0]
                tasks += message[1][1]
                progress.update(bar, completed=written, rate=f"{np.mean(tasks):.0%}" if tasks else "-")
    for process in processes:
        process.join()
    return {"frames": written, "tasks": len(tasks), "success_rate": float(np.mean(tasks)) if tasks else float("nan")}


def main(argv: list[str] | None = None) -> int:
    """Command line of ``vla collect``."""
    parser = argparse.ArgumentParser(prog="vla collect", description=__doc__.splitlines()[0])
    parser.add_argument("--env", default="tabletop", help="tabletop, or metaworld:mt50 with options of its own (default %(default)s)")
    environment, _ = parser.parse_known_args([a for a in argv or sys.argv[1:] if a not in ("-h", "--help")])
    if environment.env.startswith("metaworld"):
        from vla_ros.sim.metaworld.collect import main as collect_metaworld

        return collect_metaworld(argv)
    parser.add_argument("--out", type=Path, required=True, help="dataset directory; more shards are added to what is there")
    parser.add_argument("--frames", type=int, default=20_000, help="frames to record (5 a second of simulated time)")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--seed", type=int, default=FIRST_TRAINING_SEED, help="first scene; evaluation uses seeds below 10 million")
    parser.add_argument("--labels", type=int, default=LABELS, help="instructions per frame")
    parser.add_argument("--families", nargs="+", choices=ALL_FAMILIES, default=FAMILIES, help="tasks of which labels are made (default: all but front, which the shipped policy does not know)")
    parser.add_argument("--snapshots", action="store_true", help="instead of episodes, one frame of each of many scenes, the arm and what it holds put anywhere")
    parser.add_argument("--questions", action="store_true", help="instead of demonstrations, pictures of many scenes with questions and answers, --labels of each")
    parser.add_argument("--json", type=Path, help="write the counts to this file")
    options = parser.parse_args(argv)
    if options.seed < FIRST_TRAINING_SEED:
        parser.error(f"--seed {options.seed} belongs to evaluation: use {FIRST_TRAINING_SEED} or more")
    if options.questions and options.snapshots:
        parser.error("--questions and --snapshots are two kinds of data: collect them into two folders")
    from vla_ros.sim.question_data import QuestionRecorder, write_question_meta, write_question_shard
    from vla_ros.sim.snapshots import SnapshotRecorder

    kind, name = (SnapshotRecorder, "snap") if options.snapshots else (EpisodeRecorder, "run")
    settings: dict[str, Any] = {"workers": options.workers, "seed": options.seed, "labels": options.labels, "describe": partial(write_meta, families=options.families)}
    choice: dict[str, Any] = {"families": options.families}
    if options.questions:
        kind, name, choice = QuestionRecorder, "ask", {}
        settings |= {"write": write_question_shard, "describe": write_question_meta}
    counts = collect(options.out, options.frames, make_recorder=partial(kind, options.labels, **choice), name=name, **settings)
    if options.json:
        options.json.write_text(json.dumps(counts, indent=2), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
