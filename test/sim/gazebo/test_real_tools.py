# SPDX-License-Identifier: Apache-2.0
"""Gazebo's own tools judge the worlds and meet our transport: ``gz sdf`` of Classic 11, libsdformat and gz-transport of Fortress."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import uuid

import pytest

pytest.importorskip("zmq", reason="needs pyzmq (extra gazebo)")

from vla_ros.sim.gazebo import export
from vla_ros.sim.gazebo.classic_server import gazebo_root
from vla_ros.sim.gazebo.gz_transport import GzNode
from vla_ros.sim.gazebo.messages import sim
from vla_ros.sim.gazebo.ros2_control import controlled_world

pytestmark = pytest.mark.gazebo
WORLDS = sorted(export.FILES.values())


@pytest.fixture(scope="module")
def fortress():
    """Environment in which Fortress's programs run; they are unpacked, not installed."""
    root = gazebo_root() / "opt" / "fortress"
    if not root.is_dir():
        pytest.skip("this machine's suite has no Gazebo Fortress (Debian 12 has its libraries)")
    libraries = f"{root}/usr/lib/x86_64-linux-gnu"
    return {
        **os.environ,
        "ROOT": str(root),
        "LD_LIBRARY_PATH": libraries,
        "SDF_PATH": f"{root}/usr/share/sdformat12",
        "IGN_IP": "127.0.0.1",
    }


@pytest.mark.parametrize("name", WORLDS)
def test_libsdformat_finds_the_world_valid(name, fortress):
    check = "import ctypes, sys; sys.exit(ctypes.CDLL('libsdformat12.so.12').cmdCheck(sys.argv[1].encode()))"
    path = str(export.default_folder() / name)
    done = subprocess.run([sys.executable, "-S", "-c", check, path], env=fortress, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "Valid." in done.stdout and "Error" not in done.stderr, done.stderr


def test_libsdformat_finds_the_world_for_ros2_control_valid(fortress, tmp_path):
    world = (export.default_folder() / "tabletop.sdf").read_text(encoding="utf-8")
    (tmp_path / "controlled.sdf").write_text(controlled_world(world, tmp_path / "controllers.yaml"), encoding="utf-8")
    test_libsdformat_finds_the_world_valid(str(tmp_path / "controlled.sdf"), fortress)


def test_libsdformat_finds_a_broken_world_invalid(fortress, tmp_path):
    """The check above can fail."""
    broken = (
        (export.default_folder() / "tabletop.sdf").read_text(encoding="utf-8").replace("<child>hand_link</child>", "<child>nothing</child>")
    )
    (tmp_path / "broken.sdf").write_text(broken, encoding="utf-8")
    with pytest.raises(AssertionError):
        test_libsdformat_finds_the_world_valid(str(tmp_path / "broken.sdf"), fortress)


def test_gz_sdf_of_classic_finds_its_world_valid():
    root = gazebo_root()
    text = (export.default_folder() / "tabletop_classic.world").read_text(encoding="utf-8")
    file = root / "tmp" / f"{uuid.uuid4().hex}.world"
    file.write_text(text, encoding="utf-8")
    try:
        inside = ["chroot", str(root)] if str(root) != "/" else []
        done = subprocess.run([*inside, "gz", "sdf", "-k", f"/tmp/{file.name}"], capture_output=True, text=True, timeout=60)
    finally:
        file.unlink()
    assert done.returncode == 0 and "Check complete" in done.stdout and "Error" not in done.stdout + done.stderr


def topic_tool(fortress, partition, *arguments):
    program = f"{fortress['ROOT']}/usr/libexec/ignition/transport11/ign-transport-topic"
    environment = {**fortress, "IGN_PARTITION": partition}
    return subprocess.Popen([program, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_what_gazebos_tool_publishes_arrives(fortress):
    partition, came = f"test_{uuid.uuid4().hex}", threading.Event()
    with GzNode(partition, package="ignition.msgs") as node:
        node.subscribe("/x", "Double", lambda message: came.set() if message.data == 1.5 else None)
        for _ in range(5):
            topic_tool(fortress, partition, "-t", "/x", "-m", "ignition.msgs.Double", "-p", "data: 1.5").wait(30)
            if came.wait(0.5):
                return
    pytest.fail("nothing arrived")


def test_gazebos_tool_hears_what_is_published(fortress):
    partition = f"test_{uuid.uuid4().hex}"
    with GzNode(partition, package="ignition.msgs") as node:
        echo = topic_tool(fortress, partition, "-e", "-t", "/y", "-n", "2")
        try:
            node.advertise("/y", "Double")
            node.publish("/y", sim.Double(data=2.5))
            node.publish("/y", sim.Double(data=3.5))
            output, _ = echo.communicate(timeout=30)
        finally:
            echo.kill()
    assert output.split() == ["data:", "2.5", "data:", "3.5"]
