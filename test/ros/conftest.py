# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the ROS tests: a tiny policy bundle, an own ROS domain for each test, and waiting for a condition instead of sleeping."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from vla_ros.core import tabletop

_FIRST_ACTION_TOKEN = 300
_BINS = 256


def write_tiny_bundle(folder: Path, action_D: tuple[float, ...] = (0.0, 0.0, 0.05, 0.0, 0.0, 0.042), slow_loops: int = 0) -> Path:
    """A bundle whose graph always answers the same action, whatever it sees.

    Args:
        folder: where to write it.
        action_D: terminate, x, y, z, yaw, gripper of the last step; earlier steps are on the way to it. NaN makes all logits NaN.
        slow_loops: matrix products that cost time, to make inference slow.
    """
    pytest.importorskip("onnx")
    folder.mkdir(parents=True, exist_ok=True)
    _write_graph(folder / "policy.onnx", action_D, slow_loops)
    _write_tokenizer(folder / "tokenizer.json")
    spec = tabletop.ACTION_SPEC
    units = {"gripper_joint": "m", "tool_x": "m", "tool_y": "m", "tool_z": "m"}
    manifest = {
        "format_version": 1,
        "name": "tiny",
        "description": "Answers one constant motion; for tests.",
        "robot": tabletop.ROBOT,
        "cameras": [c.to_dict() for c in tabletop.CAMERAS],
        "proprio": [
            {"name": n, "unit": units.get(n, "rad"), "source": "tool" if n.startswith("tool") else "joint"} for n in tabletop.PROPRIO_NAMES
        ],
        "action": spec.to_dict(),
        "vocabulary": {
            "size": _FIRST_ACTION_TOKEN + _BINS,
            "first_action_token": _FIRST_ACTION_TOKEN,
            "num_action_tokens": _BINS,
            "pad_token": 0,
            "tokenizer": "tokenizer.json",
        },
        "plan": {
            "slots": [
                {"name": "phase", "words": ["wait", "move"]},
                {"name": "x", "low": 0.0, "high": 1.0, "unit": "m", "frame": "base_link"},
            ]
        },
        "prompt_template": tabletop.PROMPT_TEMPLATE,
        "decoding": "parallel",
        "context": {
            "length": 64,
            "image_tokens": 2,
            "text_tokens": tabletop.TEXT_TOKENS,
            "state_tokens": 1,
            "action_tokens": spec.num_tokens,
        },
        "files": {"policy": "policy.onnx"},
        "sha256": {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in ("policy.onnx", "tokenizer.json")},
        "opset": 17,
    }
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest, sort_keys=False), encoding="utf-8")
    return folder


def _constant_logits(action_D: tuple[float, ...]) -> np.ndarray:
    spec = tabletop.ACTION_SPEC
    logits = np.full((1, spec.num_tokens, _BINS), -10.0, np.float32)
    if np.isnan(action_D).any():
        return np.full_like(logits, np.nan)
    for step in range(spec.horizon):
        for d, dim in enumerate(spec.dims):
            value = action_D[d] * ((step + 1) / spec.horizon if dim.relative else 1.0)
            logits[0, step * spec.num_dims + d, min(int((value - dim.low) / dim.bin_width), _BINS - 1)] = 10.0
    return logits


