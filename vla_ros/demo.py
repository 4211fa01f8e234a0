# SPDX-License-Identifier: Apache-2.0
"""``vla demo``: simulator and policy node as two processes over real DDS do one instruction; leaves a film and a report.

Writes ``demo.mp4``, ``demo.gif``, ``report.json`` and a log of each process. The simulator's own check decides about success.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from vla_ros.closed_loop import GAZEBO, MUJOCO, SIMULATORS
from vla_ros.core.embodiment import METAWORLD, TABLETOP, embodiment_of
from vla_ros.core.errors import ConfigError, VlaError
from vla_ros.core.paths import bundle_dir
from vla_ros.processes import Process, own_ros_environment, vla_command
from vla_ros.results import PROVIDERS, machine_facts, write_json
from vla_ros.runtime.bundle import Bundle, load_bundle
from vla_ros.runtime.prompt import PromptEncoder

if TYPE_CHECKING:
    from vla_ros.ros.observer import Observer, Seen

DEFAULT_INSTRUCTION = "put the red cube in the blue bowl"
DEFAULT_MODELS = {TABLETOP.name: "tabletop", METAWORLD.name: "metaworld-mt50"}
DEFAULT_LIMIT_S = 40.0
UNJUDGED_S = 15.0  # how long an instruction runs that the simulator cannot judge
SCENES_TO_SEARCH = 400
SIM_READY_S, POLICY_READY_S = 60.0, 120.0
AFTER_SUCCESS_S, AFTER_DONE_S = 1.0, 3.0
FILM_RATE_HZ = 15

START = "starting"


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Where the instruction is done. ``judged``: the simulator knows whether it has been."""

    seed: int
    judged: bool


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0 on success (or when nobody can judge), 1 if the robot failed."""
    options = parse(argv)
    body = embodiment_of(options.env)
    bundle = load_bundle(bundle_dir(options.model or DEFAULT_MODELS[body.name]))  # a broken one is refused here with one line, instead of in a process's log
    if bundle.manifest.robot != body.robot:
        raise ConfigError(f"bundle '{bundle.manifest.name}' is for robot {bundle.manifest.robot}, --env {options.env} has {body.robot}: give another --model or --env")
    options.instruction = options.instruction or default_instruction(options.env)
    PromptEncoder(bundle.manifest, bundle.tokenizer_path).encode(options.instruction)  # and so is an instruction that does not fit
    console = Console()
    options.out.mkdir(parents=True, exist_ok=True)
    scene = choose_scene(options.instruction, options.seed, options.env)
    if not scene.judged:
        console.print(Text("The simulator cannot check this instruction: it knows no such task. The robot tries anyway.", style="yellow"))
    try:
        with _terminate_as_interrupt():
            report = Demo(options, bundle, scene, console).run()
    except VlaError as error:  # a process that did not come up or died: measured as failed
        console.print(Text(str(error), style="red"), soft_wrap=True)
        return 1
    write_json(options.out / "report.json", report)
    _show_result(report, options.out, console)
    return int(report["success"] is False)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="vla demo", description="The robot does one instruction in the embedded simulator.")
    parser.add_argument("--env", default=TABLETOP.name, help="tabletop, or a task of Meta-World such as metaworld:drawer-open-v3 (default: %(default)s)")
    parser.add_argument("--instruction", help=f"what to tell the robot (default: {DEFAULT_INSTRUCTION}; in Meta-World what its task is)")
    parser.add_argument("--model", help="policy bundle: a folder or a name below models/ (default: tabletop; in Meta-World metaworld-mt50)")
    parser.add_argument("--seed", type=int, help="scene; by default the first one in which the instruction makes sense")
    parser.add_argument("--sim", choices=SIMULATORS, default=MUJOCO, help="where the robot moves; gazebo is Gazebo Classic 11 (docs/gazebo.md)")
    parser.add_argument("--limit-s", type=float, default=DEFAULT_LIMIT_S, help="give up after this many seconds (default: %(default)g)")
    parser.add_argument("--provider", choices=PROVIDERS, default="cpu", help="where the policy runs (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder of film, report and logs (default: %(default)s)")
    parser.add_argument("--no-video", action="store_true", help="no film: less memory, no time for encoding")
    options = parser.parse_args(argv)
    if options.instruction is not None and not options.instruction.strip():
        parser.error("--instruction is blank")
    if embodiment_of(options.env) is not TABLETOP and options.sim != MUJOCO:
        parser.error("--sim gazebo has the tabletop alone")
    if options.limit_s <= 0 or (options.seed is not None and options.seed < 0):
        parser.error("--limit-s must be positive and --seed not negative")
    return options


def default_instruction(environment: str) -> str:
    """What the robot is told where nobody says anything."""
    if embodiment_of(environment) is TABLETOP:
        return DEFAULT_INSTRUCTION
    from vla_ros.sim.metaworld.tasks import MetaWorldTask, phrasings, tasks_of

    return phrasings(MetaWorldTask(tasks_of(environment)[0]))[0]


def choose_scene(instruction: str, seed: int | None, environment: str = TABLETOP.name) -> Scene:
    """The first scene in which the instruction names things that are there and within reach.

    Args:
        instruction: as typed.
        seed: take this scene, whatever it shows.
        environment: whose scenes; a task of Meta-World can be done in each of its own.

    Raises:
        ConfigError: the words are understood, but no scene has these things.
    """
    if embodiment_of(environment) is METAWORLD:
        from vla_ros.sim.metaworld import tasks as metaworld

        asked = metaworld.parse_task(instruction)
        return Scene(seed=seed or 0, judged=asked is not None and asked.family == metaworld.tasks_of(environment)[0])
    from vla_ros.sim.env import TabletopEnv
    from vla_ros.sim.tasks import parse_task

    task = parse_task(instruction)
    if task is None:
        return Scene(seed=seed or 0, judged=False)
    env = TabletopEnv()
    for candidate in range(SCENES_TO_SEARCH) if seed is None else [seed]:
        env.reset(candidate)
        if task in env.feasible_tasks():
            return Scene(seed=candidate, judged=True)
    if seed is not None:
        objects = ", ".join(map(str, env.world_state().objects))
        raise ConfigError(f"scene {seed} has no such task; it shows: {objects}. Leave --seed out to search a scene")
    raise ConfigError(f"no scene among {SCENES_TO_SEARCH} allows {instruction!r}: name other objects")


class Demo:
    """One run from starting the processes to stopping them."""

    def __init__(self, options: argparse.Namespace, bundle: Bundle, scene: Scene, console: Console) -> None:
        self._options, self._bundle, self._scene, self._console = options, bundle, scene, console
        self._phase, self._given_s, self._ended_s = START, 0.0, 0.0
        self._memory_mb: dict[str, float] = {}
        self._missed_before: float | None = None
        self._observer: Observer | None = None

    def run(self) -> dict[str, Any]:
        """Plays the demo and returns the report.

        Raises:
            VlaError: a process did not come up; with the end of its log.
        """
        environment = own_ros_environment()
        os.environ.update(environment)
        from vla_ros.ros.observer import Observer

        with contextlib.ExitStack() as stack:
            processes = self._start_processes(stack)
            cameras = tuple(camera.name for camera in self._bundle.manifest.cameras)
            self._observer = Observer(cameras, keep_pictures=not self._options.no_video, on_change=self._note)
            stack.callback(self._observer.close)
            live = stack.enter_context(Live(get_renderable=self._view, console=self._console, refresh_per_second=5))
            self._wait_until_ready(processes)
            self._follow(processes)
            live.refresh()
            self._memory_mb = {process.name: round(process.peak_memory_mb(), 1) for process in processes}
            self._observer.hold()
        return self._report(self._write_film())

    def _start_processes(self, stack: contextlib.ExitStack) -> list[Process]:
        options = self._options
        sim = vla_command("sim", "--env", options.env, "--seed", str(self._scene.seed))
        model = ("--model", str(self._bundle.directory), "--execution-provider", options.provider)
        policy = vla_command("run", *model, "--autostart", "false")
        if options.sim == GAZEBO:  # time is Gazebo's
            sim += ["--simulator", "gazebo-classic", "--publish-clock"]
            policy += ["--use-sim-time"]
        commands = {"vla_sim": sim, "vla_policy": policy}
        return [stack.enter_context(Process(name, command, options.out / f"{name}.log")) for name, command in commands.items()]

    def _wait_until_ready(self, processes: Sequence[Process]) -> None:
        from vla_ros.ros.observer import NoAnswer

        observer = self._observer
        self._phase = "starting the simulator"
        if not observer.spin_until(lambda: observer.has_pictures() or _dead(processes), SIM_READY_S) or _dead(processes):
            raise _not_ready(processes, f"no pictures from the simulator within {SIM_READY_S:.0f} s")
        self._phase = "loading the policy"
        try:
            observer.activate_policy(POLICY_READY_S)
        except NoAnswer as error:
            raise _not_ready(processes, str(error)) from error
        if not observer.spin_until(lambda: observer.is_connected() and observer.seen.code == "IDLE", 10.0):
            raise _not_ready(processes, "the nodes do not hear each other")
        observer.spin_until(lambda: observer.diagnostic("control thread", "missed_periods") is not None, 3.0)
        self._missed_before = observer.diagnostic("control thread", "missed_periods")

    def _follow(self, processes: Sequence[Process]) -> None:
        """Gives the instruction and watches until success, the policy's own end, or the limit."""
        observer, options = self._observer, self._options
        limit_s = options.limit_s if self._scene.judged else min(options.limit_s, UNJUDGED_S)
        self._phase, self._given_s = "acting", time.monotonic()
        observer.give(options.instruction)
        done_s: list[float] = []

        def ended() -> bool:
            if observer.seen.task_done and not done_s:
                done_s.append(time.monotonic())
            settled = bool(done_s) and time.monotonic() - done_s[0] > AFTER_DONE_S
            judged_done = self._scene.judged and observer.seen.success
            return judged_done or settled or observer.is_stopped or _dead(processes) is not None

        observer.spin_until(ended, limit_s)
        self._ended_s = time.monotonic()
        self._phase = "success" if observer.seen.success else "ended"
        observer.spin_until(lambda: False, AFTER_SUCCESS_S)
        observer.spin_until(lambda: False, 1.1)  # one more diagnostics message: it counts what happened up to the end
        dead = _dead(processes)
        if dead is not None:
            raise VlaError(f"{dead.name} ended with code {dead.exit_code}; the end of {dead.log}:\n{dead.log_tail()}")

    # ---- what came of it ----

    def _report(self, film: str | None) -> dict[str, Any]:
        observer, seen = self._observer, self._observer.seen
        missed = observer.diagnostic("control thread", "missed_periods")
        return {
            "instruction": self._options.instruction,
            "success": seen.success if self._scene.judged else None,
            "seconds": round(self._ended_s - self._given_s, 2),
            "control_rate_hz": _rate_hz(seen.command_times_ns),
            "missed_periods": None if missed is None else int(missed - (self._missed_before or 0)),
            "inference_ms": round(median(seen.inference_ms), 1) if seen.inference_ms else None,
            "video": film,
            "environment": self._options.env,
            "simulator": self._options.sim,
            "scene_seed": self._scene.seed,
            "plan": seen.plan,
            "status": seen.sentence,
            "commands": len(seen.command_times_ns),
            "longest_command_gap_ms": _longest_gap_ms(seen.command_times_ns),
            "diagnostics": observer.diagnostics,
            "peak_memory_mb": self._memory_mb,
            "bundle": self._bundle.manifest.name,
            "bundle_sha256": self._bundle.sha256,
            "machine": machine_facts(),
        }

    def _write_film(self) -> str | None:
        if self._options.no_video or not self._observer.seen.pictures:
            return None
        from vla_ros import video

        frames = [
            video.Frame(
                time_s=max(0.0, picture.time_s - self._given_s),
                images=picture.images,
                instruction=self._options.instruction,
                plan=picture.plan,
                status=picture.sentence,
                success=picture.success if self._scene.judged else None,
            )
            for picture in self._observer.seen.pictures
        ]
        out = self._options.out
        with self._console.status("encoding the film"):
            pictures = [video.draw(frame) for frame in video.at_rate(frames, FILM_RATE_HZ)]
            film = video.write_mp4(out / "demo.mp4", pictures, FILM_RATE_HZ)
            video.write_gif(out / "demo.gif", pictures, FILM_RATE_HZ)
        return str(film)

    # ---- what is shown meanwhile ----

    def _view(self) -> Table:
        seen = self._observer.seen
        table = Table.grid(padding=(0, 2))
        acting = self._phase not in (START,) and self._given_s > 0
        end_s = self._ended_s or time.monotonic()
        rate, latency = _rate_hz(seen.command_times_ns[-250:]), seen.inference_ms[-1:]
        rows = {
            "told": self._options.instruction if acting else "-",
            "plan": seen.plan or "-",
            "state": seen.sentence if acting else self._phase,
            "control": f"{rate:.1f} Hz" if acting and rate else "-",
            "inference": f"{latency[0]:.0f} ms" if latency else "-",
            "time": f"{end_s - self._given_s:.1f} s" if acting else "-",
        }
        for key, value in rows.items():
            table.add_row(Text(key, style="cyan"), Text(value))
        return table

    def _note(self, seen: Seen) -> None:
        """One line for every change, where no live table can be drawn (a log, CI)."""
        if not self._console.is_terminal and self._given_s:
            line = f"{time.monotonic() - self._given_s:5.1f} s  {seen.sentence}  plan: {seen.plan or '-'}  success: {seen.success}"
            self._console.print(Text(line), soft_wrap=True)


