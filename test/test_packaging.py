# SPDX-License-Identifier: Apache-2.0
"""One package for colcon and for pip: both descriptions agree, and what they install is complete."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
import zipfile
from pathlib import Path

import pytest

import vla_ros

ROOT = Path(vla_ros.__file__).resolve().parents[1]
PYTHONS = ("3.10", "3.11", "3.12")

if not (ROOT / "setup.py").is_file():
    pytest.skip("an installed package, not a clone", allow_module_level=True)


@pytest.fixture(scope="module")
def manifest() -> ElementTree.Element:
    return ElementTree.parse(ROOT / "package.xml").getroot()


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory) -> list[str]:
    """What a wheel of this tree holds, built without network from a copy."""
    pytest.importorskip("setuptools")
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False).stdout.decode().split("\0")
    for name in filter(None, tracked):
        source = ROOT / name
        if source.is_file() and not name.startswith("test/"):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes(source.read_bytes())
    if not (copy / "setup.py").is_file():
        pytest.skip("not a git checkout")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(out), str(copy)]
    done = subprocess.run(build, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = out.glob("*.whl")
    return zipfile.ZipFile(wheel).namelist()


def shared(names: list[str]) -> set[str]:
    return {name.split("/share/vla_ros/", 1)[1] for name in names if "/share/vla_ros/" in name}


def test_package_xml_and_python_agree_on_name_and_version(manifest):
    assert manifest.get("format") == "3"
    assert manifest.findtext("name") == "vla_ros"
    assert manifest.findtext("version") == vla_ros.__version__
    assert manifest.findtext("license") == "Apache-2.0"
    assert manifest.findtext("export/build_type") == "ament_python"


def test_every_ros_package_that_is_imported_is_a_dependency(manifest):
    declared = {element.text for element in manifest if element.tag in ("depend", "exec_depend")}
    imported = set()
    packages = re.compile(r"^\s*(?:from|import) (\w+_msgs|\w+_srvs|\w+_interfaces|rclpy|launch|launch_ros|cv_bridge)\b", re.MULTILINE)
    for path in [*(ROOT / "vla_ros").rglob("*.py"), *(ROOT / "launch").rglob("*.py")]:
        imported |= set(packages.findall(path.read_text(encoding="utf-8")))
    optional = {"control_msgs"}  # command.interface JointJog, where it is installed
    assert imported - declared - optional == set()


def test_the_ament_index_knows_the_package(wheel_names):
    assert any(name.endswith("/share/ament_index/resource_index/packages/vla_ros") for name in wheel_names)
    assert "package.xml" in shared(wheel_names)


@pytest.mark.parametrize("folder", ["config", "launch", "models"])
def test_shared_folders_are_installed_whole(wheel_names, folder: str):
    tracked = subprocess.run(["git", "ls-files", folder], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert {name for name in tracked if (ROOT / name).is_file()} <= shared(wheel_names)


def test_every_module_is_in_the_wheel(wheel_names):
    tracked = subprocess.run(["git", "ls-files", "vla_ros"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert {name for name in tracked if name.endswith(".py") and (ROOT / name).is_file()} <= set(wheel_names)
    assert not [name for name in wheel_names if name.startswith("test/")]


def extras() -> dict[str, list[str]]:
    text = (ROOT / "setup.py").read_text(encoding="utf-8")
    namespace: dict = {}
    exec(re.search(r"^EXTRAS = \{.*?^\}", text, re.MULTILINE | re.DOTALL).group(0), namespace)  # noqa: S102  our own literal
    return namespace["EXTRAS"]


def test_torch_is_for_training_and_importing_only():
    for name, requirements in extras().items():
        has_torch = any(requirement.startswith("torch") for requirement in requirements)
        assert has_torch == (name in ("train", "import")), name


def test_the_two_onnxruntime_wheels_never_meet():
    owners = {name for name, requirements in extras().items() if any(r.startswith("onnxruntime") for r in requirements)}
    assert owners == {"cpu", "gpu"}
    base = re.search(r"install_requires=\[.*?\]", (ROOT / "setup.py").read_text(), re.DOTALL).group(0)
    assert "onnxruntime" not in base


def pins(python: str) -> dict[str, str]:
    from packaging.requirements import Requirement

    found = {}
    for line in (ROOT / "requirements" / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"python_version": python}):
                assert requirement.name not in found, f"{requirement.name} is pinned twice for Python {python}"
                (specifier,) = requirement.specifier
                assert specifier.operator == "=="
                found[requirement.name] = specifier.version
    return found


@pytest.mark.parametrize("python", PYTHONS)
def test_every_direct_requirement_is_pinned_within_its_range(python: str):
    from packaging.requirements import Requirement

    base = re.search(r"install_requires=\[(.*?)\]", (ROOT / "setup.py").read_text(), re.DOTALL).group(1)
    requirements = [item for extra in extras().values() for item in extra] + re.findall(r'"([^"]+)"', base)
    pinned = pins(python)
    for requirement in map(Requirement, requirements):
        assert requirement.name in pinned, requirement
        assert requirement.specifier.contains(pinned[requirement.name]), requirement


ONLY_BY_EXTRAS = ("torch", "onnx", "onnxscript", "safetensors", "transformers", "pyarrow", "metaworld", "zmq", "tensorboard", "websockets", "mcap", "mcap_ros2")
HIDES_PACKAGES = f"""
import importlib.machinery, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {ONLY_BY_EXTRAS} else importlib.machinery.PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Finder()
"""


def test_colcon_test_collects_where_only_the_packages_of_a_ros_workspace_are_installed(tmp_path):
    (tmp_path / "hides_packages.py").write_text(HIDES_PACKAGES, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])}
    command = [sys.executable, "-m", "pytest", "-p", "hides_packages", "-p", "no:cacheprovider", "--collect-only", "-q", str(ROOT / "test")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "test/core/test_action_tokens.py" in done.stdout and "test/ros/test_policy_node.py" in done.stdout
    assert "test/model/" not in done.stdout


def test_console_scripts_exist():
    text = (ROOT / "setup.py").read_text(encoding="utf-8")
    targets = dict(re.findall(r'"(\w+) = (vla_ros\.[\w.]+:\w+)"', text))
    assert set(targets) == {"vla", "vla_policy", "vla_sim"}
    for target in targets.values():
        module, function = target.split(":")
        assert callable(getattr(__import__(module, fromlist=["_"]), function))


@pytest.mark.parametrize("pattern", ["vla_ros/**/*.py", "test/**/*.py", "launch/*.py", "tools/*", ".ci/*", "setup.py", "Makefile"])
def test_every_file_names_its_license(pattern: str):
    tracked = set(subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split())
    files = [path for path in ROOT.glob(pattern) if path.is_file() and str(path.relative_to(ROOT)) in tracked]
    missing = [str(path) for path in files if "SPDX-License-Identifier: Apache-2.0" not in path.read_text(encoding="utf-8")[:400]]
    assert missing == []


@pytest.mark.parametrize("script", ["tools/bootstrap.sh", ".ci/run"])
def test_shell_scripts_parse_and_are_executable(script: str):
    assert subprocess.run(["bash", "-n", str(ROOT / script)], check=False).returncode == 0
    assert (ROOT / script).stat().st_mode & 0o111


def test_bootstrap_refuses_an_unknown_purpose(tmp_path):
    done = subprocess.run(["bash", str(ROOT / "tools" / "bootstrap.sh"), "fly", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "demo or test" in done.stderr