def _write_graph(path: Path, action_D: tuple[float, ...], slow_loops: int) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    spec = tabletop.ACTION_SPEC
    inputs = [helper.make_tensor_value_info(f"image_{c.name}", TensorProto.UINT8, [1, *c.shape]) for c in tabletop.CAMERAS]
    inputs += [
        helper.make_tensor_value_info("text_ids", TensorProto.INT64, [1, tabletop.TEXT_TOKENS]),
        helper.make_tensor_value_info("proprio", TensorProto.FLOAT, [1, len(tabletop.PROPRIO_NAMES)]),
        helper.make_tensor_value_info("prefix_tokens", TensorProto.INT64, [1, spec.num_tokens]),
    ]
    outputs = [
        helper.make_tensor_value_info("action_logits", TensorProto.FLOAT, [1, spec.num_tokens, _BINS]),
        helper.make_tensor_value_info("plan_tokens", TensorProto.INT64, [1, 2]),
    ]
    nodes, sums = [], []
    for graph_input in inputs:  # every input must reach an output, multiplied by zero
        name = graph_input.name
        nodes.append(helper.make_node("Cast", [name], [f"f_{name}"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("ReduceSum", [f"f_{name}"], [f"s_{name}"], keepdims=0))
        sums.append(f"s_{name}")
    nodes.append(helper.make_node("Sum", sums, ["total"]))
    nodes.append(helper.make_node("Mul", ["total", "zero"], ["nothing0"]))
    for i in range(slow_loops):
        nodes += [
            helper.make_node("Add", ["matrix", f"nothing{i}"], [f"m{i}"]),
            helper.make_node("MatMul", [f"m{i}", f"m{i}"], [f"mm{i}"]),
            helper.make_node("ReduceSum", [f"mm{i}"], [f"ms{i}"], keepdims=0),
            helper.make_node("Mul", [f"ms{i}", "zero"], [f"nothing{i + 1}"]),
        ]
    nodes.append(helper.make_node("Add", ["logits", f"nothing{slow_loops}"], ["action_logits"]))
    nodes.append(helper.make_node("Identity", ["plan"], ["plan_tokens"]))
    constants = {
        "zero": np.zeros((), np.float32),
        "logits": _constant_logits(action_D),
        "plan": np.array([[1, 128]], np.int64),
        **({"matrix": np.ones((512, 512), np.float32)} if slow_loops else {}),
    }
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, [numpy_helper.from_array(v, k) for k, v in constants.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def _write_tokenizer(path: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["pad", *alphabet]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="pad"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(path))


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that answers "5 cm to the right (base y), nothing else"."""
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture
def make_bundle() -> Callable[..., Path]:
    """``write_tiny_bundle``."""
    return write_tiny_bundle


_numbers = itertools.cycle(range(1, 101))  # 101 is the largest that is safe beside Linux's ephemeral ports
_numbers = itertools.islice(_numbers, os.getpid() % 100, None)


@contextlib.contextmanager
def ros_domain() -> Iterator[int]:
    """A ROS domain of its own, on this machine only: a lock keeps test runs side by side out of each other's, and nobody else is in it."""
    from vla_ros.processes import is_free

    folder = Path(tempfile.gettempdir()) / "vla_ros_test_domains"
    folder.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        number = next(n for n in _numbers if is_free(n) and _lock(stack.enter_context((folder / str(n)).open("w"))))
        patch.setenv("ROS_DOMAIN_ID", str(number))
        patch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        yield number


def _lock(file: Any) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def ros_context() -> Iterator[None]:
    """An initialised rclpy in a domain of its own."""
    import rclpy

    from vla_ros.ros.transport import use_fastdds_profile

    with ros_domain():
        use_fastdds_profile()
        rclpy.init()
        try:
            yield
        finally:
            rclpy.try_shutdown()


@pytest.fixture
def domain() -> Iterator[int]:
    """A ROS domain for this test alone."""
    with ros_domain() as number:
        yield number


@pytest.fixture
def context() -> Iterator[None]:
    """An initialised rclpy for this test alone."""
    with ros_context():
        yield


@pytest.fixture
def wait_until() -> Callable[..., Any]:
    """``wait_until(condition, what, timeout_s, spin)``: polls until ``condition()`` is true and returns its value."""

    def wait(condition: Callable[[], Any], what: str, timeout_s: float = 10.0, spin: Callable[[], None] | None = None) -> Any:
        deadline = time.monotonic() + timeout_s
        while True:
            value = condition()
            if value:
                return value
            if time.monotonic() > deadline:
                pytest.fail(f"not within {timeout_s} s: {what}")
            if spin is None:
                time.sleep(0.005)
            else:
                spin()

    return wait


class Asking:
    """Asks a service, and again every two seconds until an answer comes; calling it returns the answer, or None so far.

    A client may count as connected before the server knows where to send the answer (discovery is not one step), and then the first is lost.
    """

    def __init__(self, client: Any, request: Any) -> None:
        self._client, self._request = client, request
        self._futures: list[Any] = []
        self._next_s = 0.0

    def __call__(self) -> Any:
        answered = [future.result() for future in self._futures if future.done()]
        if not answered and time.monotonic() >= self._next_s:
            self._futures.append(self._client.call_async(self._request))
            self._next_s = time.monotonic() + 2.0
        return answered[0] if answered else None


@pytest.fixture
def asking() -> type[Asking]:
    """``Asking``."""
    return Asking


class Rig:
    """The policy node in this process, its executor in a thread, beside a fake robot. Lifecycle requests run in the executor's thread."""

    def __init__(self, bundle: Path, **parameters: Any) -> None:
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.parameter import Parameter

        from vla_ros.core.paths import robot_config_path
        from vla_ros.robot import RobotDescription
        from vla_ros.ros.fake_robot import FakeRobot
        from vla_ros.ros.policy_node import PolicyNode

        self.description = RobotDescription.load(robot_config_path(tabletop.ROBOT))
        # Ages are wide where a test is not about them: the machine that runs the tests may be busy.
        defaults = {
            "model": str(bundle),
            "realtime.sched_fifo_priority": 0,
            "max_joint_age_s": 0.4,
            "max_image_age_s": 0.6,
            "max_skew_s": 0.6,
        }
        values = {**defaults, **{k.replace("__", "."): v for k, v in parameters.items()}}
        self.robot = FakeRobot(self.description, tabletop.CAMERAS)
        self.node = PolicyNode([Parameter(k, value=v) for k, v in values.items()])
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        while not self._closing.is_set():
            self._executor.spin_once()

    def run(self, function: Callable[[], Any], timeout_s: float = 60.0) -> Any:
        """Runs ``function`` in the executor's thread."""
        task = self._executor.create_task(function)
        self.until(task.done, "the executor's thread answers", timeout_s)
        return task.result()

    def until(self, condition: Callable[[], Any], what: str, timeout_s: float = 15.0) -> Any:
        """Waits for a condition."""
        deadline = time.monotonic() + timeout_s
        while not (value := condition()):
            if time.monotonic() > deadline:
                codes = [s["code"] for s in self.robot.statuses[-12:]]
                pytest.fail(f"not within {timeout_s} s: {what}; statuses: {codes}; robot's failure: {self.robot.failure!r}")
            time.sleep(0.005)
        return value

    def configure(self) -> str:
        """Returns the lifecycle state afterwards."""
        self.run(self.node.trigger_configure)
        return self.node.label

    def activate(self) -> str:
        """Returns the lifecycle state afterwards; waits until topics are connected."""
        self.run(self.node.trigger_activate)
        if self.node.label == "active":
            self.until(lambda: self.robot.hears_instructions and self.robot.commands, "the node is connected")
        return self.node.label

    def start(self, instruction: str = "go") -> Any:
        """Configures, activates, instructs, and waits until the robot moves. Returns the fake robot."""
        assert self.configure() == "inactive"
        assert self.activate() == "active"
        return self.go(instruction)

    def go(self, instruction: str = "go") -> Any:
        """Instructs and waits until the robot moves."""
        self.robot.instruct(instruction)
        self.until(lambda: self.robot.code == "ACTING" and self.robot.speed() > 0.01, "the robot moves")
        return self.robot

    def resume(self) -> bool:
        """Ends a latch, which outlives deactivation. Returns whether there is none any more."""
        from vla_ros.core.errors import InputError
        from vla_ros.core.states import ControlState

        def resume(loop: Any, joint_age_ns: int) -> None:
            if loop.state is ControlState.LATCHED:
                loop.resume(joint_age_ns)

        try:
            self.node.session.runner.call(resume)
        except InputError:  # the released e-stop has not arrived yet
            return False
        return True

    def until_code(self, code: str, timeout_s: float = 15.0) -> None:
        """Waits until ``~/status`` has this code."""
        self.until(lambda: self.robot.code == code, f"status {code}", timeout_s)

    def until_at_rest(self) -> None:
        """Waits until the command has come to rest."""
        self.until(lambda: self.robot.speed() < 1e-6, "the command is at rest")

    @property
    def drops(self) -> dict[str, int]:
        """Dropped messages so far."""
        return dict(self.node.interface.drops.counts)

    def close(self) -> None:
        """Frees everything."""
        self.run(self.node.close)
        self._closing.set()
        self._executor.wake()
        self._thread.join(2.0)
        self._executor.shutdown(timeout_sec=1.0)
        self.node.destroy_node()
        self.robot.close()


@pytest.fixture
def make_rig(context: Any, tiny_bundle: Path) -> Iterator[Callable[..., Rig]]:
    """``make_rig(bundle=None, **parameters)``: dots in parameter names are written as two underscores."""
    rigs: list[Rig] = []

    def make(bundle: Path | None = None, **parameters: Any) -> Rig:
        rigs.append(Rig(bundle or tiny_bundle, **parameters))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()


@pytest.fixture(scope="module")
def shared_rig(tiny_bundle: Path) -> Iterator[Rig]:
    """One configured node for all tests of a module: loading takes a second. Use through ``rig``."""
    with ros_context():
        shared = Rig(tiny_bundle)
        assert shared.configure() == "inactive"
        yield shared
        shared.close()


@pytest.fixture
def rig(shared_rig: Rig) -> Rig:
    """The shared node, freshly activated and idle, beside a robot without faults."""
    robot = shared_rig.robot
    robot.joints_on, robot.cameras_on, robot.follows = True, {c.name for c in tabletop.CAMERAS}, True
    robot.alter_joints, robot.alter_image = (lambda _: None), (lambda _, __: None)
    robot.press_e_stop(False)
    if shared_rig.node.label == "active":
        shared_rig.run(shared_rig.node.trigger_deactivate)
    robot.position_J = shared_rig.description.home.copy()
    inputs = shared_rig.node._inputs
    shared_rig.until(
        lambda: inputs.sample is not None and np.allclose(inputs.sample.positions_J, robot.position_J), "the node sees the robot"
    )
    for recorded in (robot.commands, robot.statuses, robot.actions, robot.tokens, robot.plans):
        recorded.clear()
    shared_rig.until(lambda: shared_rig.activate() == "active", "the node is active again")
    shared_rig.until(shared_rig.resume, "a latch of the test before is resumed")
    shared_rig.until_code("IDLE")
    return shared_rig
