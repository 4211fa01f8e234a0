# SPDX-License-Identifier: Apache-2.0
"""gazebo.launch.py and the bridge's topics: they name what the exported world and the nodes have. ``launch`` itself is not on PyPI."""

from __future__ import annotations

import ast
import xml.etree.ElementTree as ET

import pytest
import yaml

from vla_ros.core.paths import share_dir
from vla_ros.core.tabletop import CAMERAS

SHARE = share_dir()
LAUNCH = SHARE / "launch" / "gazebo.launch.py"


def declared():
    tree = ast.parse(LAUNCH.read_text(encoding="utf-8"))
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "DeclareLaunchArgument"]
    return {call.args[0].value: {k.arg: k.value for k in call.keywords} for call in calls}


def test_arguments_are_documented_and_have_defaults():
    arguments = declared()
    assert set(arguments) == {"world", "gui", "seed", "task", "driver", "bridge_config", "controllers"}
    for name, keywords in arguments.items():
        assert "default_value" in keywords and len(keywords["description"].value) > 10, name


def test_parameters_that_it_sets_are_the_simulator_nodes():
    pytest.importorskip("rclpy")
    from vla_ros.ros.parameters import parameter_specs
    from vla_ros.ros.sim_parameters import SimParameters

    names = {spec.name for spec in parameter_specs(SimParameters)}
    (driver,) = [n for n in ast.walk(ast.parse(LAUNCH.read_text())) if isinstance(n, ast.FunctionDef) and n.name == "driver"]
    keys = {key.value for n in ast.walk(driver) if isinstance(n, ast.Dict) for key in n.keys}
    assert keys - names == {"use_sim_time"}


def test_the_bridge_maps_the_worlds_topics_to_the_nodes():
    rows = yaml.safe_load((SHARE / "config" / "gazebo_bridge.yaml").read_text(encoding="utf-8"))
    by_ros_name = {row["ros_topic_name"]: row for row in rows}
    assert set(by_ros_name) == {"/clock"} | {f"{c.name}/{kind}" for c in CAMERAS for kind in ("image_raw", "camera_info")}
    assert all(row["direction"] == "GZ_TO_ROS" for row in rows)
    world = ET.parse(SHARE / "config" / "gazebo" / "tabletop.sdf").getroot().find("world")
    assert by_ros_name["/clock"]["gz_topic_name"] == f"/world/{world.get('name')}/clock"
    sensors = {s.get("name"): s for s in world.iter("sensor")}
    for camera in CAMERAS:
        sensor = sensors[camera.name]
        assert by_ros_name[f"{camera.name}/image_raw"]["gz_topic_name"] == sensor.find("topic").text
        assert by_ros_name[f"{camera.name}/camera_info"]["gz_topic_name"] == sensor.find("camera/camera_info_topic").text


def test_it_loads_where_launch_is_installed():
    pytest.importorskip("launch_ros")
    from launch import LaunchContext
    from launch.launch_description_sources import PythonLaunchDescriptionSource

    description = PythonLaunchDescriptionSource(str(LAUNCH)).get_launch_description(LaunchContext())
    assert {"world", "model", "use_sim_time"} <= {a.name for a in description.get_launch_arguments()}
