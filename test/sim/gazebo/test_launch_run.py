# SPDX-License-Identifier: Apache-2.0
"""``ros2 launch`` itself starts gazebo.launch.py, with recorders in place of the programs: every argument is resolved and arrives."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import yaml

from vla_ros.core.paths import share_dir

pytestmark = pytest.mark.skipif(shutil.which("ros2") is None, reason="needs the ros2 command, which is not on PyPI")
CONFIG = share_dir() / "config"
PROGRAMS = {"ros_gz_bridge": "parameter_bridge", "vla_ros": ("vla_sim", "vla_policy"), "robot_state_publisher": "robot_state_publisher"}
PROGRAMS |= {"controller_manager": "spawner"}
# Writes down its arguments and parameters. Gazebo's one ends when all that are expected have come, which ends the launch.
RECORDER = """#!{python}
import json, os, sys, time
from pathlib import Path
folder, name, arguments = Path(os.environ["RECORDS"]), Path(sys.argv[0]).name, sys.argv[1:]
files = [Path(b).read_text() for a, b in zip(arguments, arguments[1:]) if a == "--params-file"]
if name == "gz":
    files = [Path(arguments[-1]).read_text()]
(folder / (name + ".part")).write_text(json.dumps({{"arguments": arguments, "files": files}}))
(folder / (name + ".part")).rename(folder / (name + ".json"))
deadline = time.monotonic() + 60
while name == "gz" and time.monotonic() < deadline and len(list(folder.glob("*.json"))) < int(os.environ["EXPECTED"]):
    time.sleep(0.02)
"""


@pytest.fixture
def launch(tmp_path):
    """Calls ``ros2 launch`` and returns what each program received: by its name, arguments and parameters."""
    records, prefix = tmp_path / "records", tmp_path / "prefix"
    records.mkdir()
    for package, names in PROGRAMS.items():
        marker = prefix / "share" / "ament_index" / "resource_index" / "packages" / package
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
        for name in [names] if isinstance(names, str) else names:
            _write_recorder(prefix / "lib" / package / name)
    _write_recorder(tmp_path / "bin" / "gz")

    def call(expected, *arguments):
        environment = {
            **os.environ,
            "RECORDS": str(records),
            "EXPECTED": str(expected),
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
            "AMENT_PREFIX_PATH": f"{prefix}:{os.environ.get('AMENT_PREFIX_PATH', '')}",
            "PYTHONPATH": f"{share_dir()}:{os.environ.get('PYTHONPATH', '')}",
            "ROS_LOG_DIR": str(tmp_path / "log"),
            "TMPDIR": str(tmp_path),
        }
        command = ["ros2", "launch", str(share_dir() / "launch" / "gazebo.launch.py"), *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        found = {file.stem: json.loads(file.read_text()) for file in records.glob("*.json")}
        assert done.returncode == 0 and len(found) == expected, done.stdout + done.stderr
        return {name: (record["arguments"], _parameters(record) if name != "gz" else record["files"][0]) for name, record in found.items()}

    return call


def _write_recorder(file: Path):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(RECORDER.format(python=sys.executable), encoding="utf-8")
    file.chmod(0o755)


def _parameters(record):
    merged = {}
    for text in record["files"]:
        for node in yaml.safe_load(text).values():
            merged |= node.get("ros__parameters", {})
    return merged


def test_by_default_a_window_the_bridge_and_our_driver(launch):
    found = launch(4)
    assert set(found) == {"gz", "parameter_bridge", "vla_sim", "vla_policy"}
    assert found["gz"][0] == ["sim", "-r", str(CONFIG / "gazebo" / "tabletop.sdf")]
    assert Path(found["parameter_bridge"][1]["config_file"]).samefile(CONFIG / "gazebo_bridge.yaml")
    driver = found["vla_sim"][1]
    assert driver["simulator"] == "gazebo" and driver["external_cameras"] is True and driver["publish_clock"] is False
    assert found["vla_policy"][1]["use_sim_time"] is True


def test_without_a_window_and_bridge_everything_comes_from_our_driver(launch, tmp_path):
    world = shutil.copy(CONFIG / "gazebo" / "tabletop.sdf", tmp_path / "other.sdf")
    found = launch(3, "gui:=false", "driver:=direct", "seed:=7", "task:=pick up the red cube", f"world:={world}", "namespace:=left")
    assert set(found) == {"gz", "vla_sim", "vla_policy"}
    assert found["gz"][0] == ["sim", "-r", "-s", "--headless-rendering", str(world)]
    driver = found["vla_sim"][1]
    assert driver["external_cameras"] is False and driver["publish_clock"] is True
    assert (driver["seed"], driver["task"]) == (7, "pick up the red cube")
    assert all("__ns:=/left" in found[name][0] for name in ("vla_sim", "vla_policy"))


def test_with_ros2_control_the_arm_is_its_own(launch):
    found = launch(5, "driver:=ros2_control", "namespace:=left")
    assert set(found) == {"gz", "parameter_bridge", "robot_state_publisher", "spawner", "vla_policy"}
    plugins = {plugin.get("name"): plugin for plugin in ET.fromstring(found["gz"][1]).iter("plugin")}
    plugin = plugins["gz_ros2_control::GazeboSimROS2ControlPlugin"]
    assert (
        Path(plugin.find("parameters").text).samefile(CONFIG / "gazebo_controllers.yaml") and plugin.find("ros/namespace").text == "/left"
    )
    assert ET.fromstring(found["robot_state_publisher"][1]["robot_description"]).find("ros2_control") is not None
    assert found["spawner"][0][:2] == ["joint_state_broadcaster", "arm_controller"]
    assert "command:=arm_controller/joint_trajectory" in found["vla_policy"][0]


def test_a_choice_that_is_none_is_refused(launch):
    with pytest.raises(AssertionError, match="driver.*bridge.*direct.*ros2_control"):
        launch(0, "driver:=other")
