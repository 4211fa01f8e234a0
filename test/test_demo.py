# SPDX-License-Identifier: Apache-2.0
"""The demo: which scene it takes, and what it leaves behind when both nodes really run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from vla_ros import demo
from vla_ros.core.errors import ConfigError, InstructionTooLong
from vla_ros.core.paths import bundle_dir

KEYS = {"instruction", "success", "seconds", "control_rate_hz", "missed_periods", "inference_ms", "video"}


@pytest.fixture(scope="module", autouse=True)
def simulator():
    pytest.importorskip("mujoco")


def test_the_default_instruction_can_be_judged():
    assert demo.choose_scene(demo.DEFAULT_INSTRUCTION, None).judged


@pytest.mark.parametrize("text", ["pick up the green cube", "push the yellow cylinder to the left", "stack the red cube on the blue cube"])
def test_a_scene_is_found_in_which_the_instruction_makes_sense(text: str):
    from vla_ros.sim.env import TabletopEnv
    from vla_ros.sim.tasks import parse_task

    scene = demo.choose_scene(text, None)
    env = TabletopEnv()
    env.reset(scene.seed)
    assert scene.judged and parse_task(text) in env.feasible_tasks()


def test_an_unknown_instruction_runs_without_a_judge():
    assert demo.choose_scene("make me a sandwich", None) == demo.Scene(seed=0, judged=False)


def test_a_scene_without_the_object_says_what_it_shows():
    wanted = demo.choose_scene("pick up the purple cylinder", None).seed
    other = next(seed for seed in range(50) if seed != wanted and _lacks("pick up the purple cylinder", seed))
    with pytest.raises(ConfigError, match="it shows: .*Leave --seed out"):
        demo.choose_scene("pick up the purple cylinder", other)


def _lacks(text: str, seed: int) -> bool:
    try:
        demo.choose_scene(text, seed)
    except ConfigError:
        return True
    return False


@pytest.mark.parametrize("arguments", [["--instruction", "  "], ["--limit-s", "0"], ["--seed", "-1"], ["--provider", "abacus"]])
def test_impossible_options_are_wrong_use(arguments: list[str]):
    with pytest.raises(SystemExit) as stop:
        demo.parse(arguments)
    assert stop.value.code == 2


def test_an_instruction_that_does_not_fit_the_policy_is_refused_before_anything_starts(tmp_path):
    with pytest.raises(InstructionTooLong, match="tokens"):
        demo.main(["--instruction", "please " * 100, "--out", str(tmp_path)])
    assert not list(tmp_path.iterdir())


def test_rate_and_gaps_come_from_stamps():
    stamps = [0, 20_000_000, 40_000_000, 80_000_000]
    assert demo._rate_hz(stamps) == 37.5 and demo._longest_gap_ms(stamps) == 40.0
    assert demo._rate_hz([5]) is None and demo._longest_gap_ms([]) is None


# ---- both nodes over DDS ----


@pytest.fixture(scope="module")
def ros():
    pytest.importorskip("rclpy")
    pytest.importorskip("vla_ros.ros.policy_link")


def start_demo(bundle: Path, out: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "vla_ros.cli", "demo", "--model", str(bundle), "--out", str(out), *arguments]
    obeys = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # background jobs of a shell, tests too, begin with it ignored
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, preexec_fn=obeys)


def processes_of(out: Path) -> list[str]:
    """Nodes that were started for this output folder: each has a log there as its stdout."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.readlink(entry / "fd" / "1").startswith(str(out)):
                found.append((entry / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def test_a_policy_that_does_nothing_fails_honestly_and_leaves_everything_behind(ros, still_bundle, tmp_path):
    av = pytest.importorskip("av")
    out = tmp_path / "demo"
    process = start_demo(still_bundle, out, "--limit-s", "3")
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 1, said
    report = json.loads((out / "report.json").read_text())
    assert set(report) >= KEYS and report["success"] is False
    assert report["instruction"] == demo.DEFAULT_INSTRUCTION
    assert report["seconds"] == pytest.approx(3.0, abs=1.0)
    assert report["control_rate_hz"] == pytest.approx(50, rel=0.1)
    assert isinstance(report["missed_periods"], int) and report["inference_ms"] > 0
    assert report["peak_memory_mb"]["vla_policy"] > 50
    with av.open(report["video"]) as container:
        assert container.duration / 1e6 == pytest.approx(5, abs=2.5)
    assert {path.name for path in out.iterdir()} == {"demo.mp4", "demo.gif", "report.json", "vla_sim.log", "vla_policy.log"}
    assert not processes_of(out)


def test_a_task_of_meta_world_is_done_over_ros(ros, tmp_path):
    """With the bundle that ships, in real time; another program may keep the machine from one try."""
    pytest.importorskip("metaworld")
    tried = []
    for seed in range(3):
        process = start_demo(bundle_dir("metaworld-mt50"), tmp_path, "--env", "metaworld:drawer-open-v3", "--seed", str(seed), "--limit-s", "10", "--no-video")
        said, _ = process.communicate(timeout=240)
        report = json.loads((tmp_path / "report.json").read_text())
        assert report["instruction"] == "open the drawer" and report["environment"] == "metaworld:drawer-open-v3", said
        tried.append(report["success"])
        if report["success"]:
            break
    assert tried[-1], tried


def test_an_instruction_that_nobody_can_judge_is_not_called_a_failure(ros, still_bundle, tmp_path):
    process = start_demo(still_bundle, tmp_path, "--limit-s", "2", "--no-video", "--instruction", "wave")
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert "cannot check" in said
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["success"] is None and report["video"] is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_no_process(ros, still_bundle, tmp_path, number: signal.Signals):
    process = start_demo(still_bundle, tmp_path, "--limit-s", "60", "--no-video")
    deadline = time.monotonic() + 60
    while len(processes_of(tmp_path)) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(processes_of(tmp_path)) >= 2
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert not processes_of(tmp_path)


def test_a_task_of_meta_world_has_its_own_words_scene_and_bundle(still_bundle):
    pytest.importorskip("metaworld")
    drawer = "metaworld:drawer-open-v3"
    text = demo.default_instruction(drawer)
    assert text == "open the drawer" and demo.default_instruction("tabletop") == demo.DEFAULT_INSTRUCTION
    assert demo.choose_scene(text, 3, drawer) == demo.Scene(seed=3, judged=True)
    assert demo.choose_scene("close the drawer", None, drawer) == demo.Scene(seed=0, judged=False)  # another task than the scene's
    with pytest.raises(ConfigError, match="metaworld_hand"):
        demo.main(["--env", drawer, "--model", str(still_bundle)])
    with pytest.raises(SystemExit):
        demo.parse(["--env", drawer, "--sim", "gazebo"])
