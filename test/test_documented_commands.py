# SPDX-License-Identifier: Apache-2.0
"""Every command in README and guides is run here with small sizes, or by a named test, or there is a reason why no test can run it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pytest
from guides import PLACEHOLDERS, ROOT, commands, parse, words_of

from vla_ros import cli
from vla_ros.processes import own_ros_environment
from vla_ros.train.synthetic import write_dataset

TIMEOUT_S = 300.0
SMALL_MODEL = "--set model.width=32 --set model.depth=2 --set model.vision_depth=1 --set model.heads=4 --set model.stem_channels=[4,8]"
SHORT_TRAINING = (
    "--set run.max_steps=1 --set run.val_frames=1 --set run.threads=1 "
    "--set data.frames_per_batch=2 --set data.labels_per_frame=1 --set data.val_fraction=0.3 --set data.rescan_s=0"
)
FEW_QUESTIONS = "--set data.question_frames=2 --set data.questions_per_frame=2"
SHORT_EPISODE = "--workers 1 --limit-s 1"


@dataclass(frozen=True, kw_only=True)
class Run:
    """A command as documented; what stands for its sizes and what is added here; what it says and leaves."""

    line: str
    sizes: Mapping[str, str] = field(default_factory=dict)
    more: str = ""
    says: str = ""
    leaves: tuple[str, ...] = ()
    status: int = 0
    ends: bool = True  # else it runs until Ctrl-C, which is given when it has said its words

    @property
    def command(self) -> list[str]:
        """For this interpreter."""
        program, *words = [self.sizes.get(word, word) for word in DOCUMENTED[self.line]] + shlex.split(self.more)
        return [sys.executable, *(["-m", "vla_ros.cli"] if program == "vla" else []), *words]


DOCUMENTED = {" ".join(words): words for words in (words_of(line) for _, line, _ in commands())}

#: Each in a folder of its own, one after the other where one needs what the other leaves. Modules that it needs beside the core's.
RUN: dict[str, tuple[tuple[str, ...], tuple[Run, ...]]] = {
    "a policy that answers": (
        ("torch", "onnx", "mujoco"),
        (
            Run(
                line="vla collect --questions --frames 20000 --labels 8 --seed 90000000 --out data/questions",
                sizes={"20000": "4"},
                more="--workers 1",
                leaves=("data/questions/meta.yaml",),
            ),
            Run(
                line="vla train --config config/train/tabletop_questions.yaml --data data/snapshots data/episodes --questions data/questions --out runs/asked",
                more=f"{SMALL_MODEL} {SHORT_TRAINING} {FEW_QUESTIONS}",
                leaves=("runs/asked/best.pt",),
            ),
            Run(
                line="vla export --checkpoint runs/asked/best.pt --data data/snapshots --out models/asked",
                more="--frames 2 --threads 1",
                leaves=("models/asked/manifest.yaml", "models/asked/answer.onnx"),
            ),
            Run(line="vla ask models/asked view.png what colour is the cube?"),
            Run(line="vla ask models/asked --measure 200 --split unseen", sizes={"200": "2"}),
        ),
    ),
    "the shipped bundle answers": (("onnxruntime", "mujoco"), (Run(line="vla ask models/tabletop --measure 1500", sizes={"1500": "2"}, says="all"),)),
    "training goes on from a bundle": (
        ("torch", "onnx"),
        (
            Run(line="vla checkpoint models/tabletop --out runs/tabletop.pt", leaves=("runs/tabletop.pt",)),
            Run(line="vla renew BUNDLE", sizes={"BUNDLE": "models/tabletop"}, more="--out runs/renewed --threads 1", leaves=("runs/renewed/manifest.yaml",)),
            Run(line="vla renew models/tabletop --plain-attention --out models/tabletop-plain", more="--threads 1", leaves=("models/tabletop-plain/policy.onnx",)),
            Run(
                line="vla train --transfer",
                more=f"runs/tabletop.pt --config config/train/tabletop.yaml --data data/snapshots --out runs/again {SHORT_TRAINING}",
                leaves=("runs/again/last.pt",),
            ),
        ),
    ),
    **{
        line: (("onnxruntime", "mujoco"), (Run(line=line, sizes={size: "1"}, more=SHORT_EPISODE, says="success"),))
        for line, size in {
            "vla evaluate expert --episodes 40 --seed 3 --delay-ms 220": "40",
            "vla evaluate models/tabletop --episodes 0 --pairs 40 --seed 1000": "40",
            "vla evaluate models/tabletop --episodes 100 --seed 2000 --delay-ms 60": "100",
            "vla evaluate models/tabletop --episodes 200 --seed 1000": "200",
            "vla evaluate models/tabletop --split unseen --episodes 200 --seed 1000": "200",
            "vla evaluate tabletop --episodes 100 --json mujoco.json": "100",
        }.items()
    },
    "the film of an episode": (
        ("mujoco", "av"),
        (Run(line="python tools/film_episode.py --gif film.gif", more="--sim mujoco --model expert", leaves=("film.gif",)),),
    ),
    "the safety filter's time": (
        ("mujoco",),
        (Run(line="vla bench filter --json filter.json --fill docs/realtime.md", more="--cycles 200", leaves=("filter.json",)),),
    ),
    "what doctor finds": (
        ("rclpy", "onnxruntime", "mujoco"),
        (
            Run(line="vla doctor", more="--seconds 0.5 --json doctor.json", says="bundle tabletop", leaves=("doctor.json",), status=1),
            Run(
                line="vla doctor --only robot --model tabletop --robot config/robots/ur5e.yaml",
                more="--seconds 0.5",
                says="ur5e",
                status=1,
            ),
        ),
    ),
    "the nodes": (
        ("rclpy", "onnxruntime", "mujoco"),
        (
            Run(line="vla sim", says="scene 0: judging", ends=False),
            Run(line="vla run --model tabletop", says="ready: bundle tabletop", ends=False),
            Run(line="vla console", more="--port 0", says="http://", ends=False),
        ),
    ),
    "a task of Meta-World": (
        ("rclpy", "metaworld"),
        (Run(line="vla sim --env metaworld:drawer-open-v3", says="judging", ends=False),),
    ),
    "what needs nothing": (
        ("onnxruntime",),
        (
            Run(line="vla --help", says="exit codes"),
            Run(line="vla inspect --help", says="usage"),
            Run(line="vla inspect models/tabletop", says="sha256"),
        ),
    ),
}

#: The test that runs a command, as ``path::name``.
ELSEWHERE = {
    "vla train --config config/train/tabletop_answers.yaml --data data/snapshots --questions data/questions --transfer runs/tabletop.pt --out runs/answers": (
        "train/test_questions.py::test_answers_are_learned_beside_a_policy_that_stays_bit_for_bit"
    ),
    "make demo INSTRUCTION=put the red cube in the blue bowl": "test_demo.py::test_a_policy_that_does_nothing_fails_honestly_and_leaves_everything_behind",
    "vla demo": "test_demo.py::test_a_policy_that_does_nothing_fails_honestly_and_leaves_everything_behind",
    "vla demo --env metaworld:drawer-open-v3": "test_demo.py::test_a_task_of_meta_world_is_done_over_ros",
    "vla evaluate models/metaworld-mt50 --suite mt50 --episodes 10": "sim/metaworld/test_shipped_policy.py::test_it_does_easy_tasks",
    "vla demo --sim gazebo": "sim/gazebo/test_gazebo_demo.py::test_the_demo_succeeds_in_gazebo",
    "make soak": "faults/test_soak.py::test_random_faults_are_survived_and_no_command_is_bad",
    "vla run --flight-recorder dir": "faults/test_soak.py::test_random_faults_are_survived_and_no_command_is_bad",
    "python -m vla_ros.ros.fuzzing --messages 100000 --seed 0": "faults/test_fuzz.py::test_thousands_of_bad_messages_neither_break_the_node_nor_let_a_bad_command_out",
    "python -m vla_ros.ros.fuzzing --messages 100000 --seed 0 --timeout-s 180": "faults/test_fuzz.py::test_thousands_of_bad_messages_neither_break_the_node_nor_let_a_bad_command_out",
    "python -m vla_ros.ros.command_observer --urdf file": "ros/test_command_observer.py::test_the_process_reads_the_topic_and_reports",
    "torchrun --standalone --nproc-per-node 2 -m vla_ros.train --config config/train/tabletop.yaml --data data/snapshots --out runs/two": "train/test_parallel.py::test_the_command_runs_under_torchrun_and_leaves_one_run",
    "learn_family.sh runs/front models/tabletop runs/tabletop/snapshots": "test_documented_commands.py::test_the_steps_of_a_script_are_commands_that_exist",
    "make policy POLICY_DIR=runs/tabletop MINUTES=240": "test_documented_commands.py::test_the_steps_of_a_script_are_commands_that_exist",
    "vla ablate": "test_ablate.py::test_each_variant_has_a_row_with_its_cost",
    "vla bench all": "bench/test_command.py::test_all_leaves_out_what_is_not_installed",
    "vla bench control": "bench/test_control.py::test_the_real_node_is_recorded_in_every_condition",
    "vla bench end-to-end": "bench/test_control.py::test_the_real_node_is_measured_from_the_camera_on",
    "vla bench inference": "bench/test_inference.py::test_the_command_compares_everything_in_one_run",
    "vla bench scale": "bench/test_scale.py::test_one_network_is_measured_beside_int8_and_its_floor",
    "vla bench stops": "bench/test_stops.py::test_every_fault_begins_a_stop_and_a_killed_inference_process_is_replaced",
    "vla bench takeover": "bench/test_takeover.py::test_each_way_and_delay_has_its_figures",
    "vla bench transport": "bench/test_transport.py::test_pictures_travel_by_every_way",
    "vla collect --env metaworld:mt50": "sim/metaworld/test_metaworld_collect.py::test_arrays_have_the_shapes_that_meta_and_embodiment_say",
    "vla continual": "train/test_continual.py::test_the_command_reports_what_was_learned_and_lost",
    "vla correct": "test_corrections.py::test_every_state_that_the_policy_asks_about_is_labelled",
    "vla dataset": "dataset/test_guide.py::test_every_command_of_the_guide_does_what_it_says",
    "vla doctor --only robot": "ros/test_doctor_graph.py::test_the_command_says_it_in_words",
    "vla evaluate --split combinations": "test_generalisation.py::test_the_command_plays_each_condition_once_and_writes_table_and_figure",
    "vla evaluate models/tabletop --ros --episodes 20 --seed 1000": "test_evaluate.py::test_the_real_nodes_play_the_same_scenes",
    "vla evaluate expert --suite mt50": "test_evaluate_suite.py::test_an_expert_does_its_task_through_either_control",
    "vla forgetting": "test_forgetting.py::test_the_command_fails_where_too_much_is_lost",
    "vla generalisation": "test_generalisation.py::test_the_command_plays_each_condition_once_and_writes_table_and_figure",
    "vla import lerobot-act": "importers/test_import_command.py::test_act_becomes_a_bundle_that_inspect_shows",
    "vla import openvla": "importers/test_openvla.py::test_tokens_and_logits_are_the_references",
    "vla inspect models/my_act": "importers/test_import_command.py::test_act_becomes_a_bundle_that_inspect_shows",
    "vla quantize": "test_quantize.py::test_a_new_bundle_says_where_it_came_from",
    "vla record": "ros/test_recording.py::test_the_file_is_what_ros_and_foxglove_read",
    "vla replay": "ros/test_recording.py::test_a_replay_needs_no_ros",
    "vla scaling": "train/test_scaling.py::test_a_small_study_runs_fits_and_is_not_repeated",
    "vla sim export-sdf": "sim/gazebo/test_sdf.py::test_the_command_writes_checks_and_refuses",
    "vla run --ros-args -p use_sim_time:=true": "sim/gazebo/test_nodes.py::test_joint_states_are_gazebos",
    "vla sim --seed 1": "ros/test_simulator.py::test_drivers_publish_what_a_robot_does",
    "vla sim --simulator gazebo-classic": "sim/gazebo/test_nodes.py::test_joint_states_are_gazebos",
    "vla train --data data/robot": "train/test_trainer.py::test_command_trains_and_refuses_to_overwrite",
    "vla train --resume": "train/test_trainer.py::test_command_trains_and_refuses_to_overwrite",
    "vla train --tensorboard": "train/test_board.py::test_a_run_can_be_read_by_tensorboard",
    "vla train-image-tokens": "train/test_image_tokens.py::test_the_command_leaves_what_it_says",
    "ros2 launch vla_ros gazebo.launch.py": "sim/gazebo/test_launch_run.py::test_by_default_a_window_the_bridge_and_our_driver",
    "ros2 launch vla_ros mujoco.launch.py": "ros/test_launch_run.py::test_what_is_said_in_a_second_terminal_moves_the_arm",
    "ros2 launch vla_ros policy.launch.py": "ros/test_launch_run.py::test_a_launched_policy_moves_the_robot_and_holds_when_the_launch_is_ended",
    "ros2 lifecycle": "ros/test_launch_run.py::test_the_first_motion_of_ones_own_robot",
    "ros2 param": "ros/test_launch_run.py::test_the_first_motion_of_ones_own_robot",
    "ros2 run vla_ros vla": "ros/test_launch_run.py::test_what_is_said_in_a_second_terminal_moves_the_arm",
    "ros2 run vla_ros vla_policy": "ros/test_launch_run.py::test_the_first_motion_of_ones_own_robot",
    "ros2 service call": "ros/test_launch_run.py::test_what_is_said_in_a_second_terminal_moves_the_arm",
    "ros2 topic": "ros/test_launch_run.py::test_what_is_said_in_a_second_terminal_moves_the_arm",
}
#: Why no test can run a command.
NOT_RUN = {
    "apt-get": "changes the machine",
    "colcon build": "needs colcon, which is no package of the tests",
    "export": "sets a variable of the reader's shell",
    "git clone": "needs the network",
    "gz sim": "needs Gazebo Sim; sim/gazebo runs its own launch file with recorders in the place of the programs",
    "make gazebo-test": "sets up Gazebo Classic as root; it is a test itself",
    "make test": "is this",
    "mkdir": "of the shell",
    "pip install": "needs the network; tools/bootstrap.sh has installed the extras before the tests run",
    "pip uninstall": "would take a package from under the tests",
    "pytest": "is part of make test",
    "python tools/faults.py --write docs/faults.md": "runs every test of a fault; faults/test_table.py runs its parts",
    "python tools/film_episode.py --gif docs/gazebo.gif": "needs Gazebo Classic 11; run above in MuJoCo",
    "ros2 bag": "needs rosbag2",
    "ros2 launch vla_ros view.launch.py": "needs RViz and a screen",
    "ros2 security": "needs sros2; faults/test_security.py makes the same keys",
    "rosdep": "needs the network and root",
    "sysctl": "changes the machine",
    "vla evaluate BUNDLE --sim gazebo": "needs Gazebo Classic 11; sim/gazebo/test_classic.py plays in it",
    "vla evaluate expert --sim gazebo --episodes 20": "needs Gazebo Classic 11; sim/gazebo/test_classic.py plays in it",
    "vla evaluate models/tabletop --sim gazebo --episodes 100 --seed 1000": "needs Gazebo Classic 11; sim/gazebo/test_classic.py plays in it",
    "vla evaluate tabletop --sim gazebo --episodes 100 --json gazebo.json": "needs Gazebo Classic 11; sim/gazebo/test_classic.py plays in it",
    "vla export --checkpoint runs/mt50/best.pt --data data/mt50 --out models/metaworld-mt50": "needs a training of hours; exported above from another",
    "vla train --config config/train/metaworld.yaml": "needs demonstrations of hours; trained above on others",
    "vla train --set run.device=cuda --set run.precision=bfloat16": "needs a GPU",
    "vla sim --gazebo --publish-clock": "needs a running gz sim",
}


def runs() -> list[Run]:
    return [run for _, chain in RUN.values() for run in chain]


def is_beginning(beginning: str, line: str) -> bool:
    return f"{line} ".startswith(f"{beginning} ")


def without_placeholders(line: str) -> str:
    return " ".join(word for word in line.split() if word not in {"BUNDLE", *PLACEHOLDERS.values()})


@pytest.mark.parametrize("line", DOCUMENTED)
def test_a_command_is_run_here_or_elsewhere_or_there_is_a_reason(line):
    tables = ({run.line for run in runs()}, ELSEWHERE, NOT_RUN)
    assert any(is_beginning(key, line) or is_beginning(without_placeholders(line), key) for table in tables for key in table), line


def test_a_command_of_no_table_is_noticed():
    for new in ("vla fly", "vla train --faster", "make coffee", "ros2 doctor", "python tools/none.py"):
        with pytest.raises(AssertionError):
            test_a_command_is_run_here_or_elsewhere_or_there_is_a_reason(new)


def test_the_tables_hold_nothing_that_is_not_documented():
    for key in (*ELSEWHERE, *NOT_RUN):
        assert any(is_beginning(key, line) or is_beginning(without_placeholders(line), key) for line in DOCUMENTED), key
    assert {run.line for run in runs()} <= set(DOCUMENTED)


@pytest.mark.parametrize("place", sorted(set(ELSEWHERE.values())))
def test_the_test_that_is_named_exists(place):
    file, _, name = place.partition("::")
    assert re.search(rf"^def {name}\(", (ROOT / "test" / file).read_text(encoding="utf-8"), re.MULTILINE), place


@pytest.fixture
def clone(tmp_path, monkeypatch) -> Path:
    """A folder like a clone, with a little data of its own; the guides there may be written to."""
    for name in ("config", "tools", "models/tabletop"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("*.gif", "*.png"))
    for name in ("snapshots", "episodes"):
        write_dataset(tmp_path / "data" / name)
    cv2.imwrite(str(tmp_path / "view.png"), np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("chain", RUN)
def test_commands_do_what_the_guides_say(chain, clone):
    modules, steps = RUN[chain]
    for module in modules:
        pytest.importorskip(module)
    environment = {**os.environ, **own_ros_environment(), "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])}
    for step in steps:
        log = clone / "said.txt"
        with log.open("w", encoding="utf-8") as said:
            process = subprocess.Popen(step.command, env=environment, stdout=said, stderr=subprocess.STDOUT, preexec_fn=listen_to_ctrl_c)
            if not step.ends:
                threading.Thread(target=interrupt_when, args=(process, log, step.says), daemon=True).start()
            try:
                status = process.wait(TIMEOUT_S)
            finally:
                process.kill()
        text = log.read_text(encoding="utf-8", errors="replace")
        assert status == step.status and "Traceback" not in text and step.says in " ".join(text.split()), f"{step.line}: {status}\n{text[-3000:]}"
        assert [name for name in step.leaves if not (clone / name).exists()] == [], step.line


def listen_to_ctrl_c() -> None:
    """A process that was started in the background ignores it otherwise."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def interrupt_when(process: subprocess.Popen, log: Path, says: str) -> None:
    """Gives Ctrl-C to a process that has said these words."""
    while process.poll() is None:
        if says in log.read_text(encoding="utf-8", errors="replace"):
            process.send_signal(signal.SIGINT)
            return
        threading.Event().wait(0.05)


