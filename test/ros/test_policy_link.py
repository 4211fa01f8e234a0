# SPDX-License-Identifier: Apache-2.0
"""The node's end of the exchange, and what the worker process is told."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from vla_ros.core.chunk import Reference
from vla_ros.core.paths import robot_config_path
from vla_ros.core.safety import StatusCode
from vla_ros.robot import RobotDescription
from vla_ros.ros.joint_states import JointSample
from vla_ros.ros.policy_link import FiguresSlot, SharedMemoryLink, exchange_sizes
from vla_ros.ros.worker_process import CameraTopic, WorkerConfig, WorkerProcess
from vla_ros.runtime.bundle import load_bundle
from vla_ros.runtime.messages import Exchange, WorkerReport

_ROBOT = RobotDescription.load(robot_config_path("tabletop_arm"))
_SAMPLE = JointSample(stamp_ns=5, positions_J=_ROBOT.home, velocities_J=np.zeros(7), velocity_is_derived=False)


@pytest.fixture
def ends(tiny_bundle):
    """(the node's link, the worker's exchange, the worker's figures)."""
    manifest = load_bundle(tiny_bundle).manifest
    link = SharedMemoryLink(manifest, _ROBOT)
    exchange = Exchange(link.name, **exchange_sizes(manifest, _ROBOT), create=False)
    figures = FiguresSlot(link.name, create=False)
    yield link, exchange, figures
    exchange.close()
    figures.close()
    link.close()
    assert not list(Path("/dev/shm").glob(f"{link.name}*"))


def loop(instruction="go", refused=None):
    reference = Reference.at_rest(7, np.arange(7.0))
    facts = {"generation": 4, "instruction": instruction, "wants_inference": True, "reference": reference}
    return SimpleNamespace(**facts, refuse_instruction=lambda *a: refused.append(a))


def test_the_worker_reads_what_the_loop_wants(ends):
    link, exchange, _ = ends
    link.send(loop(), None, 9)
    assert exchange.read_snapshot() is None, "nothing is sent before a joint state has come"
    link.send(loop(), _SAMPLE, 9)
    snapshot = exchange.read_snapshot()
    assert (snapshot.generation, snapshot.instruction, snapshot.wants_inference, snapshot.joint_stamp_ns) == (4, "go", True, 5)
    np.testing.assert_array_equal(snapshot.joint_positions, _ROBOT.home)


def test_an_instruction_without_room_is_refused_and_not_cut(ends):
    link, exchange, _ = ends
    refused = []
    link.send(loop("x" * 100_000, refused), _SAMPLE, 9)
    assert refused == [(4, StatusCode.INSTRUCTION_TOO_LONG)]
    snapshot = exchange.read_snapshot()
    assert snapshot.instruction == "" and not snapshot.wants_inference


def test_readiness_and_figures_come_from_the_worker(ends):
    link, exchange, figures = ends
    assert not link.is_ready and link.figures() == {}
    figures.write({"provider": "cpu", "drops": {"front.image_step": 2}})
    exchange.write_report(WorkerReport(heartbeat_ns=1, is_ready=True, inferences=3, inference_ns=2_500_000))
    link.update()
    assert link.is_ready and link.provider == "cpu" and link.inferences == 3
    assert link.figures()["image_dropped.front.image_step"] == 2 and link.figures()["inference_ms"] == "2.5"
    link.forget_worker()
    assert not link.is_ready


def test_figures_without_room_keep_the_failure(ends):
    link, _, figures = ends
    figures.write({"failure": "no memory", "drops": {f"front.{i}": i for i in range(10_000)}})
    assert link.failure == "no memory"


def config(**changes):
    fields = {
        "bundle": "b",
        "robot": "r",
        "exchange": "e",
        "node_name": "n",
        "namespace": "/",
        "use_sim_time": False,
        "cameras": (CameraTopic(name="front", topic="/front/image_raw"),),
        "transport": "raw",
        "max_pixels": 1,
        "provider": "cpu",
        "allow_cpu": False,
        "threads": 1,
        "nice": 10,
        "min_period_ns": 0,
        "max_image_age_ns": 1,
        "max_joint_age_ns": 1,
        "max_future_ns": 1,
        "max_skew_ns": 1,
        "frozen_timeout_ns": 1,
    }
    return WorkerConfig(**{**fields, **changes})


def test_the_configuration_makes_a_round_trip():
    assert WorkerConfig.from_json(config().to_json()) == config()
    assert config().parent_pid == os.getpid()


@pytest.mark.ros
def test_a_worker_whose_parent_is_another_process_ends_at_once(wait_until):
    worker = WorkerProcess(config(parent_pid=1))
    worker.start()
    assert wait_until(lambda: worker.exit_code is not None, "it ends", 20.0) and worker.exit_code == 4
    worker.stop()
    worker.stop()