def _rate_hz(times_ns: Sequence[int]) -> float | None:
    if len(times_ns) < 2 or times_ns[-1] <= times_ns[0]:
        return None
    return round((len(times_ns) - 1) * 1e9 / (times_ns[-1] - times_ns[0]), 2)


def _longest_gap_ms(times_ns: Sequence[int]) -> float | None:
    gaps = [after - before for before, after in zip(times_ns, times_ns[1:], strict=False)]
    return round(max(gaps) * 1e-6, 2) if gaps else None


def _dead(processes: Sequence[Process]) -> Process | None:
    return next((process for process in processes if process.exit_code is not None), None)


def _not_ready(processes: Sequence[Process], reason: str) -> VlaError:
    """The reason, with the end of the log of the process that died, else of the last one started."""
    culprit = _dead(processes) or processes[-1]
    state = "runs" if culprit.exit_code is None else f"ended with code {culprit.exit_code}"
    return VlaError(f"{reason}. {culprit.name} {state}; the end of {culprit.log}:\n{culprit.log_tail()}\nTry: vla doctor")


def _show_result(report: dict[str, Any], out: Path, console: Console) -> None:
    verdict = {True: Text("success", style="bold green"), False: Text("failed", style="bold red"), None: Text("not judged", style="yellow")}
    missed, latency = report["missed_periods"], report["inference_ms"]
    line = f" after {report['seconds']:.1f} s; control {report['control_rate_hz']} Hz, {missed} periods missed; inference {latency} ms"
    console.print(verdict[report["success"]], Text(line), sep="")
    console.print(Text(f"film and report: {report['video'] or '-'}, {out / 'report.json'}"))


@contextlib.contextmanager
def _terminate_as_interrupt():
    """SIGTERM ends the demo as Ctrl-C does: through the code that stops the processes."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
