# SPDX-License-Identifier: Apache-2.0
"""Row 63: who may say what. The policy is checked everywhere; that it is enforced, where SROS2 and a middleware with security are."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import defaultdict
from pathlib import Path

import pytest

from vla_ros.core.paths import share_dir

_POLICY = share_dir() / "config" / "security" / "policy.xml"
_SPEAKER = """
import sys
import rclpy
from std_msgs.msg import String
rclpy.init()
node = rclpy.create_node(sys.argv[1])
print("joined", flush=True)
node.create_publisher(String, "/instruction", 1)
print("may instruct", flush=True)
"""


def allowed(kind):
    """Topic or service name to the enclaves that may ``publish``, ``subscribe``, ``reply`` or ``request`` it."""
    found = defaultdict(set)
    for enclave in ET.parse(_POLICY).getroot().iter("enclave"):
        for group in enclave.iter():
            if group.get(kind) == "ALLOW":
                for name in group:
                    found[name.text].add(enclave.get("path"))
    return found


def test_row_63_only_the_named_participants_may_instruct_command_or_set_parameters():
    publish, request = allowed("publish"), allowed("request")
    assert publish["/command"] == {"/vla_policy"}
    assert publish["/instruction"] == publish["/e_stop"] == {"/operator"}
    assert publish["/joint_states"] == publish["/front/image_raw"] == {"/robot"}
    assert request["/vla_policy/set_parameters"] == request["/vla_policy/set_parameters_atomically"] == {"/administrator"}
    assert request["/vla_policy/change_state"] == {"/administrator"}
    assert request["/vla_policy/resume"] == request["/vla_policy/stop"] == {"/operator"}
    assert not [name for name in (*publish, *request, *allowed("subscribe")) if "*" in name], "no wildcards"


@pytest.mark.ros
def test_the_policy_names_everything_that_the_running_node_uses(make_rig):
    rig = make_rig()
    assert rig.configure() == "inactive"
    node = rig.robot.node
    rig.until(lambda: "vla_policy_worker" in node.get_node_names(), "the worker is discovered")
    used = {"publish": set(), "subscribe": set(), "reply": set()}
    for name in ("vla_policy", "vla_policy_worker"):
        rig.until(lambda n=name: node.get_publisher_names_and_types_by_node(n, "/"), f"{name} is discovered")
        used["publish"] |= {topic for topic, _ in node.get_publisher_names_and_types_by_node(name, "/")}
        used["subscribe"] |= {topic for topic, _ in node.get_subscriber_names_and_types_by_node(name, "/")}
        used["reply"] |= {service for service, _ in node.get_service_names_and_types_by_node(name, "/")}
    for kind, names in used.items():
        permitted = {name for name, enclaves in allowed(kind).items() if "/vla_policy" in enclaves}
        assert names and not names - permitted, (kind, names - permitted)


def has_security():
    """SROS2's tools, and a middleware with its security plugins: Fast DDS has them inside, Cyclone DDS in libraries of their own."""
    folders = [Path(p) for p in os.environ.get("LD_LIBRARY_PATH", "").split(":") if p] + [Path(sys.prefix) / "lib"]
    if os.environ.get("RMW_IMPLEMENTATION") == "rmw_cyclonedds_cpp":
        plugged = any(list(folder.glob("libdds_security_auth.so*")) for folder in folders)
    else:
        libraries = [path for folder in folders for name in ("libfast*dds*.so*", "libfastrtps.so*") for path in folder.glob(name) if path.is_file()]
        plugged = any(b"DDS:Auth:PKI-DH" in path.read_bytes() for path in libraries)
    return shutil.which("ros2") is not None and plugged


@pytest.mark.ros
def test_row_63_a_participant_without_permission_cannot_instruct(domain, tmp_path):
    """Keys are made on the fly. Both join the secured graph; only the operator may instruct."""
    if not has_security():
        pytest.skip("needs the SROS2 tools and a middleware with security plugins")

    def security(*arguments):
        subprocess.run(["ros2", "security", *arguments], check=True, cwd=tmp_path, capture_output=True)

    def speak(name):
        environment = os.environ | {
            "ROS_SECURITY_KEYSTORE": str(tmp_path / "keys"),
            "ROS_SECURITY_ENABLE": "true",
            "ROS_SECURITY_STRATEGY": "Enforce",
            "ROS_SECURITY_ENCLAVE_OVERRIDE": f"/{name}",
        }
        return subprocess.run([sys.executable, "-c", _SPEAKER, name], env=environment, capture_output=True, text=True, timeout=60)

    security("create_keystore", "keys")
    for name in ("operator", "observer"):
        security("create_enclave", "keys", f"/{name}")
        security("create_permission", "keys", f"/{name}", str(_POLICY))
    operator, observer = speak("operator"), speak("observer")
    assert operator.stdout.split("\n")[:2] == ["joined", "may instruct"], operator.stderr
    assert observer.stdout.strip() == "joined" and observer.returncode != 0 and "publisher" in observer.stderr, observer.stderr


@pytest.mark.ros
def test_row_63_where_security_is_demanded_and_the_middleware_has_none_nothing_starts(domain, tmp_path):
    """The packages of PyPI bring a Fast DDS that was built without security: it must refuse, not run open."""
    if has_security():
        pytest.skip("this Fast DDS has security plugins: the test above enforces them")
    enclave = tmp_path / "enclaves" / "vla_policy"
    enclave.mkdir(parents=True)
    for name in ("identity_ca.cert.pem", "cert.pem", "key.pem", "permissions_ca.cert.pem", "governance.p7s", "permissions.p7s"):
        (enclave / name).write_text("never read", encoding="utf-8")
    environment = os.environ | {
        "ROS_SECURITY_KEYSTORE": str(tmp_path),
        "ROS_SECURITY_ENABLE": "true",
        "ROS_SECURITY_STRATEGY": "Enforce",
        "ROS_SECURITY_ENCLAVE_OVERRIDE": "/vla_policy",
    }
    command = [sys.executable, "-m", "vla_ros.ros.run", "--autostart", "false"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0 and "security" in done.stderr.lower(), done.stderr
