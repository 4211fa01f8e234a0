# SPDX-License-Identifier: Apache-2.0
"""Nothing runs back up the house's arrows: proven in subprocesses, and by reading every import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import vla_ros

PACKAGE = Path(vla_ros.__file__).resolve().parent
ROOMS = ("core", "robot", "model", "train", "sim", "runtime", "ros", "importers", "dataset")

# What a room may import of the package, itself included.
MAY_IMPORT = {
    "core": {"core"},
    "robot": {"core", "robot"},
    "model": {"core", "model"},
    "train": {"core", "model", "train"},
    "sim": {"core", "robot", "sim"},
    "runtime": {"core", "robot", "runtime"},
    "ros": {"core", "robot", "sim", "runtime", "ros"},
    "importers": {"core", "robot", "model", "runtime", "importers"},
    "dataset": {"core", "robot", "train", "ros", "dataset"},  # of ros only what decodes pictures, which knows no rclpy
}
# What must not even be loaded after importing all modules of a room.
MUST_NOT_LOAD = {
    "core": ("torch", "rclpy", "onnxruntime", "mujoco", "yaml", "pinocchio", "ruckig", "cv2", "tokenizers", "scipy"),
    "robot": ("torch", "rclpy", "onnxruntime", "mujoco", "cv2", "tokenizers"),
    "model": ("rclpy", "onnxruntime", "mujoco", "pinocchio"),
    "train": ("rclpy", "onnxruntime", "mujoco"),
    "sim": ("torch", "rclpy", "onnxruntime"),
    "runtime": ("torch", "rclpy", "mujoco", "onnx"),
    "ros": ("torch",),
    "importers": ("rclpy", "mujoco", "transformers", "timm"),
    "dataset": ("torch", "rclpy", "onnxruntime", "mujoco"),
}
PROGRAM = """
import importlib, sys
for name in {modules!r}:
    importlib.import_module(name)
print(*sorted({{m.split(".")[0] for m in sys.modules}}))
"""


def modules_of(room: str) -> list[str]:
    files = sorted((PACKAGE / room).rglob("*.py"))
    names = [".".join(("vla_ros", *f.relative_to(PACKAGE).with_suffix("").parts)) for f in files]
    return [n.removesuffix(".__init__") for n in names if not n.endswith(".__main__")]


def loaded_by(modules: list[str]) -> set[str]:
    result = subprocess.run([sys.executable, "-c", PROGRAM.format(modules=modules)], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    return set(result.stdout.splitlines()[-1].split())


def imports_of(path: Path) -> set[str]:
    """Everything a file imports, anywhere in it, as dotted names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute in this project"
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_loads_nothing_that_is_not_its_own(room):
    modules = modules_of(room)
    if not modules:
        pytest.skip(f"vla_ros/{room} has no modules")
    if room == "ros":
        pytest.importorskip("rclpy")
    if room in ("model", "train", "importers"):
        pytest.importorskip("torch")
    if room == "sim":
        pytest.importorskip("mujoco")
    if room == "importers":
        pytest.importorskip("safetensors")
    if room == "dataset":
        pytest.importorskip("pyarrow")
    loaded = loaded_by(modules) & set(MUST_NOT_LOAD[room])
    assert not loaded, f"vla_ros.{room} loads {sorted(loaded)}"


@pytest.mark.parametrize("room", ROOMS)
def test_no_import_runs_back_up(room):
    for path in sorted((PACKAGE / room).rglob("*.py")):
        own = {name.split(".")[1] for name in imports_of(path) if name.startswith("vla_ros.") and name.split(".")[1] in ROOMS}
        assert own <= MAY_IMPORT[room], f"{path.relative_to(PACKAGE)} imports {sorted(own - MAY_IMPORT[room])}"


def test_core_imports_numpy_and_the_standard_library_only():
    allowed = set(sys.stdlib_module_names) | {"numpy", "vla_ros"}
    for path in sorted((PACKAGE / "core").rglob("*.py")):
        foreign = {name.split(".")[0] for name in imports_of(path)} - allowed
        assert not foreign, f"{path.name} imports {sorted(foreign)}"


def test_only_the_ros_room_imports_rclpy():
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.relative_to(PACKAGE).parts[0] != "ros":
            assert not any(name.split(".")[0] in ("rclpy", "rclpy_action") for name in imports_of(path)), path


def test_the_package_alone_loads_nothing():
    assert not loaded_by(["vla_ros"]) & {"numpy", "torch", "rclpy", "yaml", "onnxruntime", "mujoco"}


def test_the_library_does_not_print():
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if path.relative_to(PACKAGE).parts[0] in ("core", "robot", "runtime", "model"):
            calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id == "print"]
            assert not calls, f"{path.relative_to(PACKAGE)} prints"
