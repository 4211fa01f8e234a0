# SPDX-License-Identifier: Apache-2.0
"""The RViz configuration, the Foxglove layout and view.launch.py name what the nodes really have."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
import yaml

import vla_ros
from vla_ros.core import tabletop
from vla_ros.core.paths import robot_config_path, share_dir

CONFIG = share_dir() / "config"
OWN = {"markers", "plan", "status", "action", "decision", "stop", "resume"}
GRAPH = {"joint_states", "instruction", "diagnostics", "robot_description", *(f"{c.name}/image_raw" for c in tabletop.CAMERAS)}


@pytest.fixture(scope="module")
def sources() -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in (Path(vla_ros.__file__).parent / "ros").glob("*.py"))


def is_known(topic: str, sources: str) -> bool:
    topic = topic.removeprefix("/")
    if topic in GRAPH:
        return True
    own = re.fullmatch(r"vla_policy/(\w+)(/\w+)?", topic)
    return own is not None and own[1] in OWN and (f'"~/{own[1]}"' in sources or f"/{own[1]}" in sources)


def test_rviz_shows_topics_that_exist(sources):
    config = yaml.safe_load((CONFIG / "rviz" / "vla_policy.rviz").read_text(encoding="utf-8"))["Visualization Manager"]
    topics = [d[key]["Value"] for d in config["Displays"] for key in ("Topic", "Description Topic") if key in d]
    assert {"vla_policy/markers", "front/image_raw", "wrist/image_raw"} <= set(topics)
    assert all(is_known(topic, sources) for topic in topics), topics
    assert config["Global Options"]["Fixed Frame"] == tabletop.BASE_FRAME


def test_rviz_shows_every_kind_of_marker():
    markers = (Path(vla_ros.__file__).parent / "ros" / "markers.py").read_text(encoding="utf-8")
    config = yaml.safe_load((CONFIG / "rviz" / "vla_policy.rviz").read_text(encoding="utf-8"))
    (display,) = [d for d in config["Visualization Manager"]["Displays"] if d["Class"].endswith("MarkerArray")]
    assert set(display["Namespaces"]) == set(re.findall(r'self\._(?:marker|text)\("(\w+)"', markers))


def test_rviz_pictures_are_best_effort_like_the_cameras():
    config = yaml.safe_load((CONFIG / "rviz" / "vla_policy.rviz").read_text(encoding="utf-8"))
    images = [d for d in config["Visualization Manager"]["Displays"] if d["Class"].endswith("/Image")]
    assert len(images) == 2 and all(d["Topic"]["Reliability Policy"] == "Best Effort" for d in images)


@pytest.fixture(scope="module")
def layout() -> dict:
    return json.loads((CONFIG / "foxglove" / "vla_policy.json").read_text(encoding="utf-8"))


def leaves(part) -> set[str]:
    return {part} if isinstance(part, str) else leaves(part["first"]) | leaves(part["second"])


def test_foxglove_places_every_panel_once(layout):
    assert leaves(layout["layout"]) == set(layout["configById"])


def test_foxglove_shows_topics_that_exist(layout, sources):
    text = json.dumps(layout["configById"])
    named = set(re.findall(r'"(/[a-z][\w/]*)', text))
    assert named and all(is_known(topic, sources) for topic in named), named
    assert {
        "/front/image_raw",
        "/wrist/image_raw",
        "/vla_policy/plan",
        "/vla_policy/status",
        "/vla_policy/markers",
        "/diagnostics",
    } <= named


def test_foxglove_plots_each_dimension_of_the_action_by_its_name(layout):
    paths = layout["configById"]["Plot!action"]["paths"]
    assert [path["label"] for path in paths] == list(tabletop.ACTION_SPEC.names)
    assert len(layout["configById"]["Plot!joints"]["paths"]) == len(tabletop.JOINT_NAMES)


def test_view_launch_documents_its_arguments_and_finds_its_files():
    path = share_dir() / "launch" / "view.launch.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "DeclareLaunchArgument"]
    arguments = {call.args[0].value: {k.arg: k.value.value for k in call.keywords if k.arg != "choices"} for call in calls}
    assert set(arguments) == {"robot", "namespace", "use_sim_time", "rviz", "foxglove"}
    assert all(len(keywords["description"]) > 10 for keywords in arguments.values())
    assert robot_config_path(arguments["robot"]["default_value"]).with_suffix(".urdf").is_file()
    for file in re.findall(r'"(\w+\.(?:rviz|json))"', path.read_text(encoding="utf-8")):
        assert list(CONFIG.rglob(file)), file
