# SPDX-License-Identifier: Apache-2.0
"""Two processes, started by torchrun, against one with the same global batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from vla_ros.core.errors import ConfigError
from vla_ros.train.checkpoint import load_checkpoint, restore_policy
from vla_ros.train.parallel import Processes, share_batch_norm
from vla_ros.train.synthetic import write_questions

# Plain gradient descent, since Adam would turn a rounding error of a gradient near zero into a whole step.
PROGRAM = """
import json, sys
from pathlib import Path
import torch
from vla_ros.train.config import TrainConfig
from vla_ros.train.data import Dataset
from vla_ros.train.parallel import Processes
from vla_ros.train.questions import QuestionDataset
from vla_ros.train.trainer import Trainer

settings, data, questions, out = json.loads(sys.argv[1]), *map(Path, sys.argv[2:])
torch.set_num_threads(1)
processes = Processes.join("cpu")
config = TrainConfig.from_dict(settings)
trainer = Trainer(config, Dataset([data], val_fraction=0.3), out, questions=QuestionDataset([questions], 0.3), processes=processes)
trainer.optimizer = torch.optim.SGD(trainer.model.parameters(), lr=1.0)
parts = [trainer._update(trainer.maker.training_batch(step)) for step in range(3)]
norms = [float(part["grad_norm"]) for part in parts]
if processes.leads:
    torch.save({"model": trainer.model.state_dict(), "averaged": trainer.averaged.model.state_dict(), "norms": norms}, out)
processes.leave()
"""


def run(words: list[str], processes: int) -> None:
    launcher = [] if processes == 1 else ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, *launcher, *words], capture_output=True, text=True, timeout=300, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]


@pytest.mark.parametrize("only", ["", "answers"])
def test_two_processes_learn_what_one_does(dataset_folder, tmp_path, tiny_settings, only):
    questions = write_questions(tmp_path / "questions")
    (tmp_path / "program.py").write_text(PROGRAM)
    settings = {**tiny_settings, "model": {**tiny_settings["model"], "answer_tokens": 6, "action_head": "l1"}}
    settings["data"] = {**settings["data"], "question_frames": 4, "questions_per_frame": 1}
    settings["run"] = {**settings["run"], "max_steps": 3, "vision_fraction": 0.3}  # the first step trains vision alone
    settings["optim"] = {"learning_rate": 0.1, "warmup_steps": 1}
    if only:  # with an eye and layers of their own, at a rate at which their softmaxes do not tip over
        settings["model"] |= {"answer_depth": 1, "answer_eye": True}
        settings["run"] |= {"only": only, "vision_fraction": 0.0}
        settings["optim"] = {"learning_rate": 0.003, "warmup_steps": 1}
    for count in (1, 2):
        words = [json.dumps(settings), str(dataset_folder), str(questions), str(tmp_path / f"{count}.pt")]
        run([str(tmp_path / "program.py"), *words], count)
    one, two = (torch.load(tmp_path / f"{count}.pt", weights_only=True) for count in (1, 2))
    assert one["norms"] == pytest.approx(two["norms"], rel=1e-4) and min(one["norms"]) > 1e-3
    for kind in ("model", "averaged"):
        for name, tensor in one[kind].items():
            # float32 sums in another order, after three steps of size one
            torch.testing.assert_close(two[kind][name], tensor, rtol=1e-4, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}")


def test_the_command_runs_under_torchrun_and_leaves_one_run(dataset_folder, tmp_path, tiny_settings):
    out = tmp_path / "out"
    overrides = [f"{section}.{key}={json.dumps(value)}" for section, values in tiny_settings.items() for key, value in values.items()]
    words = ["-m", "vla_ros.train", "--data", str(dataset_folder), "--out", str(out), *(word for text in overrides for word in ("--set", text))]
    run([*words, "--json", str(tmp_path / "result.json")], 2)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "training"] == [1, 2, 3, 4]  # one process writes
    assert json.loads((tmp_path / "result.json").read_text())["finished"] is True
    policy = restore_policy(load_checkpoint(out / "best.pt"))  # the state is a plain policy's
    assert not any("Shared" in type(module).__name__ for module in policy.modules())


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(ConfigError, match="multiples of 2"):
        Processes(0, 2).part_of({"x": torch.zeros(3, 1)})


def test_parts_make_the_whole():
    rows = torch.arange(12).view(6, 2)
    parts = [Processes(rank, 3).part_of({"a": rows, "b": None})["a"] for rank in range(3)]
    assert torch.equal(torch.cat(parts), rows)


def test_a_process_alone_changes_nothing():
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), torch.nn.BatchNorm2d(1))
    alone = Processes()
    share_batch_norm(model, alone)
    assert type(model[1]) is torch.nn.BatchNorm2d
    value = torch.tensor(3)
    assert alone.mean(value) is value and alone.agree([1.0, 0.0]) == [1.0, 0.0] and alone.leads
