# SPDX-License-Identifier: Apache-2.0
"""The console script: fast, one clear line for a user's mistake, and the exit codes that scripts rely on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from vla_ros import cli
from vla_ros.core.errors import ConfigError, VlaError
from vla_ros.extras import packages_of

HEAVY = ("rclpy", "torch", "mujoco", "onnxruntime", "cv2", "pinocchio", "rich", "numpy")


def run_vla(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vla_ros.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, **environment})


@pytest.fixture
def install_main(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[list[str]], object]], str]:
    """Registers a function as the ``main`` of a module that the command ``bench`` runs."""

    def install(main: Callable[[list[str]], object]) -> str:
        module = types.ModuleType("vla_test_command")
        module.main = main
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(cli.COMMANDS, "bench", cli.Command(module=module.__name__, summary="for the test"))
        return "bench"

    return install


def raising(error: BaseException) -> Callable[[list[str]], object]:
    def main(argv: list[str]) -> object:
        raise error

    return main


def test_help_lists_every_command():
    done = run_vla("--help")
    assert done.returncode == 0
    for name in ("demo", "sim", "run", "collect", "train", "export", "quantize", "evaluate", "bench", "inspect", "doctor"):
        assert f"  {name} " in done.stdout


def test_help_imports_nothing_heavy():
    probe = "import sys; from vla_ros import cli; cli.main(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=60, check=True)
    assert not set(done.stderr.split()) & set(HEAVY)


def test_no_command_and_an_unknown_one_are_wrong_use():
    assert run_vla().returncode == 2
    unknown = run_vla("fly")
    assert unknown.returncode == 2
    assert "'fly'" in unknown.stderr and "evaluate" in unknown.stderr
    assert "Traceback" not in unknown.stderr


@pytest.mark.parametrize("name", ["demo", "quantize", "evaluate", "bench", "inspect", "doctor"])
def test_every_command_explains_itself(name: str):
    done = run_vla(name, "--help")
    if "is not installed: " in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: vla {name}")
    assert "--json" in done.stdout or name == "demo"


@pytest.mark.parametrize("name", ["evaluate", "bench", "inspect"])
def test_wrong_options_are_wrong_use(name: str):
    done = run_vla(name, "--no-such-option")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["evaluate", "inspect"])
def test_an_absent_bundle_is_one_line(name: str):
    done = run_vla(name, "/no/such/bundle")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "/no/such/bundle" in done.stderr


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (1, 1), (True, 1), (2, 2)])
def test_what_a_command_returns_is_the_exit_code(install_main, returned: object, code: int):
    assert cli.main([install_main(lambda argv: returned)]) == code


def test_options_reach_the_command_untouched(install_main):
    seen: list[list[str]] = []
    name = install_main(seen.append)
    cli.main([name, "--ros-args", "-r", "__node:=x", "--help"])
    assert seen == [["--ros-args", "-r", "__node:=x", "--help"]]


def test_a_users_mistake_is_one_line_without_traceback(install_main, capsys):
    assert cli.main([install_main(raising(ConfigError("set control_rate_hz to 10..500")))]) == 2
    assert capsys.readouterr().err == "vla bench: set control_rate_hz to 10..500\n"


def test_what_was_tried_and_did_not_hold_is_a_measured_failure(install_main, capsys):
    assert cli.main([install_main(raising(VlaError("the graph answers differently")))]) == 1
    assert capsys.readouterr().err == "vla bench: the graph answers differently\n"


def test_debug_shows_the_traceback(install_main, capsys, monkeypatch):
    monkeypatch.setenv("VLA_DEBUG", "1")
    assert cli.main([install_main(raising(ConfigError("wrong")))]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_bug_is_not_dressed_up_as_a_mistake(install_main):
    with pytest.raises(ZeroDivisionError):
        cli.main([install_main(raising(ZeroDivisionError()))])


def test_interruption_has_the_shells_code(install_main):
    assert cli.main([install_main(raising(KeyboardInterrupt()))]) == 130


@pytest.mark.parametrize(
    ("module", "commands"),
    [
        ("mujoco", ("pip install mujoco av ", 'pip install ".[sim]"')),
        ("rclpy", ("source a ROS 2 installation", 'pip install ".[ros]"')),
        ("sensor_msgs.msg", ("source a ROS 2 installation", 'pip install ".[ros]"')),
        ("torch", ("pip install torch onnx onnxscript ", 'pip install ".[train]"')),
        ("onnxruntime", ("pip install onnxruntime ", 'pip install ".[cpu]"', "NVIDIA")),
        ("yaml", ("rosdep install", "pip install .)")),
    ],
)
def test_a_missing_package_names_what_brings_it_in_a_workspace_and_in_a_clone(install_main, capsys, module: str, commands: tuple[str, ...]):
    if not packages_of("sim"):
        pytest.skip("a clone on PYTHONPATH that is not installed declares nothing")
    code = cli.main([install_main(raising(ModuleNotFoundError(f"No module named {module!r}", name=module)))])
    assert code == 2
    message = capsys.readouterr().err
    assert module in message and all(command in message for command in commands), message


def test_nobody_is_told_to_install_this_package_by_its_name():
    root = Path(cli.__file__).resolve().parents[1]
    files = [*(root / "vla_ros").rglob("*.py"), *(root / "docs").glob("*.md"), *root.glob("README.md")]
    asks = re.compile(r"""pip install [\w -]*["'`]?vla_ros\b""")
    assert [str(file) for file in files if asks.search(file.read_text(encoding="utf-8"))] == [], "it is on no package index"


def test_a_missing_module_of_our_own_is_a_bug(install_main):
    with pytest.raises(ModuleNotFoundError):
        cli.main([install_main(raising(ModuleNotFoundError("No module named 'vla_ros.x'", name="vla_ros.x")))])


def test_the_commands_offer_the_providers_that_the_runtime_knows():
    session = pytest.importorskip("vla_ros.runtime.session")
    from vla_ros.results import PROVIDERS

    assert PROVIDERS == tuple(session.PROVIDERS)