#: Stands for ``vla`` in a script: writes down its command line and leaves what a step looks for.
STAND_IN = """#!{python}
import json, sys
from pathlib import Path
words = sys.argv[1:]
with open({record!r}, "a") as record:
    record.write(json.dumps(words) + "\\n")
value = dict(zip(words, words[1:]))
finished = json.dumps({{"finished": True}})
if "--out" in value:
    Path(value["--out"]).mkdir(parents=True, exist_ok=True)
    Path(value["--out"], words[0] + ".json").write_text(finished)
if "--json" in value:
    Path(value["--json"]).write_text(finished)
"""


@pytest.mark.parametrize("script", ["make_policy.sh runs/tabletop 240", "learn_family.sh runs/front best.pt runs/snapshots runs/corrections"])
def test_the_steps_of_a_script_are_commands_that_exist(script, tmp_path, monkeypatch):
    shutil.copytree(ROOT / "tools", tmp_path / "tools")
    record, stand_in = tmp_path / "record.jsonl", tmp_path / "vla"
    stand_in.write_text(STAND_IN.format(python=sys.executable, record=str(record)), encoding="utf-8")
    stand_in.chmod(0o755)
    command = ["bash", *[f"tools/{word}" if word.endswith(".sh") else word for word in script.split()]]
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, "VLA": str(stand_in)}, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    steps = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]
    assert len(steps) >= 8
    for words in steps:
        with monkeypatch.context() as patch:
            parse(patch, cli.main, words)
